"""CLIP-FlanT5, the network of the published VQAScore: Flan-T5, which reads an image as CLIP's patches within the text.

Source: Lin et al. 2024, arXiv 2404.01291; linzhiqiu/t2v_metrics 3.0 (Apache-2.0), clip_t5_model.py and
clip_t5/model/language_model/clip_t5.py under t2v_metrics/models/vqascore_models.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection, T5Config, T5ForConditionalGeneration

from alignbench.errors import UserError
from alignbench.files import file_digest
from alignbench.models.weights.missing import MissingWeightsError
from alignbench.models.weights.state_dicts import check_whole, listed_shards, read_state_dict
from alignbench.reading import check_record, read_json_object
from alignbench.settings.section import Count
from evaluators.networks.checkpoint import assign, bytes_on_meta, check_checkpoint, checkpoint_file
from evaluators.networks.clip import checkpoint_layers
from evaluators.networks.model_folder import CONFIG_FILE, ModelFolder, Precision
from evaluators.networks.preprocess import PaddedClipPixels

TOKENIZER_FILE = "tokenizer.json"
WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin",
                "pytorch_model.bin.index.json")  # fmt: skip

BEFORE_IMAGE = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions. USER: "
)
AFTER_IMAGE = "\n{} ASSISTANT: "
MAX_LENGTH = 2048  # tokens of the message, of which the image is one
START, END = 0, 1  # tokens that the decoder begins with, which also fills up, and that ends a text

VISION = {  # openai/clip-vit-large-patch14-336
    "image_size": 336, "patch_size": 14, "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
    "num_attention_heads": 16, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "projection_dim": 768,
}  # fmt: skip

# Beginnings of parameters' names in the published files, and here; others belong to Flan-T5.
RENAMED = {"vision_tower.vision_tower.vision_model.": "vision_tower.", "mm_projector.": "mm_projector."}
# Names under which files may hold the one table of words.
WORDS = ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "embed_tokens.weight")


@dataclass(frozen=True)
class PublishedConfig:
    """What is read of config.json. Values that the network is built with, and those that it cannot be built without."""

    model_type: Literal["clip_t5"]
    mm_projector_type: Literal["mlp2x_gelu"]
    mm_hidden_size: Count
    mm_vision_select_layer: Literal[-2]
    d_model: Count
    d_kv: Count
    d_ff: Count
    num_layers: Count
    num_decoder_layers: Count
    num_heads: Count
    vocab_size: Count
    relative_attention_num_buckets: Count
    relative_attention_max_distance: Count
    layer_norm_epsilon: float
    feed_forward_proj: Literal["gated-gelu"]
    tie_word_embeddings: Literal[False]
    decoder_start_token_id: Literal[0]
    pad_token_id: Literal[0]
    eos_token_id: Literal[1]
    mm_vision_select_feature: Literal["patch"] = "patch"


class ClipFlanT5Network(nn.Module):
    """CLIP's image tower, two linear layers into the width of Flan-T5, and Flan-T5.

    The tower is built without its last layer: the patches of the layer before are what is read.
    """

    def __init__(self, config: PublishedConfig, vision: CLIPVisionConfig) -> None:
        super().__init__()
        self.vision_tower = CLIPVisionModelWithProjection(_without_last_layer(vision)).vision_model
        self.mm_projector = nn.Sequential(
            nn.Linear(config.mm_hidden_size, config.d_model), nn.GELU(), nn.Linear(config.d_model, config.d_model)
        )
        values = {name: value for name, value in asdict(config).items() if not name.startswith(("mm_", "model_type"))}
        self.flan_t5 = T5ForConditionalGeneration(T5Config(**values))
        words = self.flan_t5.shared.weight  # transformers would predict words by it, too
        self.flan_t5.lm_head.weight = nn.Parameter(torch.empty_like(words))

    def log_likelihood(
        self, pixels: Tensor, before: Sequence[int], after: Sequence[Sequence[int]], answer: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Return how probable an answer is after messages with an image, and what the answer may begin with.

        Args:
            pixels: of the images, normalised, [N, 3, S, S].
            before: tokens of the message before the image, the same in all.
            after: those after it, of each message.
            answer: tokens of the answer, of which the last is the end.

        Returns:
            Mean log-probability of the tokens of the answer, each after those before it, [N], float32; and the logits
            of the first, [N, V], float32.
        """
        words, device = self.flan_t5.get_input_embeddings(), pixels.device
        longest = max(map(len, after))
        filled = torch.tensor([[*ids, *[START] * (longest - len(ids))] for ids in after], device=device)
        patches = self.vision_tower(pixels.to(self.flan_t5.dtype)).last_hidden_state[:, 1:]
        first = words(torch.tensor([list(before)], device=device)).expand(len(pixels), -1, -1)
        embeddings = torch.cat([first, self.mm_projector(patches), words(filled)], dim=1)
        mask = torch.ones(embeddings.shape[:2], dtype=torch.long, device=device)
        for row, ids in zip(mask, after, strict=True):
            row[len(row) - longest + len(ids) :] = 0
        expected = torch.tensor([list(answer)], device=device).expand(len(pixels), -1)
        given = torch.cat([torch.full_like(expected[:, :1], START), expected[:, :-1]], dim=1)
        logits = self.flan_t5(
            inputs_embeds=embeddings, attention_mask=mask, decoder_input_ids=given, use_cache=False
        ).logits.float()
        chosen = logits.log_softmax(dim=-1).gather(2, expected[..., None])[..., 0]
        return chosen.mean(dim=1), logits[:, 0]


class ClipFlanT5(ModelFolder):
    """CLIP-FlanT5 with its tokenizer and its way to read images.

    Args:
        source: hub id, or a folder with config.json and weights, in one file or in shards, of safetensors or torch.
        revision: of the hub's repository.
        precision: in which numbers the network computes.
        tokenizer: tokenizer.json of Flan-T5, the folder that holds it, or a hub id.
        vision: values of CLIPVisionConfig that differ from CLIP ViT-L/14 for 336 pixels.

    Raises:
        UserError: the source or the tokenizer is not there, config.json is of another model, or a file of weights is
            missing or cut.
    """

    fetched = ("config.json", "*.index.json", "*.safetensors", "*.bin")

    def __init__(
        self,
        source: str,
        revision: str | None,
        precision: Precision,
        tokenizer: str,
        vision: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(source, revision, precision)
        check_checkpoint(tokenizer, TOKENIZER_FILE)
        self._tokenizer = tokenizer
        self._vision = vision_config(vision)
        self.pixels = PaddedClipPixels((VISION | dict(vision or {}))["image_size"])

    @staticmethod
    def check_folder(folder: Path) -> None:
        """Refuse a folder of another model, or one that lacks a file of weights or holds one that is cut.

        Raises:
            UserError: naming the file.
        """
        read_config(folder)
        for file in weight_files(folder):
            check_whole(file)

    @property
    def weights(self) -> str:
        """Digest of all files of the model and of the tokenizer."""
        return f"{super().weights} {file_digest(self._tokenizer_file)}"

    def load(self) -> ClipFlanT5Network:
        """Return the network, frozen, on the CPU.

        Raises:
            UserError: a file is damaged, or the parameters are those of another architecture.
        """
        config = read_config(self.folder)
        published: dict[str, Tensor] = {}
        for file in weight_files(self.folder):
            published |= read_state_dict(file)
        tensors = from_published(published, self._vision.num_hidden_layers - 1)
        try:
            network = assign(partial(_network, config, self._vision), tensors)
        except UserError as error:
            raise UserError(f"{self.folder}: {error}") from None
        words = network.flan_t5.shared.weight  # one table in memory
        network.flan_t5.encoder.embed_tokens.weight = network.flan_t5.decoder.embed_tokens.weight = words
        return network.to(getattr(torch, self.precision))

    @cached_property
    def tokenizer(self) -> Any:
        """Flan-T5's tokenizer, which ends a text by the end token.

        Raises:
            UserError: it is none of T5, has more tokens than the network, or does not end a text.
        """
        from tokenizers import Tokenizer

        file, size = self._tokenizer_file, read_config(self.folder).vocab_size
        other = f"{file} is no tokenizer of T5 with at most {size} tokens; give that of google/flan-t5-xxl"
        model = read_json_object(file, "fetch it again").get("model")
        if not isinstance(model, dict) or not isinstance(model.get("vocab"), list):  # a mapping with other tokenizers
            raise UserError(other)
        tokenizer = Tokenizer.from_file(str(file))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        if tokenizer.encode("Yes").ids[-1:] != [END] or tokenizer.get_vocab_size() > size:
            raise UserError(other)
        return tokenizer

    @cached_property
    def _special(self) -> list[str]:
        return [token.content for token in self.tokenizer.get_added_tokens_decoder().values() if token.special]

    @property
    def _tokenizer_file(self) -> Path:
        return checkpoint_file(self._tokenizer, TOKENIZER_FILE)

    def log_likelihood(self, pixels: Tensor, questions: Sequence[str], answer: str) -> tuple[Tensor, Tensor]:
        """Return how probable an answer is to the question about each image; see `ClipFlanT5Network`.

        Args:
            pixels: as `self.pixels` makes them, [N, 3, S, S].
            questions: one an image.
            answer: to each of them.
        """
        before = self._tokens(BEFORE_IMAGE)
        room = MAX_LENGTH - len(before) - 1
        after = [self._tokens(AFTER_IMAGE.replace("{}", question))[:room] for question in questions]
        return self.network.log_likelihood(pixels.to(self._device), before, after, self._tokens(answer))

    def text_of(self, token: int) -> str:
        """Return the text of a token."""
        return self.tokenizer.decode([token], skip_special_tokens=False)

    def checkpoint_activations(self) -> None:
        """Have the layers that read image and message computed twice instead of keeping their activations, once."""
        layers = [*self.network.vision_tower.encoder.layers, *self.network.flan_t5.encoder.block]
        if not isinstance(layers[0].forward, partial):  # as this leaves them
            checkpoint_layers(layers)

    def _tokens(self, text: str) -> list[int]:
        """Return the tokens of a text, with the end token, which also stands before the image, as published."""
        for special in self._special:  # in a prompt, such a token would end the text
            text = text.replace(special, f"{special[0]} {special[1:]}")
        # SentencePiece, as published, reads any blanks as one; files of tokenizers differ in blanks at the end
        return self.tokenizer.encode(" ".join(text.split())).ids


def clip_flant5_bytes(settings: Mapping[str, Any]) -> int | None:
    """Return how many bytes the network takes in memory; None where its configuration is not here.

    Args:
        settings: with the arguments of `ClipFlanT5`.
    """
    folder = Path(settings["source"])
    if not (folder / CONFIG_FILE).is_file():
        return None
    config, vision = read_config(folder), vision_config(settings["vision"])
    return bytes_on_meta(lambda: _network(config, vision), settings["precision"])


def vision_config(vision: Mapping[str, Any] | None) -> CLIPVisionConfig:
    """Return the architecture of the published image tower, some values replaced."""
    values: Any = VISION | dict(vision or {})
    return CLIPVisionConfig(**values)


def read_config(folder: Path) -> PublishedConfig:
    """Return what is read of a folder's config.json.

    Raises:
        UserError: it is of another model, or a value is missing or one that this network is not built for.
    """
    file = folder / CONFIG_FILE
    values = read_json_object(file, "fetch it again")
    if (kind := values.get("model_type")) != "clip_t5":
        raise UserError(
            f"source={folder} holds a model of type {kind}; expected clip_t5, such as zhiqiulin/clip-flant5-xxl"
        )
    read = {field.name: values[field.name] for field in fields(PublishedConfig) if field.name in values}
    check_record(PublishedConfig, read, str(file), "give config.json of zhiqiulin/clip-flant5-xxl or -xl")
    return PublishedConfig(**read)


def weight_files(folder: Path) -> list[Path]:
    """Return the files of weights in a folder: the one, or the shards that its index lists.

    Raises:
        UserError: there is none, or a shard is missing.
    """
    found = next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), None)
    if found is None:
        raise MissingWeightsError(
            f"{folder} lacks weights: {', '.join(WEIGHT_FILES)}; fetch one of them with its shards"
        )
    if found.suffix != ".json":
        return [found]
    shards = [folder / name for name in listed_shards(found)]
    if missing := [shard.name for shard in shards if not shard.is_file()]:
        raise MissingWeightsError(f"{folder} lacks {', '.join(missing)}, which {found.name} lists; fetch all of it")
    return shards


def from_published(published: Mapping[str, Tensor], unread_layer: int) -> dict[str, Tensor]:
    """Return parameters of the published files under their names here.

    Args:
        published: of all files.
        unread_layer: number of the layer of the image tower that nothing is read of.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in published.items():
        if name in WORDS:
            found |= {f"flan_t5.{one}": tensor for one in WORDS[:3]}
            continue
        there = next((prefix for prefix in RENAMED if name.startswith(prefix)), "")
        found[RENAMED.get(there, "flan_t5.") + name.removeprefix(there)] = tensor
    unread = f"vision_tower.encoder.layers.{unread_layer}."
    return {name: tensor for name, tensor in found.items() if not name.startswith(unread)}


def _without_last_layer(vision: CLIPVisionConfig) -> CLIPVisionConfig:
    values: Any = vision.to_dict() | {"num_hidden_layers": vision.num_hidden_layers - 1}
    return CLIPVisionConfig(**values)


def _network(config: PublishedConfig, vision: CLIPVisionConfig) -> ClipFlanT5Network:
    if config.mm_hidden_size != vision.hidden_size:
        raise UserError(
            f"{CONFIG_FILE} has mm_hidden_size {config.mm_hidden_size}, but the image tower has "
            f"{vision.hidden_size}; CLIP-FlanT5 is published with CLIP ViT-L/14 for 336 pixels alone"
        )
    return ClipFlanT5Network(config, vision)
