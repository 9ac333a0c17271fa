"""The two frozen text encoders that all families share, made by reading the attributes off captions."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer

from alignbench.miniature.captions import parse
from alignbench.miniature.pretrain.data import SceneData
from alignbench.miniature.pretrain.loop import Metrics, Plan, train
from alignbench.miniature.scenes import BACKGROUNDS, COLOURS, PLACES, RELATIONS, SHAPES, SIZES, STYLES

PLAN = Plan(num_updates=1500, learning_rate=2e-3, ema_decay=0.99)
BATCH_SIZE = 64
NUM_SCENES = 16_384  # captions of so many scenes are read

# What a caption can say, one classification each; index 0 means that it does not say it.
_OF_A_SHAPE = [(None, *SHAPES), (None, *COLOURS), (None, *SIZES)]
_OF_THE_SCENE = [(None, *PLACES), (None, *RELATIONS), (None, *BACKGROUNDS), (None, *STYLES)]
_QUESTIONS = _OF_A_SHAPE * 2 + _OF_THE_SCENE


def build_clip_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Build the untrained causal encoder with a pooled output at the end token."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        projection_dim=64,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def build_t5_encoder(tokenizer: T5Tokenizer) -> T5EncoderModel:
    """Build the untrained encoder that sees a whole sentence at every token."""
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=64,
        d_kv=16,
        d_ff=128,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        is_encoder_decoder=False,
        tie_word_embeddings=False,
    )
    return T5EncoderModel(config)


def train_text_encoder(
    encoder: CLIPTextModel | T5EncoderModel,
    tokenizer: CLIPTokenizer | T5Tokenizer,
    data: SceneData,
    folder: Path,
    name: str,
    plan: Plan = PLAN,
) -> CLIPTextModel | T5EncoderModel:
    """Train an encoder so that each token knows the shape it belongs to and the scene around it.

    A throwaway linear head answers all questions about a caption from each of its tokens, with the shape that the token
    belongs to named first, and from the pooled output in the order of the caption. Attention then binds attributes.
    """
    num_scenes = min(NUM_SCENES, len(data.captions))
    ids = data.tokens(tokenizer, num_scenes)
    answers = torch.tensor([_answers(text) for scene in data.captions[:num_scenes] for text in scene])
    article = tokenizer.convert_tokens_to_ids("a</w>" if isinstance(tokenizer, CLIPTokenizer) else "▁a")
    reader = _Reader(encoder)

    def loss_of(step: int, generator: torch.Generator) -> tuple[torch.Tensor, Metrics]:
        rows = torch.randint(len(ids), (BATCH_SIZE,), generator=generator)
        return reader(ids[rows].long(), answers[rows], article)

    train(reader, loss_of, plan, folder, name)
    return encoder


def _answers(caption: str) -> list[int]:
    demand = parse(caption)
    first, second = (*demand.shapes, None)[:2]
    said = [value for s in (first, second) for value in ((s.shape, s.colour, s.size) if s else (None,) * 3)]
    said += [demand.place, demand.relation, demand.background, demand.style]
    return [choices.index(value) for choices, value in zip(_QUESTIONS, said, strict=True)]


class _Reader(nn.Module):
    """An encoder with the heads that it is trained through."""

    def __init__(self, encoder: CLIPTextModel | T5EncoderModel):
        super().__init__()
        self.encoder = encoder
        num_logits = sum(len(choices) for choices in _QUESTIONS)
        self.token_head = nn.Linear(64, num_logits)
        self.pooled_head = nn.Linear(64, num_logits)

    def forward(self, ids: torch.Tensor, answers: torch.Tensor, article: int) -> tuple[torch.Tensor, Metrics]:
        """Return the loss for ids [B, L] and answers [B, questions]."""
        output = self.encoder(input_ids=ids)
        ends = (ids == self.encoder.config.eos_token_id).int().argmax(dim=1)
        inside = torch.arange(ids.shape[1]) <= ends[:, None]
        in_second = ((ids == article).cumsum(dim=1) == 2)[inside]
        rows = torch.arange(len(ids))[:, None].expand_as(ids)[inside]
        swapped = answers[:, [3, 4, 5, 0, 1, 2, *range(6, len(_QUESTIONS))]]
        expected = torch.where(in_second[:, None], swapped[rows], answers[rows])
        token_loss, token_accuracy = _cross_entropy(self.token_head(output.last_hidden_state[inside]), expected)
        pooled = getattr(output, "pooler_output", None)
        if pooled is None:  # T5 has no pooled output; its end token sees the whole sentence
            pooled = output.last_hidden_state[torch.arange(len(ids)), ends]
        pooled_loss, pooled_accuracy = _cross_entropy(self.pooled_head(pooled), answers)
        return token_loss + pooled_loss, {"tokens_right": token_accuracy, "pooled_right": pooled_accuracy}


def _cross_entropy(logits: torch.Tensor, expected: torch.Tensor) -> tuple[torch.Tensor, float]:
    parts = logits.split([len(choices) for choices in _QUESTIONS], dim=-1)
    loss = sum(F.cross_entropy(part, expected[:, i]) for i, part in enumerate(parts)) / len(parts)
    right = torch.stack([part.argmax(-1) == expected[:, i] for i, part in enumerate(parts)]).float().mean().item()
    return loss, right
