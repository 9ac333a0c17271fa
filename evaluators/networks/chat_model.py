"""Vision-language models that transformers knows, such as Qwen3-VL, asked in their own chat template."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import torch
from PIL import Image
from torch import Tensor

from alignbench.errors import UserError
from alignbench.reading import read_json_object
from evaluators.networks.checkpoint import bytes_on_meta
from evaluators.networks.model_folder import CONFIG_FILE, ModelFolder, Precision

CLIP_T5 = "clip_t5"  # model_type of CLIP-FlanT5, which transformers has no class for

_loaded: "WeakValueDictionary[tuple[str, str | None, Precision], ChatModel]" = WeakValueDictionary()


class ChatModel(ModelFolder):
    """A vision-language model, of which the logits of the next token are read; nothing is generated.

    The logits are those of the network itself, without the penalties that a generation config may add.

    Args:
        source: hub id, or a folder with config.json, weights and the files of the processor.
        revision: of the hub's repository.
        precision: in which numbers the network computes.

    Raises:
        UserError: the source is not there or no vision-language model.
    """

    fetched = ("*.json", "*.safetensors", "*.txt", "*.jinja")

    @staticmethod
    def check_folder(folder: Path) -> None:
        """Refuse a folder of a model that transformers does not know as one that reads images and writes text.

        Raises:
            UserError: naming what it is.
        """
        from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

        kind = read_json_object(folder / CONFIG_FILE).get("model_type")
        if kind == CLIP_T5:
            raise UserError(f"source={folder} holds CLIP-FlanT5; score with the evaluator vqascore_clip_flant5 instead")
        if kind not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
            raise UserError(
                f"source={folder} holds a model of type {kind}; expected one that reads images and writes text, such "
                "as Qwen3-VL"
            )

    def load(self) -> Any:
        """Return the model, frozen, on the CPU."""
        from transformers import AutoModelForImageTextToText

        settings: Any = {"dtype": getattr(torch, self.precision), "use_safetensors": True, "trust_remote_code": False}
        network: Any = AutoModelForImageTextToText.from_pretrained(self.folder, **settings)
        return network.requires_grad_(False).eval()

    @cached_property
    def processor(self) -> Any:
        """What turns pictures and text into the network's inputs.

        Raises:
            UserError: it has no chat template.
        """
        from transformers import AutoProcessor

        processor = AutoProcessor.from_pretrained(self.folder, trust_remote_code=False)
        if processor.chat_template is None:
            raise UserError(f"source={self.source} has no chat template, so it cannot be asked; give a chat model")
        processor.tokenizer.padding_side = "left"  # so that the next token is the last one in every row
        return processor

    def inputs(self, messages: Sequence[Sequence[str | None]], images: Sequence[Sequence[Image.Image]]) -> Any:
        """Return what the network reads: for each message of the user, tokens and pixels.

        Args:
            messages: the parts of each: texts, and None where an image stands.
            images: of each message, in the order of their places.
        """
        chats = [self.processor.apply_chat_template(self._chat(parts), add_generation_prompt=True)
                 for parts in messages]  # fmt: skip
        return self.processor(text=chats, images=list(map(list, images)), padding=True, return_tensors="pt")

    def next_logits(self, inputs: Any) -> Tensor:
        """Return the logits of the next token of each message, [N, V], float32, on the device."""
        # layers that are computed twice for a gradient would find their keys in a cache
        return self.network(**inputs.to(self._device), logits_to_keep=1, use_cache=False).logits[:, -1].float()

    def first_token(self, text: str) -> int:
        """Return the id of the token that begins a text."""
        return self.processor.tokenizer.encode(text, add_special_tokens=False)[0]

    def token(self, text: str) -> int | None:
        """Return the id of the token that is a text; None where it takes several."""
        ids = self.processor.tokenizer.encode(text, add_special_tokens=False)
        return ids[0] if len(ids) == 1 else None

    def text_of(self, token: int) -> str:
        """Return the text of a token."""
        return self.processor.tokenizer.decode([token])

    def _chat(self, parts: Sequence[str | None]) -> list[dict[str, Any]]:
        content = [
            {"type": "image"} if part is None else {"type": "text", "text": self._harmless(part)} for part in parts
        ]
        return [{"role": "user", "content": content}]

    def _harmless(self, text: str) -> str:
        """Return a text in which nothing is read as a special token, which would end the message or be an image."""
        of_pictures = (getattr(self.processor, name, None) for name in ("image_token", "video_token"))
        for token in filter(None, (*self.processor.tokenizer.all_special_tokens, *of_pictures)):
            text = text.replace(token, f"{token[0]} {token[1:]}")
        return text


def chat_model(source: str, revision: str | None, precision: Precision) -> ChatModel:
    """Return a model; those who ask alike get the same one, whose network is in memory once.

    Raises:
        UserError: as `ChatModel`.
    """
    key = (str(Path(source).resolve()) if Path(source).exists() else source, revision, precision)
    model = _loaded.get(key)
    if model is None:
        model = _loaded[key] = ChatModel(source, revision, precision)
    return model


def chat_model_bytes(settings: Mapping[str, Any]) -> int | None:
    """Return how many bytes the network takes in memory; None where its configuration is not here.

    Args:
        settings: with the arguments of `ChatModel`.
    """
    folder = Path(settings["source"])
    if not (folder / CONFIG_FILE).is_file():
        return None
    from transformers import AutoConfig, AutoModelForImageTextToText

    ChatModel.check_folder(folder)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    return bytes_on_meta(lambda: AutoModelForImageTextToText.from_config(config), settings["precision"])
