"""The readers of outside input, each with valid files to begin with."""

import io
import json
import random
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import torch
from PIL import Image
from pyarrow import parquet
from safetensors.torch import save_file

from alignbench.configuration.run_config import read_plain_config, read_run_config
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
from alignbench.data.storage.tensor_store import TensorStore, key_of
from alignbench.files import append_json_lines, with_check, write_json, write_json_lines, write_text
from alignbench.images import ImageError, decoded, read_header, scorable
from alignbench.models.weights.find_policy import find_policy
from alignbench.models.weights.loading import read_index
from alignbench.models.weights.policy_files import read_policy
from alignbench.models.weights.state_dicts import listed_shards, read_state_dict
from alignbench.report.columns import LEADERBOARD_COLUMNS, read_table
from alignbench.report.curves.read import read_curves, read_validation
from alignbench.scoring.calibration import RECORD, read_values
from alignbench.scoring.partial_scores import ScoreTable
from alignbench.settings.data import PairSettings
from alignbench.statistics.image_statistics import image_statistics
from alignbench.store.checkpoint_files import damaged_file, read_state
from alignbench.store.image_records import (
    PromptRecord,
    SamplingRecord,
    read_sampling,
    write_prompts,
    write_sampling,
)
from alignbench.store.image_records import (
    read_prompts as read_records,
)
from alignbench.store.image_statistics_table import ImageToMeasure, digest_of, measured
from alignbench.store.manifest import Budget, Manifest
from alignbench.store.reward_model_folder import RewardModelRecord
from alignbench.store.run_folder import RunFolder
from alignbench.store.scores import ScoreInfo, Scores
from alignbench.store.soup_record import Parent, SoupRecord
from alignbench.store.training_data import digests, encoded, read_digests
from alignbench.votes.ballots import Ballots, Vote
from alignbench.votes.preferences import count
from alignbench.votes.record import Study, StudyFolder
from benchmarks.fuzz.mutations import mutated


@dataclass(frozen=True)
class Reader:
    """A reader, and a file that it reads.

    Attributes:
        make: writes valid files into an empty folder.
        file: the one of them that is changed.
        read: reads it, given the folder.
    """

    name: str
    file: str
    make: Callable[[Path], Any]
    read: Callable[[Path], Any]


def readers() -> list[Reader]:
    """Return all readers, those of users' files first."""
    return [*_texts(), *_tables(), *_pictures(), *_weights(), *_of_runs(), *_of_studies()]


def changed_file(reader: Reader, place: Path, seed: int) -> Callable[[int], Callable[[], Any]]:
    """Return what reads the changed file of each number."""
    folder = place / reader.name.replace(" ", "_").replace("/", "_")
    folder.mkdir(exist_ok=True)
    reader.make(folder)
    file = folder / reader.file
    original = file.read_bytes()
    reader.read(folder)  # what is valid is read

    def attempt(number: int) -> Callable[[], Any]:
        draw = random.Random(f"{seed}/{reader.name}/{number}")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(mutated(original, draw))
        return lambda: reader.read(folder)

    return attempt


# ---- lists of text

ROWS = [
    {"prompt": "a red cat", "image_w": "0.png", "image_l": "1.png", "probability_w": 0.9},
    {"prompt": "a dog, naïve", "image_0": "0.png", "image_1": "2.png", "label_0": 0.5},
    {"prompt": "two", "images": ["0.png", "1.png", "2.png"], "scores": [0.1, 0.9, None]},
    {"prompt": "three", "images": ["0.png", "1.png"], "ranks": [1, 2]},
]


def _images(folder: Path) -> None:
    for number in range(3):
        Image.new("RGB", (16, 16), (80 * number, 0, 0)).save(folder / f"{number}.png")


def _lists(name: str, content: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        _images(folder)
        write_text(folder / name, content)

    return make


def _lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _texts() -> Iterator[Reader]:
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
        _images(folder / "train")
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
    _images(folder)
    table = {
        "image_path": [f"{i}.png" for i in range(3)],
        "prompt_id": ["a", "a", "a"],
        "prompt": ["p"] * 3,
        "rank": [1, 2, 3],
    }
    parquet.write_table(pyarrow.table(table), folder / "metadata-train.parquet")


def _tables() -> Iterator[Reader]:
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


def _pictures() -> Iterator[Reader]:
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
    from alignbench.models.weights.policy_files import _adapter_config

    read_policy("unet", folder)
    _adapter_config(find_policy(str(folder), "unet"), "unet")


def _pickled(folder: Path) -> None:
    torch.save({"state_dict": {"a": torch.ones(3, 4), "b": torch.zeros(2)}}, folder / "weights.pt")


def _index_of_shards(folder: Path) -> None:
    write_json(
        folder / "model.safetensors.index.json",
        {"metadata": {}, "weight_map": {"a": "x-1.safetensors", "b": "x-2.safetensors"}},
    )


def _weights() -> Iterator[Reader]:
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


# ---- what runs leave


def _manifest(folder: Path) -> RunFolder:
    run = RunFolder(folder / "run")
    run.open(
        Manifest(
            run="run", method="dpo", model="sd15_mini", seed=0, config_hash="ab", recipe_hash="cd", trained_on=["clip"],
            fingerprints={"data": "12"}, start_weights={"unet": "ab"}, budget=Budget(optimizer_steps=5),
            image_costs={"shapes/1a": {"network_passes": 20, "seconds": 0.5}}, selected_step=5,
        )
    )  # fmt: skip
    values = json.loads(run.manifest_file.read_text())
    del values["check"]  # with it, every change is found by it
    write_json(run.manifest_file, values)
    return run


def _statistics(folder: Path) -> dict[tuple[str, int], ImageToMeasure]:
    file = folder / "run" / "statistics" / "set" / "1a.parquet"
    image = folder / "0.png"
    if not image.exists():
        _images(folder)
    shown = {("p", 0): ImageToMeasure(image, digest_of(image))}
    found = measured(file, shown)
    assert found["p", 0] == image_statistics(np.asarray(decoded(image.read_bytes()))) or True
    return shown


SCORE_INFO = ScoreInfo("clip", "1")


def _scores(folder: Path) -> None:
    Scores.of(SCORE_INFO, ["a", "b"], [0, 0], [0.5, 0.25], ["ab", "cd"]).write(folder / "clip@1.parquet")


def _part(folder: Path) -> None:
    run = _manifest(folder)
    lines = [asdict(SCORE_INFO), {"prompt_id": "a", "image": 0, "score": 0.5, "digest": "ab"}]
    append_json_lines(run.scores("set", "1a") / "parts" / "clip@1" / "0.jsonl", lines)


def _store(folder: Path) -> None:
    store = TensorStore(folder)
    store.add(
        {
            key_of(str(i)): {"a": torch.full((2, 3), float(i)), "b": torch.ones(4, dtype=torch.bfloat16)}
            for i in range(4)
        }
    )
    (file,) = folder.glob("*.safetensors")
    file.rename(folder / "shard.safetensors")


def _read_store(folder: Path) -> None:
    for i, entry in enumerate(TensorStore(folder).read([key_of(str(i)) for i in range(4)])):
        assert entry is None or entry["a"].equal(torch.full((2, 3), float(i)))


def _judge(folder: Path) -> None:
    save_file({"a": torch.ones(2)}, folder / "model.safetensors")
    record = RewardModelRecord(
        name="taste", judge={"kind": "head"}, start={"evaluator": "x", "version": "1", "weights": "", "node": {}},
        calibrated_on="scenes", judged_by=[], data={"name": "a", "fingerprint": "b"}, figures={"accuracy": 0.5},
        training={"seed": 0}, config={}, package_versions={"torch": "2"}, commit=None,
    )  # fmt: skip
    write_json(folder / "config.json", asdict(record))


def _soup(folder: Path) -> None:
    SoupRecord(
        [Parent("run", "dpo", 0.5, "x", "ab"), Parent("b", "sft", 0.5, "y", "cd")], ["clip"], digests(["a"])
    ).write(folder)


def _leaderboard(folder: Path) -> None:
    cells = dict.fromkeys(LEADERBOARD_COLUMNS, "1") | {"subset": "True", "trained_on": "False", "method": "dpo"}
    write_text(folder / "leaderboard.csv", f"{','.join(cells)}\n{','.join(cells.values())}\n")


EXPORTED = "config.yaml of an exported run"  # takes seconds, as the shipped configuration is composed


def _config(folder: Path) -> None:
    from omegaconf import OmegaConf

    from alignbench.configuration.compose import composed

    cfg = composed(["method=dpo", "model=sd15_mini"])
    write_text(folder / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True))


def _of_runs() -> Iterator[Reader]:
    logged = [{"step": i, "train/loss": 1.0 / (i + 1), "lr": 1e-4, "name": "x"} for i in range(5)]
    looks = "step,evaluator,version,win_rate,ci_low,ci_high,network_passes\n"
    looks += "0,clip,1,0.5,0.4,0.6,10\n20,clip,1,0.6,0.5,0.7,\n"
    sampling = SamplingRecord("shapes", 20, 4.0, "per_prompt", 0, 1, 4, subset=False)
    values = {"clip@1": with_check({"info": asdict(SCORE_INFO), "libraries": {"torch": "2"}, "outcome": "as before",
                                    "largest_difference": 0.0, "values": [0.5, 0.25]})}  # fmt: skip
    yield Reader("manifest.json", "run/manifest.json", _manifest, lambda folder: RunFolder(folder / "run").manifest)
    yield Reader("config.yaml", "config.yaml", _config, lambda folder: read_plain_config(folder / "config.yaml"))
    yield Reader(EXPORTED, "config.yaml", _config, lambda folder: read_run_config(folder / "config.yaml"))
    yield Reader(
        "prompts of images",
        "prompts.jsonl",
        lambda folder: write_prompts(folder, [PromptRecord("a", "text", ("g",), ("a-0.png",))]),
        read_records,
    )
    yield Reader("sampling.json", "sampling.json", lambda folder: write_sampling(folder, sampling), read_sampling)
    yield Reader("scores", "clip@1.parquet", _scores, lambda folder: Scores.read(folder / "clip@1.parquet"))
    yield Reader(
        "part of scores",
        "run/scores/set/1a/parts/clip@1/0.jsonl",
        _part,
        lambda folder: ScoreTable(RunFolder(folder / "run"), "set", "1a", SCORE_INFO).finish([]),
    )
    yield Reader("statistics", "run/statistics/set/1a.parquet", _statistics, _statistics)
    yield Reader(
        "training_data.npy",
        "training_data.npy",
        lambda folder: (folder / "training_data.npy").write_bytes(encoded(digests("abcd"))),
        lambda folder: read_digests(folder / "training_data.npy"),
    )
    yield Reader(
        "train.jsonl",
        "train.jsonl",
        lambda folder: write_json_lines(folder / "train.jsonl", logged),
        lambda folder: read_curves(folder / "train.jsonl"),
    )
    yield Reader(
        "validation.csv",
        "validation.csv",
        lambda folder: write_text(folder / "validation.csv", looks),
        lambda folder: read_validation(folder / "validation.csv"),
    )
    yield Reader(
        "calibration.json",
        RECORD,
        lambda folder: write_json(folder / RECORD, values),
        lambda folder: read_values(folder / RECORD),
    )
    yield Reader("reward model", "config.json", _judge, RewardModelRecord.read)
    yield Reader("soup.json", "soup.json", _soup, SoupRecord.read)
    yield Reader("tensor store", "shard.safetensors", _store, _read_store)
    yield Reader(
        "digests.json", "digests.json", lambda folder: write_json(folder / "digests.json", {"a": "b"}), damaged_file
    )
    yield Reader(
        "leaderboard.csv", "leaderboard.csv", _leaderboard, lambda folder: read_table(folder / "leaderboard.csv")
    )


# ---- studies


def _study(folder: Path) -> None:
    path = folder / "studies" / "s"
    path.mkdir(parents=True)
    study = Study(
        "s", "smpo", "sd15_mini", "shapes", "1a", ("a", "b"), ("p0", "p1"), "all", None, 2, 0.5, 0, {"a": "x", "b": "y"}
    )
    write_json(path / "study.json", asdict(study))
    ballots = Ballots(path / "study.sqlite")
    rater = ballots.join("somebody")
    question = study.protocol.questions[0].name
    for number, prompt in enumerate(study.prompts):
        ballots.cast(
            Vote(rater.rater, number, question, prompt, "a", "b", None, None, study.protocol.choices[0].answer)
        )
    ballots._connection.execute("PRAGMA journal_mode = DELETE")
    ballots.close()


def _count(folder: Path) -> None:
    for journal in ("study.sqlite-wal", "study.sqlite-shm"):
        (folder / "studies" / "s" / journal).unlink(missing_ok=True)
    count(StudyFolder(folder / "studies" / "s"))


def _of_studies() -> Iterator[Reader]:
    yield Reader(
        "study.json", "studies/s/study.json", _study, lambda folder: count(StudyFolder(folder / "studies" / "s"))
    )
    yield Reader("study.sqlite", "studies/s/study.sqlite", _study, _count)
