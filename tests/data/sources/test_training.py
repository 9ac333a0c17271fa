"""Every source trains: from the command line's configuration, through its checks, to weights that changed."""

import csv
import hashlib
import io
import json
import tarfile

import pyarrow
import pytest
from datasets import Dataset, Features, Image, Value
from hydra import compose, initialize_config_dir
from pyarrow import parquet

from alignbench.configuration.build import conf_folder
from alignbench.configuration.compose import check_command_line
from alignbench.stages.job import run
from alignbench.store.image_records import PromptRecord, SamplingRecord, write_prompts, write_sampling
from alignbench.store.manifest import Manifest
from alignbench.store.run_folder import RunFolder
from alignbench.store.scores import ScoreInfo, Scores

PROMPTS = ["a red circle", "two blue squares", "a green star"]
GREYS = [(20 * number, 20 * number + 10) for number in range(3)]


def pickapic(folder, encoded):
    rows = [
        {"caption": prompt, "jpg_0": encoded(a), "jpg_1": encoded(b), "label_0": 1.0}
        for prompt, (a, b) in zip(PROMPTS, GREYS, strict=True)
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "train-00000.parquet")


def images(folder, encoded):
    """Write two images a prompt; return (prompt, file, file)."""
    names = [(prompt, f"{number}a.png", f"{number}b.png") for number, prompt in enumerate(PROMPTS)]
    for (_, *files), greys in zip(names, GREYS, strict=True):
        for file, grey in zip(files, greys, strict=True):
            (folder / file).write_bytes(encoded(grey, kind="PNG"))
    return names


def local(folder, encoded):
    rows = [{"prompt": prompt, "image_w": a, "image_l": b} for prompt, a, b in images(folder, encoded)]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))


def hpdv2(folder, encoded):
    (folder / "train").mkdir()
    found = images(folder / "train", encoded)
    rows = [{"prompt": prompt, "image_path": [a, b], "human_preference": [0, 1]} for prompt, a, b in found]
    (folder / "train.json").write_text(json.dumps(rows))


def imagerewarddb(folder, encoded):
    rows = [
        {"image_path": file, "prompt_id": prompt, "prompt": prompt, "rank": rank}
        for prompt, *files in images(folder, encoded)
        for rank, file in enumerate(files, 1)
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "metadata-train.parquet")


def kto_csv(folder, encoded):
    with (folder / "list.csv").open("w", newline="") as file:
        rows = [(path, prompt, label) for prompt, *paths in images(folder, encoded) for label, path in enumerate(paths)]
        csv.writer(file).writerows([("file_path", "caption", "label"), *rows])


def captions(folder, encoded):
    for prompt, *files in images(folder, encoded):
        for file in files:
            (folder / file).with_suffix(".txt").write_text(prompt)


def shard(folder, samples):
    with tarfile.open(folder / "0.tar", "w") as tar:
        for name, content in samples:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def webdataset(folder, encoded):
    shard(
        folder,
        [
            (f"{number}.{field}", content)
            for number, (prompt, (a, b)) in enumerate(zip(PROMPTS, GREYS, strict=True))
            for field, content in {
                "jpg_0.jpg": encoded(a), "jpg_1.jpg": encoded(b), "txt": prompt.encode(), "label_0.txt": b"0",
            }.items()
        ],
    )  # fmt: skip


def webdataset_labels(folder, encoded):
    shard(
        folder,
        [
            (f"{number}.{field}", content)
            for number, (prompt, (a, _)) in enumerate(zip(PROMPTS, GREYS, strict=True))
            for field, content in {"jpg": encoded(a), "txt": prompt.encode(), "cls": str(number % 2).encode()}.items()
        ],
    )


def runs(folder, encoded):
    place = folder / "images" / "mine" / "0123456789"
    place.mkdir(parents=True)
    files = images(place, encoded)
    records = [PromptRecord(str(number), prompt, (), (a, b)) for number, (prompt, a, b) in enumerate(files)]
    write_prompts(place, records)
    write_sampling(place, SamplingRecord("mine", 4, None, "per_prompt", 0, 2, len(PROMPTS), False))
    RunFolder(folder).open(Manifest("base-flux_mini-0", "base", "flux_mini", None, "0", "0"))
    ids, numbers = [r.prompt_id for r in records for _ in range(2)], [0, 1] * len(records)
    digests = [sha(place / file) for _, *both in files for file in both]
    scores = Scores.of(ScoreInfo("shapes_preference", "1"), ids, numbers, [0.1, 0.9] * len(records), digests)
    target = RunFolder(folder).score_file("mine", "0123456789", "shapes_preference", "1")
    target.parent.mkdir(parents=True)
    scores.write(target)


def hub(folder, encoded):
    """Write pairs of two images as `push_to_hub` does."""
    columns = {"prompt": Value("string"), "chosen": Image(), "rejected": Image()}
    rows = [
        (prompt, *({"bytes": encoded(grey), "path": None} for grey in greys))
        for prompt, greys in zip(PROMPTS, GREYS, strict=True)
    ]
    table = [dict(zip(columns, row, strict=True)) for row in rows]
    (folder / "data").mkdir()
    Dataset.from_list(table, Features(columns)).to_parquet(folder / "data" / "train-00000-of-00001.parquet")


def hub_labels(folder, encoded):
    """Write an image folder as the hub shows it."""
    found = [(file, prompt, label) for prompt, *files in images(folder, encoded) for label, file in enumerate(files)]
    rows = [dict(zip(("file_name", "caption", "label"), row, strict=True)) for row in found]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))


def sha(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()[:32]


SOURCES = {
    "pickapic": (pickapic, "dpo", []),
    "local": (local, "dpo", ["data.label_noise=0.5"]),
    "hpdv2": (hpdv2, "mapo", []),
    "imagerewarddb": (imagerewarddb, "dpo", []),
    "kto_csv": (kto_csv, "kto", []),
    "captions": (captions, "sft_labelled", []),
    "webdataset": (webdataset, "kto", []),
    "webdataset_labels": (webdataset_labels, "kto", []),
    "webdataset_captions": (webdataset_labels, "sft_labelled", []),
    "hub": (hub, "dpo", []),
    "hub_labels": (hub_labels, "kto", []),
    "hub_captions": (hub_labels, "sft_labelled", []),
    "runs": (runs, "dpo", ["data.evaluator=shapes_preference"]),
}


def command(tmp_path, name, encoded):
    make, method, more = SOURCES[name]
    folder = tmp_path / "data"
    folder.mkdir()
    make(folder, encoded)
    return [
        f"method={method}", "model=sd15_mini", f"data={name}", f"data.path={folder}", *more, "stages=[train]",
        f"results={tmp_path / 'results'}", "train.max_train_steps=2", "train.total_batch_size=4",
        "train.micro_batch_size=4", "train.lr_warmup_steps=0", "train.logging_steps=1", "train.mixed_precision='no'",
    ]  # fmt: skip


FIRST = ("pickapic", "local", "kto_csv", "captions", "webdataset", "hub", "runs")  # others read as one of these does


def test_every_file_of_sources_is_trained_on_here():
    names = {file.stem for file in (conf_folder() / "data").glob("*.yaml")}
    assert names == {*SOURCES, "shapes", "prompts", "hub_prompts"}


@pytest.mark.parametrize(
    "name", [one if one in FIRST else pytest.param(one, marks=pytest.mark.matrix) for one in SOURCES]
)
def test_every_source_trains(tmp_path, encoded, name):
    overrides = command(tmp_path, name, encoded)
    check_command_line(overrides, False)
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        run(compose("config", overrides))
    (folder,) = tmp_path.glob("results/*/policy")
    steps = [json.loads(line) for line in (folder.parent / "train.jsonl").read_text().splitlines()]
    assert steps[-1]["grad_norm"] > 0
    manifest = Manifest.read(folder.parent / "manifest.json")
    assert manifest.budget.optimizer_steps == 2
    assert len(manifest.fingerprints["data"]) == 64
    assert manifest.trained_on == (["shapes_preference"] if name == "runs" else [])
