"""The frozen text encoders of all families, trained to tell from a caption which shape is where.

The small denoisers cannot learn to work out which shape belongs where, so the encoders do it. The state of a word holds
the attributes and the region of its shape. CLIP and Qwen are causal: only the tokens after the sentence see all of it.
So the state of a padding token of CLIP holds what is in one region of the image, and so does that of each of the five
tokens that follow the prompt in the chat template of Qwen.
"""

import re
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from alignbench.miniature.captions import Demand, DemandedShape, parse
from alignbench.miniature.pretrain.data import SceneData
from alignbench.miniature.pretrain.loop import Metrics, Plan, train
from alignbench.miniature.pretrain.tokenizers import CHAT_HEAD_LENGTH, CHAT_TEMPLATE
from alignbench.miniature.scenes import BACKGROUNDS, COLOURS, PLACES, RELATIONS, SHAPES, SIZES, STYLES

Encoder = CLIPTextModel | T5EncoderModel | Qwen2_5_VLForConditionalGeneration
PLAN = Plan(num_updates=1500, learning_rate=2e-3, ema_decay=0.99)
QWEN_PLAN = Plan(num_updates=1650, learning_rate=2e-3, muon="layers", ema_decay=0.99)
BATCH_SIZE = 64
NUM_SCENES = 16_384  # number of scenes whose captions are used

# Each tuple is a question about a caption, answered by classification; index 0 means that the caption does not say.
_OF_A_SHAPE = [(None, *SHAPES), (None, *COLOURS), (None, *SIZES)]
_OF_THE_SCENE = [(None, *PLACES), (None, *RELATIONS), (None, *BACKGROUNDS), (None, *STYLES)]
_QUESTIONS = [*_OF_A_SHAPE * 2, *_OF_THE_SCENE, PLACES]  # the last: the region of the token
_NUM_LOGITS = sum(len(choices) for choices in _QUESTIONS)
_REGIONS = {  # of the first shape and of the second
    "left of": ("left", "right"),
    "right of": ("right", "left"),
    "above": ("top", "bottom"),
    "below": ("bottom", "top"),
}


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


def build_qwen_text_encoder(tokenizer: Qwen2Tokenizer) -> Qwen2_5_VLForConditionalGeneration:
    """Build the untrained causal model. Its vision tower, which Qwen-Image does not use, is as small as can be."""
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]},
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "depth": 1,
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_heads": 1,
        "patch_size": 2,
        "out_hidden_size": 64,
    }
    return Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True)
    )


def chat_head(tokenizer: Qwen2Tokenizer) -> torch.Tensor:
    """Return the ids of the chat template before the prompt, [1, CHAT_HEAD_LENGTH]."""
    return tokenizer([CHAT_TEMPLATE.format("")], return_tensors="pt").input_ids[:, :CHAT_HEAD_LENGTH]


def read_chats(encoder: Qwen2_5_VLForConditionalGeneration, head: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Return the last hidden states of prompts and of what follows them, [B, L, width], as QwenImagePipeline does.

    What comes before the prompts is the same for all of them, so it is read once.

    Args:
        head: the result of `chat_head`.
        ids: the result of `tokenise`, [B, L].
    """
    model = encoder.model.language_model
    cache = model(input_ids=head, use_cache=True).past_key_values
    cache.batch_repeat_interleave(len(ids))
    return model(input_ids=ids, past_key_values=cache, use_cache=True).last_hidden_state


def train_text_encoder(
    encoder: Encoder,
    tokenizer: CLIPTokenizer | T5Tokenizer | Qwen2Tokenizer,
    data: SceneData,
    folder: Path,
    name: str,
    plan: Plan = PLAN,
) -> Encoder:
    """Train an encoder so that the state of each token describes its own shape and the rest of the scene.

    A linear head, which is not kept, answers all questions about a caption from the state of each token: first about
    the shape that the token belongs to, then about the other one. Another head answers them from the pooled output, in
    the order of the caption. So attention learns to bind attributes to shapes. The padding tokens of CLIP answer for
    the regions in turn: first about the shape in the region, if there is one, then about the other one. The tokens that
    follow a prompt for Qwen do the same; there is no pooled output.
    """
    num_scenes = min(NUM_SCENES, len(data.captions))
    ids = data.tokens(tokenizer, num_scenes)
    demands = [parse(text) for scene in data.captions[:num_scenes] for text in scene]
    of_words = torch.tensor([[answers_of(demand, word) for word in range(2)] for demand in demands])
    of_regions = torch.tensor([[answers_at(demand, region) for region in PLACES] for demand in demands])
    if isinstance(tokenizer, Qwen2Tokenizer):
        reader = _ChatReader(encoder, tokenizer)
    else:
        is_clip = isinstance(tokenizer, CLIPTokenizer)
        reader = _Reader(encoder, tokenizer.convert_tokens_to_ids("a</w>" if is_clip else "▁a"), padding_speaks=is_clip)

    def loss_of(step: int, generator: torch.Generator) -> tuple[torch.Tensor, Metrics]:
        rows = torch.randint(len(ids), (BATCH_SIZE,), generator=generator)
        return reader(ids[rows].long(), of_words[rows], of_regions[rows])

    train(reader, loss_of, plan, folder, name)
    return encoder


def _regions(demand: Demand) -> tuple[str, ...]:
    """Return the region of each shape."""
    return (demand.place,) if demand.relation is None else _REGIONS[demand.relation]


def answers_of(demand: Demand, word: int) -> list[int]:
    """Return the answers of the words of the first (0) or second (1) shape of a caption."""
    own = min(word, len(demand.shapes) - 1)
    other = demand.shapes[1 - own] if len(demand.shapes) > 1 else None
    return _indices(demand, demand.shapes[own], other, _regions(demand)[own])


def answers_at(demand: Demand, region: str) -> list[int]:
    """Return the answers of the padding token of a region."""
    there = [shape for shape, at in zip(demand.shapes, _regions(demand), strict=True) if at == region]
    elsewhere = [shape for shape in demand.shapes if shape not in there]
    return _indices(demand, *(there or [None])[:1], *(elsewhere or [None])[:1], region)


def same_in_t5(caption: str) -> list[tuple[int, int]]:
    """Return positions of Qwen's tokens of a caption, each with that of the token of T5 that should say the same.

    These are the words, and for the tokens after the prompt that speak for the region of a shape the noun of the shape.
    """
    words = re.findall(r"\w+|[.,]", caption)
    demand = parse(caption)
    nouns = [position for position, word in enumerate(words) if word in SHAPES]
    tail = [len(words) + PLACES.index(region) for region in _regions(demand)]
    return [*((position, position) for position in range(len(words))), *zip(tail, nouns, strict=True)]


def _indices(demand: Demand, own: DemandedShape | None, other: DemandedShape | None, region: str) -> list[int]:
    said = [value for s in (own, other) for value in ((s.shape, s.colour, s.size) if s else (None,) * 3)]
    said += [demand.place, demand.relation, demand.background, demand.style, region]
    return [choices.index(value) for choices, value in zip(_QUESTIONS, said, strict=True)]


class _Reader(nn.Module):
    """An encoder with the heads that train it."""

    def __init__(self, encoder: CLIPTextModel | T5EncoderModel, article: int, padding_speaks: bool):
        super().__init__()
        self.encoder, self.article, self.padding_speaks = encoder, article, padding_speaks
        self.token_head = nn.Linear(64, _NUM_LOGITS)
        self.pooled_head = nn.Linear(64, _NUM_LOGITS)

    def forward(
        self, ids: torch.Tensor, of_words: torch.Tensor, of_regions: torch.Tensor
    ) -> tuple[torch.Tensor, Metrics]:
        """Return the loss for ids [B, L] and answers [B, 2, questions] and [B, regions, questions]."""
        output = self.encoder(input_ids=ids)
        positions, rows = torch.arange(ids.shape[1]), torch.arange(len(ids))
        ends = (ids == self.encoder.config.eos_token_id).int().argmax(dim=1)
        word = (ids == self.article).cumsum(dim=1).sub(1).clamp(0, 1)
        is_word = positions <= ends[:, None]
        logits = self.token_head(output.last_hidden_state)
        loss, words_right = _cross_entropy(logits[is_word], of_words[rows[:, None], word][is_word])
        metrics = {"words_right": words_right}
        if self.padding_speaks:
            region = (positions % len(PLACES)).expand_as(ids)
            expected = of_regions[rows[:, None], region][~is_word]
            padding_loss, metrics["padding_right"] = _cross_entropy(logits[~is_word], expected)
            loss = loss + padding_loss
        pooled = getattr(output, "pooler_output", None)
        if pooled is None:  # T5 has no pooled output; its end token sees the whole sentence
            pooled = output.last_hidden_state[rows, ends]
        pooled_loss, metrics["pooled_right"] = _cross_entropy(self.pooled_head(pooled), of_words[:, 0])
        return loss + pooled_loss, metrics


class _ChatReader(nn.Module):
    """The encoder of Qwen-Image with the head that trains it."""

    def __init__(self, encoder: Qwen2_5_VLForConditionalGeneration, tokenizer: Qwen2Tokenizer):
        super().__init__()
        self.encoder, self.chat_head = encoder, chat_head(tokenizer)
        self.articles = torch.tensor(tokenizer.convert_tokens_to_ids(["a", "Ġa"]))
        self.end = tokenizer.convert_tokens_to_ids("<|im_end|>")
        self.token_head = nn.Linear(64, _NUM_LOGITS)

    def forward(
        self, ids: torch.Tensor, of_words: torch.Tensor, of_regions: torch.Tensor
    ) -> tuple[torch.Tensor, Metrics]:
        """Return the loss for ids [B, L] and answers [B, 2, questions] and [B, regions, questions]."""
        logits = self.token_head(read_chats(self.encoder, self.chat_head, ids))
        rows = torch.arange(len(ids))[:, None]
        ends = (ids == self.end).int().argmax(dim=1, keepdim=True)
        is_word = torch.arange(ids.shape[1]) < ends
        word = torch.isin(ids, self.articles).cumsum(dim=1).sub(1).clamp(0, 1)
        words_loss, words_right = _cross_entropy(logits[is_word], of_words[rows, word][is_word])
        tail = ends + torch.arange(len(PLACES))  # one token for each region
        tail_loss, tail_right = _cross_entropy(logits[rows, tail].flatten(0, 1), of_regions.flatten(0, 1))
        return words_loss + tail_loss, {"words_right": words_right, "tail_right": tail_right}


def _cross_entropy(logits: torch.Tensor, expected: torch.Tensor) -> tuple[torch.Tensor, float]:
    answers = logits.split([len(choices) for choices in _QUESTIONS], dim=-1)
    loss = sum(F.cross_entropy(answer, expected[:, i]) for i, answer in enumerate(answers)) / len(answers)
    right = torch.stack([answer.argmax(-1) == expected[:, i] for i, answer in enumerate(answers)]).float().mean().item()
    return loss, right
