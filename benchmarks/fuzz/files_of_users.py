"""Readers of what users bring: lists, tables, archives, pictures and weights, each with valid files to begin with."""

import io
import json
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import torch
from PIL import Image
from pyarrow import parquet
from safetensors.torch import save_file

from alignbench.data.existing_images.lists import read_image_list
from alignbench.data.prompts import read_prompts
from alignbench.data.sources.captions import read_captions
from alignbench.data.sources.hpdv2 import HPDv2
from alignbench.data.sources.imagerewarddb import ImageRewardDB
from alignbench.data.sources.kto_csv import read_labels
from alignbench.data.sources.local import read_pairs
from alignbench.data.sources.pickapic import PickAPic
from alignbench.data.sources.table_source import Contents
from alignbench.data.sources.webdataset import read_shards
from alignbench.data.storage import parquet_images
from alignbench.data.storage.image_store import UnusableImageError
from alignbench.files import write_json, write_text
from alignbench.images import ImageError, decoded, read_header, scorable
from alignbench.models.weights.find_policy import find_policy
from alignbench.models.weights.loading import read_index
from alignbench.models.weights.policy_files import read_policy
from alignbench.models.weights.state_dicts import listed_shards, read_state_dict
from alignbench.settings.data import PairSettings
from alignbench.store.checkpoint_files import read_state
from benchmarks.fuzz.reader import Reader

# ---- lists of text

ROWS = [
    {"prompt": "a red cat", "image_w": "0.png", "image_l": "1.png", "probability_w": 0.9},
    {"prompt": "a dog, naïve", "image_0": "0.png", "image_1": "2.png", "label_0": 0.5},
    {"prompt": "two", "images": ["0.png", "1.png", "2.png"], "scores": [0.1, 0.9, None]},
    {"prompt": "three", "images": ["0.png", "1.png"], "ranks": [1, 2]},
]


def write_images(folder: Path) -> None:
    for number in range(3):
        Image.new("RGB", (16, 16), (80 * number, 0, 0)).save(folder / f"{number}.png")


def _lists(name: str, content: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        write_images(folder)
        write_text(folder / name, content)

    return make


def _lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def texts() -> Iterator[Reader]:
    prompts = [{"prompt_id": f"p{i}", "prompt": f"a cat {i}", "group": "animals"} for i in range(4)]
    table = 'prompt_id,prompt,group\np0,"a cat, red",animals\np1,a dog,animals\n'
    label_table = 'file_name,caption,label\n0.png,a,1\n1.png,"b, c",exclusive_lose\n'
    pairs = 'prompt,image_w,image_l,probability_w\na cat,0.png,1.png,0.9\n"a, dog",1.png,2.png,\n'
    labels = [
        {"file_name": "0.png", "caption": "a", "label": 1},
        {"file_name": "1.png", "caption": "b", "label": False},
    ]
    captions = [{"file_name": f"{i}.png", "text": f"caption {i}"} for i in range(3)]
    listed = [{"file": f"{i}.png", "prompt": f"text {i}", "prompt_id": i, "group": "g"} for i in range(3)]
    hpd = [{"prompt": "a", "image_path": ["0.png", "1.png"], "human_preference": [1, 0]},
           {"prompt": "b", "file_path": ["0.png", "1.png", "2.png"], "rank": [2, 1, 3]}]  # fmt: skip
    for name, content, read in (
        ("prompts.txt", "a cat\n\na dog, naïve\r\nlast", read_prompts),
        ("prompts.jsonl", _lines(prompts), read_prompts),
        ("prompts.csv", table, read_prompts),
        ("pairs.jsonl", _lines(ROWS), lambda file: _all_of(read_pairs(file))),
        ("pairs.csv", pairs, lambda file: _all_of(read_pairs(file))),
        ("labels.jsonl", _lines(labels), lambda file: _all_of(read_labels(file))),
        ("labels.csv", label_table, lambda file: _all_of(read_labels(file))),
        ("labels.tsv", label_table.replace('"b, c"', "b").replace(",", "\t"), lambda file: _all_of(read_labels(file))),
        ("metadata.jsonl", _lines(captions), lambda file: _all_of(read_captions(file))),
        ("images.jsonl", _lines(listed), read_image_list),
        ("images.json", json.dumps(listed), read_image_list),
        ("images.csv", "file,prompt\n0.png,a\n1.png,b\n", read_image_list),
    ):  # fmt: skip
        yield Reader(name, name, _lists(name, content), lambda folder, name=name, read=read: read(folder / name))

    def make_hpd(folder: Path) -> None:
        (folder / "train").mkdir()
        write_images(folder / "train")
        write_text(folder / "train.json", json.dumps(hpd))

    yield Reader(
        "hpdv2 list", "train.json", make_hpd, lambda folder: _all_of(_source(HPDv2, folder, part="train").read())
    )


def _source(kind: Any, folder: Path, **options: Any) -> Any:
    return kind("fuzz", str(folder), **options, **PairSettings.defaults())


def _all_of(contents: Contents) -> None:
    """Read every image of a data set, too; those that cannot be used are counted by the program."""
    assert contents.store.identity
    assert contents.store.state
    for number in set(contents.table.images.ravel().tolist()):
        with suppress(UnusableImageError):
            contents.store.image(number).decode()


# ---- tables and archives


def _png(colour: int = 90) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (16, 16), (colour, 0, 0)).save(file, "PNG")
    return file.getvalue()


def _pickapic() -> pyarrow.Table:
    return pyarrow.table(
        {
            "jpg_0": [_png(i) for i in range(6)],
            "jpg_1": [_png(100 + i) for i in range(6)],
            "label_0": [1.0, 0.0, 0.5, 1.0, None, 0.0],
            "has_label": [True, True, True, False, None, True],
            "caption": ["a", "b", "naïve", "d", None, "f"],
            "image_0_uid": [f"u{i}" for i in range(6)],
            "image_1_uid": [f"v{i}" for i in range(6)],
        }
    )


def _arrow(folder: Path) -> None:
    table = _pickapic()
    with pyarrow.OSFile(str(folder / "data.arrow"), "wb") as file, pyarrow.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)


def _tar(folder: Path) -> None:
    with tarfile.open(folder / "a.tar", "w") as tar:
        for number in range(3):
            fields = {"jpg_0.jpg": _png(), "jpg_1.jpg": _png(5), "original_prompt.txt": b"a cat", "label_0.txt": b"1"}
            if number == 2:
                fields = {
                    "0.png": _png(),
                    "1.png": _png(5),
                    "json": json.dumps({"caption": "b", "label_0": 0}).encode(),
                }
            for name, content in fields.items():
                info = tarfile.TarInfo(f"x/{number}.{name}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def _rewards(folder: Path) -> None:
    write_images(folder)
    table = {
        "image_path": [f"{i}.png" for i in range(3)],
        "prompt_id": ["a", "a", "a"],
        "prompt": ["p"] * 3,
        "rank": [1, 2, 3],
    }
    parquet.write_table(pyarrow.table(table), folder / "metadata-train.parquet")


def tables() -> Iterator[Reader]:
    def pick(folder: Path) -> None:
        parquet_images._mapped.cache_clear()  # the file is another one each time
        parquet_images._kept.groups.clear()
        parquet_images._kept.sizes.clear()
        _all_of(_source(PickAPic, folder, part=None, revision=None, window_mib=1).read())

    yield Reader(
        "pickapic parquet",
        "data.parquet",
        lambda folder: parquet.write_table(_pickapic(), folder / "data.parquet", row_group_size=3),
        pick,
    )
    yield Reader("pickapic arrow", "data.arrow", _arrow, pick)
    yield Reader(
        "imagerewarddb parquet",
        "metadata-train.parquet",
        _rewards,
        lambda folder: _all_of(_source(ImageRewardDB, folder, part="train", grade="rank").read()),
    )
    yield Reader("tar shard", "a.tar", _tar, lambda folder: _all_of(read_shards(str(folder), 2, Counter())))


# ---- pictures


def _picture(kind: str, mode: str, **options: Any) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        pixels = np.arange(24 * 24 * 3, dtype=np.uint32).reshape(24, 24, 3).astype(np.uint8)
        Image.fromarray(pixels).convert(mode).save(folder / "picture", kind, **options)

    return make


def _look(folder: Path) -> None:
    content = (folder / "picture").read_bytes()
    for read in (decoded, scorable, lambda content: read_header(io.BytesIO(content))):
        try:
            read(content)
        except ImageError as error:
            last = error
        else:
            last = None
    if last is not None:
        raise last


def pictures() -> Iterator[Reader]:
    for name, kind, mode, options in (
        ("png", "PNG", "RGB", {}), ("png rgba", "PNG", "RGBA", {}), ("png 16 bits", "PNG", "I;16", {}),
        ("png palette", "PNG", "P", {}), ("jpeg", "JPEG", "RGB", {}), ("jpeg cmyk", "JPEG", "CMYK", {}),
        ("webp", "WEBP", "RGBA", {}), ("gif", "GIF", "P", {}), ("bmp", "BMP", "RGB", {}), ("tiff", "TIFF", "RGB", {}),
        ("tiff lzw", "TIFF", "RGB", {"compression": "tiff_lzw"}), ("avif", "AVIF", "RGB", {}),
        ("jpeg 2000", "JPEG2000", "RGB", {}), ("tga", "TGA", "RGB", {}), ("ppm", "PPM", "RGB", {}),
        ("qoi", "QOI", "RGB", {}),
    ):  # fmt: skip
        yield Reader(f"picture {name}", "picture", _picture(kind, mode, **options), _look)


# ---- weights


def _lora(folder: Path) -> None:
    names = [f"unet.mid_block.attentions.0.to_{one}.lora_{side}.weight" for one in "qv" for side in "AB"]
    notes = {"unet.r": 4, "unet.lora_alpha": 4, "unet.target_modules": ["to_q", "to_v"]}
    tensors = {name: torch.ones((4, 8) if "lora_A" in name else (8, 4)) for name in names}
    save_file(
        tensors,
        folder / "pytorch_lora_weights.safetensors",
        {"format": "pt", "lora_adapter_metadata": json.dumps(notes)},
    )


def _peft(folder: Path) -> None:
    _lora(folder)
    (folder / "pytorch_lora_weights.safetensors").rename(folder / "adapter_model.safetensors")
    write_json(
        folder / "adapter_config.json", {"r": 4, "lora_alpha": 4, "target_modules": ["to_q"], "peft_type": "LORA"}
    )


def _read_lora(folder: Path) -> None:
    from alignbench.models.weights.adapter_files import _adapter_config

    read_policy("unet", folder)
    _adapter_config(find_policy(str(folder), "unet"), "unet")


def _pickled(folder: Path) -> None:
    torch.save({"state_dict": {"a": torch.ones(3, 4), "b": torch.zeros(2)}}, folder / "weights.pt")


def _index_of_shards(folder: Path) -> None:
    write_json(
        folder / "model.safetensors.index.json",
        {"metadata": {}, "weight_map": {"a": "x-1.safetensors", "b": "x-2.safetensors"}},
    )


def weights() -> Iterator[Reader]:
    index = {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"],
             "vae": ["diffusers", "AutoencoderKL"], "safety_checker": [None, None]}  # fmt: skip
    yield Reader(
        "safetensors",
        "w.safetensors",
        lambda folder: save_file(
            {"a": torch.ones(3, 4), "b": torch.zeros(2, dtype=torch.bfloat16)}, folder / "w.safetensors"
        ),
        lambda folder: read_state_dict(folder / "w.safetensors"),
    )
    yield Reader("lora", "pytorch_lora_weights.safetensors", _lora, _read_lora)
    yield Reader("peft config", "adapter_config.json", _peft, _read_lora)
    yield Reader("weights.pt", "weights.pt", _pickled, lambda folder: read_state_dict(folder / "weights.pt"))
    yield Reader(
        "checkpoint state",
        "state.pt",
        lambda folder: torch.save({"a": {"b": [1, 2.0, "x"], "t": torch.ones(3)}}, folder / "state.pt"),
        lambda folder: read_state(folder / "state.pt"),
    )
    yield Reader(
        "index of shards",
        "model.safetensors.index.json",
        _index_of_shards,
        lambda folder: listed_shards(folder / "model.safetensors.index.json"),
    )
    yield Reader(
        "model_index.json",
        "model_index.json",
        lambda folder: write_json(folder / "model_index.json", index),
        lambda folder: read_index(folder / "model_index.json"),
    )
