"""The reward models: a CLIP trained on scenes and captions, and a copy fine-tuned on simulated preferences."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from alignbench.miniature.annotators import Population, features
from alignbench.miniature.candidates import candidate, with_fault
from alignbench.miniature.captions import parse, prompts
from alignbench.miniature.pretrain.data import CAPTIONS_PER_SCENE, SceneData, tokenise
from alignbench.miniature.pretrain.loop import Metrics, Plan, generator_at, train
from alignbench.miniature.reading import read
from alignbench.miniature.scenes import IMAGE_SIZE, STYLES

CLIP_PLAN = Plan(num_updates=2000, learning_rate=1e-3, ema_decay=0.995)
PREFERENCE_PLAN = Plan(num_updates=450, learning_rate=3e-4, ema_decay=0.99)
BATCH_SIZE = 48
STYLE_SHARE = 0.5  # share of captions that name the style, so that the model understands style words
NUM_TOKENS = 20  # the longest caption has 18; a causal encoder does not need the padding after it
NUM_PAIRS = 3072
FAULT_SHARE, DIRT_SHARE = 0.4, 0.2
PAIRS_PER_UPDATE = 32
MAX_LOGIT_SCALE = 4.605  # log 100, as in CLIP


def build_clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    """Build the untrained model, with patches of 8 x 8 pixels; its tokenizer is the shared one."""
    config = CLIPConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 64,
            "intermediate_size": 256,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": tokenizer.model_max_length,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={
            "image_size": IMAGE_SIZE,
            "patch_size": 8,
            "hidden_size": 96,
            "intermediate_size": 384,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
        },
        projection_dim=64,
    )
    return CLIPModel(config)


def normalise(pixels: torch.Tensor) -> torch.Tensor:
    """Turn pixels in -1..1 into CLIP's inputs."""
    mean, deviation = torch.tensor(OPENAI_CLIP_MEAN), torch.tensor(OPENAI_CLIP_STD)
    return (pixels * 0.5 + 0.5 - mean[:, None, None]) / deviation[:, None, None]


def train_clip(
    clip: CLIPModel, tokenizer: CLIPTokenizer, data: SceneData, folder: Path, plan: Plan = CLIP_PLAN
) -> CLIPModel:
    """Train contrastively against the other captions of a batch and against captions that are wrong in one respect.

    All styles are shown equally often, whatever their share of the data.
    """
    styles = np.array([STYLES.index(parse(captions[-1]).style) for captions in data.captions])
    by_style = [torch.from_numpy(np.flatnonzero(styles == number)) for number in range(len(STYLES))]

    def loss_of(step: int, generator: torch.Generator) -> tuple[torch.Tensor, Metrics]:
        rng = np.random.default_rng([5, step])
        draws = [torch.randint(len(rows), (BATCH_SIZE // len(STYLES),), generator=generator) for rows in by_style]
        indices = torch.cat([rows[draw] for rows, draw in zip(by_style, draws, strict=True)])
        kinds = np.where(rng.random(BATCH_SIZE) < STYLE_SHARE, CAPTIONS_PER_SCENE, 0)
        captions = [data.captions[i][k] for i, k in zip(indices.tolist(), kinds, strict=True)]
        wrong = [_wrong_caption(caption, rng) for caption in captions]
        images = _embed_images(clip, degraded(data.pixels(indices), generator))
        texts = _embed_texts(clip, tokenizer, captions + wrong)
        logits = clip.logit_scale.clamp(max=MAX_LOGIT_SCALE).exp() * images @ texts.T
        own = torch.arange(BATCH_SIZE)
        loss = F.cross_entropy(logits, own) + F.cross_entropy(logits[:, :BATCH_SIZE].T, own)
        told_apart = (logits[own, own] > logits[own, own + BATCH_SIZE]).float().mean().item()
        return loss / 2.0, {"told_apart": told_apart, "logit_scale": clip.logit_scale.exp().item()}

    return train(clip, loss_of, plan, folder, "shapes_clip", seed=5)


def _wrong_caption(caption: str, rng: np.random.Generator) -> str:
    demand = parse(caption)
    if demand.style and rng.random() < 0.5:
        return str(replace(demand, style=str(rng.choice([style for style in STYLES if style != demand.style]))))
    return str(with_fault(demand, rng))


def degraded(pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Add a little blur and grain to pixels, as decoded images have."""
    blurred = F.avg_pool2d(pixels, 3, stride=1, padding=1, count_include_pad=False)
    share = 0.6 * torch.rand(len(pixels), 1, 1, 1, generator=generator)
    grain = 0.04 * torch.rand(len(pixels), 1, 1, 1, generator=generator)
    return pixels + share * (blurred - pixels) + grain * torch.randn(pixels.shape, generator=generator)


def _embed_images(clip: CLIPModel, pixels: torch.Tensor) -> torch.Tensor:
    return F.normalize(clip.get_image_features(pixel_values=normalise(pixels)).pooler_output, dim=-1)


def _embed_texts(clip: CLIPModel, tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    ids = tokenise(texts, tokenizer)[:, :NUM_TOKENS]
    return F.normalize(clip.get_text_features(input_ids=ids).pooler_output, dim=-1)


def make_pairs(path: Path, num_pairs: int = NUM_PAIRS) -> None:
    """Write pairs of images for prompts of the train split, with the exact probability that the first is preferred."""
    if path.exists():
        return
    population, rng = Population(), np.random.default_rng(6)
    asked = prompts("train", num_pairs, seed=6)
    images = np.empty((num_pairs, 2, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    labels = np.empty(num_pairs, np.float32)
    for number, prompt in enumerate(asked):
        images[number] = [candidate(parse(prompt), rng, FAULT_SHARE, DIRT_SHARE) for _ in range(2)]
        labels[number] = population.preference_probability(*(features(read(image), prompt) for image in images[number]))
        if (number + 1) % 512 == 0:
            print(f"pairs: {number + 1} of {num_pairs}", flush=True)
    partial = path.with_name("partial.npz")
    np.savez(partial, images=images, labels=labels, prompts=asked)
    partial.replace(path)


def train_preference(
    clip: CLIPModel, tokenizer: CLIPTokenizer, pairs_path: Path, folder: Path, plan: Plan = PREFERENCE_PLAN
) -> CLIPModel:
    """Fine-tune a trained CLIP so that the difference of two scores is the log-odds that the first is preferred.

    The last eighth of the pairs is held out; the accuracy on it is printed at the end.

    Source: Kirstain et al. 2023 (PickScore), two-way softmax over the scores of both images.
    """
    pairs = np.load(pairs_path)
    images, labels, asked = pairs["images"], torch.from_numpy(pairs["labels"]), pairs["prompts"].tolist()
    num_train = len(labels) * 7 // 8

    def margins(rows: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        pixels = torch.from_numpy(images[rows.numpy()]).flatten(0, 1).permute(0, 3, 1, 2).float() / 127.5 - 1.0
        embedded = _embed_images(clip, degraded(pixels, generator)).unflatten(0, (-1, 2))
        texts = _embed_texts(clip, tokenizer, [asked[row] for row in rows])
        scores = clip.logit_scale.clamp(max=MAX_LOGIT_SCALE).exp() * torch.einsum("bkd,bd->bk", embedded, texts)
        return scores[:, 0] - scores[:, 1]

    def loss_of(step: int, generator: torch.Generator) -> tuple[torch.Tensor, Metrics]:
        rows = torch.randint(num_train, (PAIRS_PER_UPDATE,), generator=generator)
        margin = margins(rows, generator)
        agrees = ((margin > 0) == (labels[rows] > 0.5)).float().mean().item()
        return F.binary_cross_entropy_with_logits(margin, labels[rows]), {"agrees": agrees}

    train(clip, loss_of, plan, folder, "shapes_preference", seed=6)
    rows = torch.arange(num_train, len(labels))
    with torch.no_grad():
        margin = torch.cat([margins(some, generator_at(6, -1)) for some in rows.split(64)])
    agrees = ((margin > 0) == (labels[rows] > 0.5)).float().mean()
    print(f"shapes_preference: agrees with the majority on {agrees:.3f} of {len(rows)} held-out pairs", flush=True)
    return clip
