"""A small BLIP that says whether an image shows what a prompt says, trained to match images and captions.

Reward models start from it, as ImageReward started from a BLIP that had been trained to match captions. Besides the
single answer of BLIP, here each word is trained to say whether it is true of the image, and each patch what it shows.
This makes training many times faster.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from torch import Tensor, nn

from alignbench.miniature.pretrain.examples import (
    NUM_CAPTIONS,
    PATCH_ANSWERS,
    PATCH_SIZE,
    Example,
    draw_example,
    truths,
)
from alignbench.miniature.pretrain.loop import Metrics, Plan, train
from alignbench.miniature.pretrain.rewards import degraded, normalise
from alignbench.miniature.scenes import BACKGROUNDS, IMAGE_SIZE, STYLES

PLAN = Plan(num_updates=1600, learning_rate=2e-3, muon="encoder", ema_decay=0.995)
BATCH_SIZE = 64  # images an update
WORD_WEIGHT, PATCH_WEIGHT, SCENE_WEIGHT = 2.0, 1.0, 0.3  # of the auxiliary losses; the loss of the score has 1

# initializer_range: BLIP's default, 1e-10, is meant for loading weights, not for training
ARCHITECTURE = {
    "vision": {
        "image_size": IMAGE_SIZE, "patch_size": PATCH_SIZE, "hidden_size": 96, "intermediate_size": 384,
        "num_hidden_layers": 3, "num_attention_heads": 4, "initializer_range": 0.05,
    },
    "text": {
        "hidden_size": 96, "intermediate_size": 384, "num_hidden_layers": 3, "num_attention_heads": 4,
        "max_position_embeddings": 40, "initializer_range": 0.05,
    },
}  # fmt: skip


def build_tokenizer(vocabulary: Path) -> Any:
    """Return the tokenizer of ImageReward on another vocabulary."""
    return instantiate({"_target_": "evaluators.image_reward.bert_tokenizer"}, vocabulary=vocabulary)


def architecture_for(tokenizer: Any) -> dict[str, dict[str, Any]]:
    """Return the configuration of the network for a tokenizer."""
    ids = {"bos_token_id": tokenizer.bos_token_id, "sep_token_id": tokenizer.sep_token_id}
    return ARCHITECTURE | {"text": ARCHITECTURE["text"] | {"vocab_size": len(tokenizer)} | ids}


def build_matching(tokenizer: Any) -> Any:
    """Build the untrained network: an `evaluators.image_reward.ImageRewardNetwork`."""
    return instantiate({"_target_": "evaluators.image_reward.ImageRewardNetwork"}, **architecture_for(tokenizer))


class MatchingTraining(nn.Module):
    """The network with the heads that only training uses.

    Attributes:
        word: from the state of a word, whether the word is true of the image.
        patch: from the state of a patch, which shape it shows and where the shape is, or that there is none.
        scene: from the state of the whole image, its background, its style and its dirt.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        self.word = nn.Linear(ARCHITECTURE["text"]["hidden_size"], 1)
        self.patch = nn.Linear(ARCHITECTURE["vision"]["hidden_size"], sum(map(len, PATCH_ANSWERS)))
        self.scene = nn.Linear(ARCHITECTURE["vision"]["hidden_size"], len(BACKGROUNDS) + len(STYLES) + 4)


def train_matching(network: Any, tokenizer: Any, folder: Path, plan: Plan = PLAN) -> Any:
    """Train the network so that its score is the log-odds of a caption being right in every respect."""
    training = MatchingTraining(network)

    def loss_of(step: int, generator: torch.Generator) -> tuple[Tensor, Metrics]:
        rng = np.random.default_rng([7, step])
        torch.manual_seed(step)  # of the head's dropout, which has no generator of its own
        return matching_loss(training, tokenizer, [draw_example(rng) for _ in range(BATCH_SIZE)], generator)

    train(training, loss_of, plan, folder, "shapes_matching", seed=7)
    return network


def matching_loss(
    training: MatchingTraining, tokenizer: Any, examples: list[Example], generator: torch.Generator
) -> tuple[Tensor, Metrics]:
    """Return the loss of some examples, and its terms as metrics."""
    network = training.network
    pixels = torch.from_numpy(np.stack([one.pixels for one in examples])).permute(0, 3, 1, 2).float() / 127.5 - 1.0
    seen = network.vision(pixel_values=normalise(degraded(pixels, generator))).last_hidden_state
    captions = [caption for one in examples for caption in one.captions]
    ids = tokenizer(captions, padding="longest", return_tensors="pt").input_ids
    read = network.read(seen.repeat_interleave(NUM_CAPTIONS, dim=0), ids)
    scores = network.scored(read)

    met = [met for one in examples for met in one.met]
    right = torch.tensor([float(all(one.values())) for one in met])
    matching = F.binary_cross_entropy_with_logits(scores, right)
    tokens = [tokenizer.convert_ids_to_tokens(row) for row in ids]
    truth = torch.tensor([list(truths(row, one)) for row, one in zip(tokens, met, strict=True)])
    says = truth >= 0
    words = F.binary_cross_entropy_with_logits(training.word(read).squeeze(-1)[says], truth[says])

    answers = training.patch(seen[:, 1:]).flatten(0, 1).split([len(names) for names in PATCH_ANSWERS], dim=1)
    shown = torch.from_numpy(np.stack([one.shown for one in examples])).flatten(0, 1)
    patches = torch.stack([F.cross_entropy(answer, shown[:, i]) for i, answer in enumerate(answers)]).sum()
    background, style, dirt = training.scene(seen[:, 0]).split([len(BACKGROUNDS), len(STYLES), 4], dim=1)
    whole = torch.tensor([one.whole for one in examples])
    scenes = F.cross_entropy(background, whole[:, 0]) + F.cross_entropy(style, whole[:, 1])
    scenes = scenes + F.mse_loss(dirt, torch.from_numpy(np.stack([one.dirt for one in examples])))

    first, second = scores.detach().unflatten(0, (-1, NUM_CAPTIONS))[:, :2].T
    differ = right.unflatten(0, (-1, NUM_CAPTIONS))[:, 1] == 0  # two changes may undo each other
    told_apart = (first > second)[differ].float().mean().item()
    metrics = {"told_apart": told_apart, "matching": matching.item(), "words": words.item(), "patches": patches.item()}
    return matching + WORD_WEIGHT * words + PATCH_WEIGHT * patches + SCENE_WEIGHT * scenes, metrics
