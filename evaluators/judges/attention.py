"""Judges in which the words of the prompt look at the image: attention over the tokens of a frozen CLIP."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from alignbench.errors import UserError
from alignbench.evaluator import Evaluator
from alignbench.reward_model import RewardModelRecipe
from evaluators.clip_reward import ClipReward
from evaluators.judges.head import FrozenClipRewardModel, check_clip

HEAD_WIDTH = 16  # of the attention's heads


class AttentionRewardModel(FrozenClipRewardModel):
    """Blocks in which the prompt's tokens attend to each other and to the image's, as in BLIP; then a perceptron.

    Pooled features tell whether a word of the prompt is somewhere in the image; tokens also, where.
    """

    kind = "attention"

    @staticmethod
    def make_head(clip: Any, width: int, num_blocks: int) -> nn.Module:
        vision, text = clip.vision_config, clip.text_config
        num_patches = (vision.image_size // vision.patch_size) ** 2
        return AttentionHead(vision.hidden_size, num_patches + 1, text.hidden_size, width, num_blocks)

    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Return token ids, [N, L], L being the most tokens of a prompt; -1 where there is none."""
        ids = self.clip.tokenize(prompts).cpu()
        length = torch.arange(ids.shape[1])
        ends = (ids == ids.amax(dim=1, keepdim=True)).int().argmax(dim=1)  # the end token has the largest id
        ids = ids.masked_fill(length > ends[:, None], -1)
        text_config: Any = self.start.config.text_config
        return nn.functional.pad(ids, (0, text_config.max_position_embeddings - ids.shape[1]), value=-1)

    def image_features(self, inputs: Tensor) -> Tensor:
        """Return image tokens, [N, T, D], that of the whole image first."""
        dtype = next(self.start.vision_model.parameters()).dtype
        return self.start.vision_model(pixel_values=inputs.to(dtype)).last_hidden_state.float()

    @torch.no_grad()
    def text_features(self, encoded: Tensor) -> Tensor:
        """Return tokens of prompts, [N, L, D]; zeros where there is none."""
        there = encoded >= 0
        num = int(there.any(dim=0).sum())
        hidden = self.start.text_model(input_ids=encoded[:, :num].clamp(min=0)).last_hidden_state.float()
        hidden = hidden.masked_fill(~there[:, :num, None], 0.0)
        return nn.functional.pad(hidden, (0, 0, 0, encoded.shape[1] - num))

    def compare(self, images: Tensor, texts: Tensor) -> Tensor:
        return self.log_scale.exp() * self.head(images, texts)


class AttentionHead(nn.Module):
    """From tokens to a score.

    Args:
        image_width, num_image_tokens: of the image's tokens.
        text_width: of the prompt's tokens.
        width: of the blocks; a multiple of 16.
        num_blocks: how many follow each other.
    """

    def __init__(self, image_width: int, num_image_tokens: int, text_width: int, width: int, num_blocks: int) -> None:
        super().__init__()
        self.image = nn.Sequential(nn.LayerNorm(image_width), nn.Linear(image_width, width))
        self.text = nn.Sequential(nn.LayerNorm(text_width), nn.Linear(text_width, width))
        self.places = nn.Parameter(0.5 * torch.randn(num_image_tokens, width))
        self.query = nn.Parameter(0.02 * torch.randn(width))  # asks for what no word asks for
        self.blocks = nn.ModuleList(AttentionBlock(width) for _ in range(num_blocks))
        self.score = nn.Sequential(nn.LayerNorm(2 * width), nn.Linear(2 * width, width), nn.GELU(), nn.Linear(width, 1))

    def forward(self, images: Tensor, texts: Tensor) -> Tensor:
        """Return scores, [N], of image tokens [N, T, D] and prompt tokens [N, L, E], zeros where there is none."""
        there = texts.ne(0).any(dim=-1)
        num = int(there.any(dim=0).sum())
        texts, there = texts[:, :num], there[:, :num]
        seen = self.image(images) + self.places
        query = self.query.expand(len(texts), 1, -1)
        words = torch.cat([query, self.text(texts)], dim=1)
        absent = nn.functional.pad(~there, (1, 0), value=False)
        for block in self.blocks:
            words = block(words, seen, absent)
        total = (words[:, 1:] * there[..., None]).sum(dim=1)
        mean = total / there.sum(dim=1, keepdim=True)
        return self.score(torch.cat([words[:, 0], mean], dim=-1)).squeeze(-1)


class AttentionBlock(nn.Module):
    """The prompt's tokens attend to each other, then to the image's, then each is transformed."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.own = nn.MultiheadAttention(width, width // HEAD_WIDTH, batch_first=True)
        self.cross = nn.MultiheadAttention(width, width // HEAD_WIDTH, batch_first=True)
        self.transform = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, words: Tensor, seen: Tensor, absent: Tensor) -> Tensor:
        """Return new words, [N, L, D], of words, image tokens [N, T, D], and which words there are not, bool [N, L]."""
        normed = self.norms[0](words)
        words = words + self.own(normed, normed, normed, key_padding_mask=absent, need_weights=False)[0]
        words = words + self.cross(self.norms[1](words), seen, seen, need_weights=False)[0]
        return words + self.transform(self.norms[2](words))


class FrozenAttention(RewardModelRecipe):
    """Attention over the tokens of a frozen CLIP.

    Args:
        start: the CLIP.
        width: of the blocks, a multiple of 16.
        num_blocks: how many follow each other.

    Raises:
        UserError: the evaluator is no CLIP with both towers, or a value is impossible.
    """

    kind = AttentionRewardModel.kind

    def __init__(self, start: Evaluator, width: int, num_blocks: int) -> None:
        self.start: ClipReward = check_clip(self.kind, start)
        if not isinstance(width, int) or width < HEAD_WIDTH or width % HEAD_WIDTH:
            raise UserError(f"judge.width={width} must be a multiple of {HEAD_WIDTH}")
        if not isinstance(num_blocks, int) or num_blocks < 1:
            raise UserError(f"judge.num_blocks={num_blocks} must be a whole number of at least 1")
        self.options = {"width": width, "num_blocks": num_blocks}

    def make(self) -> AttentionRewardModel:
        return AttentionRewardModel(self.start, self.options).train()
