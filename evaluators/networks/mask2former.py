"""Mask2Former as a detector: pictures in, objects with scores, boxes and masks out.

Sources: Cheng et al. 2022, arXiv 2112.01527; for preprocessing and detections, mmdet's configuration
mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco and its maskformer_fusion_head.py.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation

from alignbench.errors import UserError
from alignbench.models.weights.state_dicts import listed, read_state_dict

SHORT_SIDE, LONG_SIDE, MULTIPLE = 800, 1333, 32  # pixels of the input
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # ImageNet's, in levels of 8 bits
MAX_DETECTIONS = 100
MASKED_ABOVE = 0.3  # objects with a lower score keep no mask

# Names in mmdet, and in the files of transformers; applied one after the other.
SWIN, PIXELS = "model.pixel_level_module.encoder", "model.pixel_level_module.decoder"
QUERIES = "model.transformer_module"
RENAMED = (
    (r"^backbone\.patch_embed\.projection\.", f"{SWIN}.embeddings.patch_embeddings.projection."),
    (r"^backbone\.patch_embed\.norm\.", f"{SWIN}.embeddings.norm."),
    (r"^backbone\.stages\.", f"{SWIN}.encoder.layers."),
    *((rf"^backbone\.norm{stage}\.", f"{SWIN}.hidden_states_norms.stage{stage + 1}.") for stage in range(4)),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.attn\.w_msa\.relative_position_bias_table$", ".attention.self.relative_position_bias_table"),
    (r"\.attn\.w_msa\.proj\.", ".attention.output.dense."),
    (r"(\.blocks\.\d+)\.ffn\.layers\.0\.0\.", r"\1.intermediate.dense."),
    (r"(\.blocks\.\d+)\.ffn\.layers\.1\.", r"\1.output.dense."),
    (r"^panoptic_head\.pixel_decoder\.(.*\d+)\.attentions\.0\.", rf"{PIXELS}.\1.self_attn."),
    (r"^panoptic_head\.pixel_decoder\.(.*\d+)\.norms\.0\.", rf"{PIXELS}.\1.self_attn_layer_norm."),
    (r"^panoptic_head\.pixel_decoder\.(.*\d+)\.norms\.1\.", rf"{PIXELS}.\1.final_layer_norm."),
    (r"^panoptic_head\.pixel_decoder\.input_convs\.", f"{PIXELS}.input_projections."),
    (r"^panoptic_head\.pixel_decoder\.lateral_convs\.0\.", f"{PIXELS}.adapter_1."),
    (r"^panoptic_head\.pixel_decoder\.output_convs\.0\.", f"{PIXELS}.layer_1."),
    (r"^panoptic_head\.pixel_decoder\.mask_feature\.", f"{PIXELS}.mask_projection."),
    (r"^panoptic_head\.pixel_decoder\.level_encoding\.weight$", f"{PIXELS}.level_embed"),
    (r"^panoptic_head\.pixel_decoder\.", f"{PIXELS}."),
    (r"\.conv\.", ".0."),
    (r"\.gn\.", ".1."),
    (r"^panoptic_head\.transformer_decoder\.post_norm\.", f"{QUERIES}.decoder.layernorm."),
    (r"^panoptic_head\.transformer_decoder\.", f"{QUERIES}.decoder."),
    (r"\.attentions\.0\.attn\.", ".cross_attn."),
    (r"\.attentions\.1\.attn\.", ".self_attn."),
    (r"\.norms\.0\.", ".cross_attn_layer_norm."),
    (r"\.norms\.1\.", ".self_attn_layer_norm."),
    (r"\.norms\.2\.", ".final_layer_norm."),
    (r"\.ffns\.0\.layers\.0\.0\.", ".fc1."),
    (r"\.ffns\.0\.layers\.1\.", ".fc2."),
    (r"^panoptic_head\.query_embed\.", f"{QUERIES}.queries_embedder."),
    (r"^panoptic_head\.query_feat\.", f"{QUERIES}.queries_features."),
    (r"^panoptic_head\.level_embed\.", f"{QUERIES}.level_embed."),
    (r"^panoptic_head\.cls_embed\.", "class_predictor."),
    *(
        (rf"^panoptic_head\.mask_embed\.{2 * layer}\.", f"{QUERIES}.decoder.mask_predictor.mask_embedder.{layer}.0.")
        for layer in range(3)
    ),
)
# Matrices that mmdet keeps in one piece: the end of the name, and those of its parts.
STACKED = (
    (r"\.attn\.w_msa\.qkv\.(weight|bias)$", tuple(rf".attention.self.{part}.\1" for part in ("query", "key", "value"))),
    (r"\.self_attn\.in_proj_(weight|bias)$", tuple(rf".self_attn.{part}_proj.\1" for part in "qkv")),
)
# Not read when it detects: the weights of the loss in training, and a norm that transformers adds to the backbone.
NOT_READ = re.compile(r"^criterion\.|^model\.pixel_level_module\.encoder\.(swin\.)?layernorm\.")


@dataclass(frozen=True)
class DetectedObject:
    """An object in a picture.

    Attributes:
        label: number of its class.
        score: probability of the class times the mean probability of the pixels of its mask, 0..1.
        box: left, top, right and bottom of its mask in pixels of the picture, far ends exclusive.
        mask: which pixels within the box are its own, [height, width], bool; None where the score is at most 0.3.
    """

    label: int
    score: float
    box: tuple[int, int, int, int]
    mask: np.ndarray | None = None


# ---- weights


def swin_small() -> Mask2FormerConfig:
    """Return the architecture of the instance detectors with a Swin-S that learned COCO's 80 classes."""
    backbone = {
        "model_type": "swin",
        "embed_dim": 96,
        "depths": [2, 2, 18, 2],
        "num_heads": [3, 6, 12, 24],
        "window_size": 7,
        "out_features": ["stage1", "stage2", "stage3", "stage4"],
    }
    return Mask2FormerConfig.from_dict({"backbone_config": backbone, "num_labels": 80})


def load_mask2former(file: Path, config: Mask2FormerConfig) -> Mask2FormerForUniversalSegmentation:
    """Return the network with the weights of a file in the layout of mmdet or of transformers, frozen, float32.

    Raises:
        UserError: the file is damaged, or its weights are of another network.
    """
    loaded: Any = Mask2FormerForUniversalSegmentation.from_pretrained(
        None,
        config=config,
        state_dict=to_transformers(read_state_dict(file)),
        ignore_mismatched_sizes=True,  # they are refused below, with all other faults
        output_loading_info=True,
    )
    network, found = loaded
    faults = [
        listed("missing", (key for key in found["missing_keys"] if not NOT_READ.search(key))),
        listed("left over", (key for key in found["unexpected_keys"] if not NOT_READ.search(key))),
        listed("of another shape", (key for key, *_ in found["mismatched_keys"])),
    ]
    if told := "; ".join(filter(None, faults)):
        raise UserError(f"the weights in {file} do not fit this Mask2Former; {told}; give the published file")
    return network.float().requires_grad_(False).eval()


def to_transformers(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights in the layout of the files of transformers; such as have it already are passed on.

    mmdet keeps queries, keys and values in one matrix, and where Swin merges four patches it has their features
    interleaved and the second and third patch exchanged.
    """
    if not any(key.startswith("panoptic_head.") for key in state_dict):
        return dict(state_dict)
    converted = {}
    for published, tensor in state_dict.items():
        key = published
        if key.endswith(".relative_position_index"):  # of the window alone; transformers counts it anew
            continue
        if ".downsample." in key:
            tensor = in_order_of_patches(tensor)
        for pattern, new in RENAMED:
            key = re.sub(pattern, new, key)
        for pattern, parts in STACKED:
            if re.search(pattern, key):
                names = [re.sub(pattern, part, key) for part in parts]
                converted |= dict(zip(names, tensor.chunk(3), strict=True))
                break
        else:
            converted[key] = tensor
    return converted


def in_order_of_patches(merged: Tensor) -> Tensor:
    """Return what is multiplied with merged patches, [..., 4 C], in the order of the published Swin.

    mmdet's order is that of `nn.Unfold`: by feature, then the patches row by row. Swin's is by patch, column by column.
    """
    by_feature = merged.unflatten(-1, (-1, 4))
    return by_feature[..., [0, 2, 1, 3]].transpose(-1, -2).flatten(-2).contiguous()


# ---- detection


class Mask2FormerDetector:
    """Finds objects in pictures, each picture alone, so that no other changes its scores.

    Args:
        network: frozen.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    @torch.no_grad()
    def __call__(self, picture: Image.Image) -> list[DetectedObject]:
        """Return the 100 most confident detections in an RGB picture, by falling score of their class."""
        device = next(self.network.parameters()).device
        pixels, inner = network_input(picture)
        output: Any = self.network(pixel_values=pixels.to(device))
        size = (picture.height, picture.width)
        padded = (pixels.shape[-2], pixels.shape[-1])
        return detections(output.class_queries_logits[0], output.masks_queries_logits[0], padded, inner, size)


def network_input(picture: Image.Image) -> tuple[Tensor, tuple[int, int]]:
    """Return normalised pixels, [1, 3, H, W], and how many rows and columns of them are the picture.

    The short side becomes 800 pixels, or as many as leave the long side at most 1333; bilinear without antialiasing and
    rounded to 8 bits, as OpenCV does. Rows and columns of zeros follow up to multiples of 32.
    """
    levels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float()
    height, width = levels.shape[-2:]
    scale = min(SHORT_SIDE / min(height, width), LONG_SIDE / max(height, width))
    inner = (int(height * scale + 0.5), int(width * scale + 0.5))
    levels = F.interpolate(levels, size=inner, mode="bilinear", align_corners=False).round()
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    below, right = (-side % MULTIPLE for side in inner)
    return F.pad((levels - mean) / std, (0, right, 0, below)), inner


def detections(
    class_logits: Tensor, mask_logits: Tensor, padded: Sequence[int], inner: Sequence[int], size: Sequence[int]
) -> list[DetectedObject]:
    """Return the most confident pairs of a query and a class as objects; one query may appear under several classes.

    Args:
        class_logits: [Q, K + 1]; the last is of no object.
        mask_logits: [Q, h, w], of a padded input.
        padded, inner: rows and columns of the input, and of the picture in it.
        size: rows and columns of the picture.
    """
    probabilities = class_logits.softmax(dim=-1)[:, :-1]
    num_classes = probabilities.shape[1]
    best, pairs = probabilities.flatten().topk(min(MAX_DETECTIONS, probabilities.numel()))
    queries, rows = (pairs // num_classes).unique(return_inverse=True)
    logits = F.interpolate(mask_logits[queries, None], size=tuple(padded), mode="bilinear", align_corners=False)
    logits = logits[..., : inner[0], : inner[1]]
    logits = F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)[:, 0]
    masks = logits > 0
    areas = masks.flatten(1).sum(dim=1)
    certainties = (logits.sigmoid() * masks).flatten(1).sum(dim=1) / areas.clamp(min=1)
    boxes = [_extent(mask) for mask in masks.cpu().numpy()]
    scores = (best * certainties[rows]).tolist()
    found = []
    for score, label, row in zip(scores, (pairs % num_classes).tolist(), rows.tolist(), strict=True):
        left, top, right, bottom = boxes[row]
        mask = masks[row, top:bottom, left:right].cpu().numpy() if score > MASKED_ABOVE else None
        found.append(DetectedObject(label, score, boxes[row], mask))
    return found


def _extent(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of a mask, far ends exclusive; zeros for an empty one."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return 0, 0, 0, 0
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
