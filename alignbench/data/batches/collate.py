"""Make batches of samples: each sample with its index and crop, encoded and put together as the method asks."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from alignbench.batch import GeneratedPairBatch, ImageBatch, LabelledBatch, PairBatch, PromptBatch
from alignbench.context import Context
from alignbench.crop import CropSpec
from alignbench.data.batches.encode import Encoder
from alignbench.data.batches.sampler import SampleRef
from alignbench.data.source import PromptSample, TrainingImage, images_of, with_same_crop
from alignbench.data.storage.tensor_store import Entry
from alignbench.errors import UserError
from alignbench.method import Method

Item = tuple[int, Any]  # global index and sample, of the kind that a batch needs


class Indexed(Dataset):
    """The samples of a view, read by `SampleRef` and returned with their global index.

    Args:
        decodes: says whether the pixels of an image should be decoded here, in the process that reads data; None
            decodes none of them here.
        crop_of: returns the crop of a sample's images; None leaves them without a crop of their own.
    """

    def __init__(
        self,
        view: Sequence[PromptSample],
        decodes: Callable[[TrainingImage], bool] | None = None,
        crop_of: Callable[[SampleRef], CropSpec] | None = None,
    ) -> None:
        self.view = view
        self.decodes = decodes
        self.crop_of = crop_of

    def __len__(self) -> int:
        return len(self.view)

    def __getitem__(self, ref: SampleRef) -> tuple[int, PromptSample]:
        index, position = ref
        sample = self.view[position]
        if self.crop_of is not None:
            sample = with_same_crop(sample, self.crop_of(ref))
        if self.decodes is not None:
            for image in filter(self.decodes, images_of(sample)):
                _ = image.pixels
        return index, sample


def collate(
    items: Sequence[Item],
    method: Method,
    encoder: Encoder,
    context: Context,
    scores: Mapping[tuple[str, str], float] | None = None,
    encode: bool = True,
) -> PromptBatch:
    """Encode samples and return them as a batch of the method's `batch_type`.

    With probability `method.prompt_dropout` a sample's conditioning is that of the empty prompt. There is one draw for
    each sample, so both images of a pair lose their prompt together. `prompts` keeps the text.

    Args:
        scores: scores of the images of pairs, by prompt and key of the image.
        encode: whether networks may be called for what is neither in memory nor in a cache.

    Raises:
        NotStoredError: if they may not, and something is in neither.
    """
    index = torch.tensor([i for i, _ in items], dtype=torch.int64)
    samples = [sample for _, sample in items]
    texts = [sample.prompt for sample in samples]
    without_prompt = (context.uniform(index, "prompt_dropout") < method.prompt_dropout).tolist()
    given = ["" if blank else text for text, blank in zip(texts, without_prompt, strict=True)]
    conditioning = encoder.prompts(given, encode)

    def scores_of(images: list[TrainingImage]) -> Tensor | None:
        if scores is None:
            return None
        return torch.tensor([scores[text, image.key] for text, image in zip(texts, images, strict=True)])

    kind = method.batch_type
    if issubclass(kind, PairBatch):
        winners, losers = [sample.image_w for sample in samples], [sample.image_l for sample in samples]
        encoded = encoder.images([*winners, *losers], encode)
        latents_w, latents_l = encoder.latents(encoded, index, context).chunk(2)
        pairs = PairBatch(
            index,
            texts,
            encoder.with_crops(conditioning, winners, encoded[: len(winners)]),
            latents_w=latents_w,
            latents_l=latents_l,
            probability_w=torch.tensor([sample.probability_w for sample in samples], dtype=torch.float32),
            score_w=scores_of(winners),
            score_l=scores_of(losers),
            time_ids_l=encoder.with_crops(conditioning, losers, encoded[len(winners) :]).time_ids,
        )
        if kind is PairBatch:
            return pairs
        _refuse_other_sizes([*winners, *losers], encoded, encoder.model.resolution)
        shape = latents_w.shape[1:]
        noise_w = torch.stack([sample.noise_w.draw(shape) for sample in samples])
        noise_l = torch.stack([sample.noise_l.draw(shape) for sample in samples])
        return GeneratedPairBatch(**vars(pairs), noise_w=noise_w, noise_l=noise_l)
    if kind in (LabelledBatch, ImageBatch):
        images = [sample.image for sample in samples]
        encoded = encoder.images(images, encode)
        conditioning = encoder.with_crops(conditioning, images, encoded)
        latents = encoder.latents(encoded, index, context)
        if kind is ImageBatch:
            return ImageBatch(index, texts, conditioning, latents)
        desirable = torch.tensor([sample.desirable for sample in samples])
        return LabelledBatch(index, texts, conditioning, latents, desirable)
    return PromptBatch(index, texts, conditioning)


def _refuse_other_sizes(images: Sequence[TrainingImage], encoded: Sequence[Entry], resolution: int) -> None:
    """Refuse images that training would resize: what their noise became is the image at its own size.

    Raises:
        UserError: naming one of them.
    """
    for image, entry in zip(images, encoded, strict=True):
        height, width = entry["size"].tolist()
        if (height, width) != (resolution, resolution):
            raise UserError(
                f"{image.key} has {width}x{height} pixels and would be trained at model.resolution={resolution}, where "
                "it has another initial noise; set model.resolution to the side of the images, or make others with "
                "sampling.resolution"
            )
