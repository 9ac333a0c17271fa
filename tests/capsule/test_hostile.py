"""Capsules of strangers: what is no run of this program is refused in one sentence, and nothing is brought in."""

import hashlib
import io
import json
import os

import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from alignbench.capsule.check import unpack
from alignbench.capsule.contents import CONTENTS
from alignbench.capsule.merge import bring_in
from alignbench.errors import UserError
from alignbench.files import sha256, with_check, without_check
from alignbench.store.scores import Scores
from tests.capsule.conftest import BASE
from tests.capsule.hostile import forged, listed, members_of, written
from tests.tiny_runs import files_of

RUN = f"runs/{BASE}"
PROMPTS, SCORES = f"{RUN}/images/shapes/1a2b/prompts.jsonl", f"{RUN}/scores/shapes/1a2b/clip@1.parquet"


@pytest.fixture
def members(capsules):
    """The members of a good capsule, of its base run alone."""
    return {name: content for name, content in members_of(capsules[0]).items() if name.startswith(RUN)}


def relisted(members, file):
    """Let the manifest say that a changed file is as it was written, as a stranger can."""
    name = f"{RUN}/manifest.json"
    manifest = without_check(json.loads(members[name]))
    manifest["files"][file] = hashlib.sha256(members[f"{RUN}/{file}"]).hexdigest()
    return {**members, name: json.dumps(with_check(manifest)).encode()}


def refusal(members, tmp_path):
    """Return the sentence that refuses members, whose digests are all right; nothing may be written anywhere."""
    file = forged(tmp_path / "in" / "evil.tar", members)
    with pytest.raises(UserError) as refused:
        bring_in([file], tmp_path / "in" / "results")
    assert {name for name in files_of(tmp_path) if ".lock" not in name} == {"in/evil.tar"}
    assert "\n" not in str(refused.value)
    assert str(file) in str(refused.value)
    return str(refused.value)


@pytest.fixture(autouse=True)
def _folder(tmp_path):
    (tmp_path / "in").mkdir()


def test_what_was_not_changed_is_taken(members, tmp_path):
    bring_in([forged(tmp_path / "in" / "good.tar", members)], tmp_path / "results")
    assert (tmp_path / "results" / BASE / "manifest.json").exists()


@pytest.mark.parametrize(
    "name",
    [
        "../evil", "/etc/evil", f"{RUN}/../../evil", f"{RUN}/scores/../../evil@1.parquet", f"{RUN}/capsule.json",
        f"{RUN}/.lock", f"{RUN}/images/shapes/1a2b/p0-0.png", f"{RUN}/policy/model.bin", f"{RUN}/checkpoints/step-1/a",
        "runs/.hidden/manifest.json", "runs/a b/manifest.json", f"{RUN}/thumbnails/a.jpg", f"{RUN}/train.JSONL", "x",
    ],
)  # fmt: skip
def test_names_that_no_capsule_holds_are_refused(members, tmp_path, name):
    file = written(tmp_path / "in" / "evil.tar", {**members, name: b"x", CONTENTS: listed(members)})
    with pytest.raises(UserError, match="holds and does not list"):
        bring_in([file], tmp_path / "in" / "results")
    if name.count("/") > 1 and name.startswith("runs/"):
        assert "which no capsule holds; do not use it" in refusal({**members, name: b"x"}, tmp_path)


def test_a_file_that_is_listed_and_not_there_is_named(members, tmp_path):
    lacking = {name: content for name, content in members.items() if name != SCORES}
    file = written(tmp_path / "evil.tar", {**lacking, CONTENTS: listed(members)})
    with pytest.raises(UserError, match=f"lists and does not hold {SCORES}"):
        unpack(file, tmp_path / "out")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b'"format": 1', b'"format": 2', "has format 2, expected 1"),
        (b'"runs"', b'"ruins"', "has changed since it was written"),
        (b'"check"', b'"chick"', "has changed since it was written"),
        (b'"format": 1,', b'"format": 1, "format": 1,', "'format' twice"),
        (b'"format": 1,', b'"format":  1,', "is not written as a capsule's is"),
        (b"{", b"[", "is not JSON"),
    ],
)
def test_damaged_contents_are_refused(members, tmp_path, old, new, message):
    text = listed(members).replace(old, new, 1)
    with pytest.raises(UserError, match=message):
        unpack(written(tmp_path / "evil.tar", {**members, CONTENTS: text}), tmp_path / "out")


@pytest.mark.parametrize("file", ["manifest.json", "config.yaml"])
def test_a_run_without_what_says_what_it_is_is_refused(members, tmp_path, file):
    del members[f"{RUN}/{file}"]
    assert f"lacks {file}" in refusal(members, tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (f"{RUN}/manifest.json", b"{", "is not JSON"),
        (f"{RUN}/manifest.json", b'{"schema_version": 1, "run": 3}', "lacks the entries"),
        (f"{RUN}/config.yaml", b"a: !!python/object/apply:os.system [ls]\n", "is not YAML"),
        (f"{RUN}/config.yaml", b"a: &x [1]\nb: *x\n", "repeats parts"),
        (PROMPTS, b"{}\n", "has changed since it was written"),
        (SCORES, b"PAR1", "damaged or no Parquet file"),
        (f"{RUN}/thumbnails/{'0' * 32}.jpg", b"GIF89a", "is damaged or in a format that cannot be read"),
        (f"{RUN}/policy/pytorch_lora_weights.safetensors", b"x", "the manifest does not know it"),
    ],
)
def test_damaged_files_are_named(members, tmp_path, name, content, message):
    members[name] = content
    if name.endswith(".yaml"):
        members = relisted(members, "config.yaml")
    told = refusal(members, tmp_path)
    assert message in told
    assert name.removeprefix(f"{RUN}/").partition("/pytorch")[0] in told


def test_a_manifest_of_another_run_is_refused(members, tmp_path):
    moved = {name.replace(BASE, "dpo-x-1"): content for name, content in members.items()}
    assert f"manifest.json is that of {BASE}" in refusal(moved, tmp_path)


@pytest.mark.parametrize("name", ["report", "index.html", "leaderboard.csv", "searches", "dpo-sd15_mini-r0"])
def test_a_run_cannot_take_the_name_of_something_else_in_the_results_folder(members, tmp_path, name):
    manifest = without_check(json.loads(members[f"{RUN}/manifest.json"])) | {"run": name}
    members[f"{RUN}/manifest.json"] = json.dumps(with_check(manifest)).encode()
    renamed = {one.replace(RUN, f"runs/{name}"): content for one, content in members.items()}
    assert f"{name} is no name of a run of base on sd15_mini" in refusal(renamed, tmp_path)


def test_names_that_some_file_systems_take_for_one_are_refused(members, tmp_path):
    twice = {f"{RUN}/features/{name}@1/features.json": b"{}" for name in ("\u00e9", "e\u0301")}
    assert "two names that some file systems take for one" in refusal(members | twice, tmp_path)


@pytest.mark.parametrize("image", ["/etc/passwd", "../../../secret.png", "p0-1.png", "p0-0.webp"])
def test_images_that_lie_elsewhere_are_refused(members, tmp_path, image):
    members[PROMPTS] = members[PROMPTS].replace(b"p0-0.png", image.encode())
    assert "an image of other origin" in refusal(relisted(members, "images/shapes/1a2b/prompts.jsonl"), tmp_path)


def test_a_prompt_that_is_there_twice_is_refused(members, tmp_path):
    members[PROMPTS] += members[PROMPTS]
    assert "has prompt p0 twice" in refusal(relisted(members, "images/shapes/1a2b/prompts.jsonl"), tmp_path)


@pytest.mark.parametrize(
    "changes", [{"prompt": "a" * 100_001}, {"groups": [f"group {n}" for n in range(501)]}, {"prompt_id": "_" * 3}]
)
def test_prompts_that_no_page_can_show_are_refused(members, tmp_path, changes):
    lines = [json.loads(line) for line in members[PROMPTS].splitlines()]
    lines[0] |= changes | {"images": [f"{changes.get('prompt_id', 'p0')}-0.png"]}
    members[PROMPTS] = "".join(json.dumps(line) + "\n" for line in lines).encode()
    told = refusal(relisted(members, "images/shapes/1a2b/prompts.jsonl"), tmp_path)
    assert "over 500 groups" in told or "has a prompt whose id cannot name a file" in told


def test_a_table_that_grows_in_memory_is_refused(members, tmp_path):
    rows = 3_000_000
    values = {"prompt_id": "p0", "image": 0, "score": pyarrow.scalar(0.5, "float32"), "digest": ""}
    file = io.BytesIO()
    parquet.write_table(pyarrow.table({name: pyarrow.repeat(one, rows) for name, one in values.items()}), file)
    members[SCORES] = file.getvalue()
    assert len(members[SCORES]) < 10**5
    told = refusal(relisted(members, "scores/shapes/1a2b/clip@1.parquet"), tmp_path)
    assert "has 3,000,000 rows" in told


def test_a_text_that_is_long_in_every_row_is_refused_before_it_is_read(members, tmp_path):
    rows, text = 1000, "x" * 900_000  # 900 MB, of which the file holds one copy
    digest = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * rows, "int32"), pyarrow.array([text]))
    values = {"prompt_id": "p0", "image": 0, "score": pyarrow.scalar(0.5, "float32")}
    table = pyarrow.table({name: pyarrow.repeat(one, rows) for name, one in values.items()} | {"digest": digest})
    file = io.BytesIO()
    parquet.write_table(table, file, compression="zstd", store_schema=False, write_statistics=False)
    members[SCORES] = file.getvalue()
    assert len(members[SCORES]) < 2000
    assert "has 1,000 rows and 90" in refusal(relisted(members, "scores/shapes/1a2b/clip@1.parquet"), tmp_path)


def test_scores_under_the_name_of_another_evaluator_are_refused(members, tmp_path):
    table = parquet.read_table(io.BytesIO(members[SCORES]))
    info = json.loads(table.schema.metadata[b"alignbench"]) | {"evaluator": "clip\x1b[2J"}
    file = io.BytesIO()
    parquet.write_table(table.replace_schema_metadata({"alignbench": json.dumps(info)}), file)
    members[SCORES] = file.getvalue()
    told = refusal(relisted(members, "scores/shapes/1a2b/clip@1.parquet"), tmp_path)
    assert "has scores by clip?[2J in a file of another name" in told


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"score": [float("nan"), 1, 1, 1]}, "that are not finite numbers"),
        ({"image": [0, 0, 0, 7]}, "of image 7 of prompt p3, which has no such image"),
        ({"image": [-1, 0, 0, 0]}, "of image -1 of prompt p0, which has no such image"),
        ({"prompt_id": ["p0", "p0", "p2", "p3"]}, "that score an image twice"),
        ({"prompt_id": ["p0", "p1", "p2", "p9"]}, "scores prompts without images"),
        ({"digest": ["../../secret", "a", "b", "c"]}, "of prompt p0 without a digest of it"),
    ],
)
def test_scores_that_no_table_can_use_are_refused(members, tmp_path, changes, message):
    table = parquet.read_table(io.BytesIO(members[SCORES]))
    for name, values in changes.items():
        position = table.schema.get_field_index(name)
        table = table.set_column(position, name, pyarrow.array(values, table.schema.field(name).type))
    file = io.BytesIO()
    parquet.write_table(table, file)
    members[SCORES] = file.getvalue()
    assert message in refusal(relisted(members, "scores/shapes/1a2b/clip@1.parquet"), tmp_path)


def test_statistics_of_another_size_are_refused(members, tmp_path):
    name = f"{RUN}/statistics/shapes/1a2b.parquet"
    table = parquet.read_table(io.BytesIO(members[name]))
    position = table.schema.get_field_index("thumbnail")
    file = io.BytesIO()
    parquet.write_table(table.set_column(position, "thumbnail", pyarrow.array([b"x"] * 4)), file)
    assert "has image statistics of another size" in refusal({**members, name: file.getvalue()}, tmp_path)


def test_a_picture_that_is_larger_than_a_thumbnail_is_refused(members, tmp_path):
    file = io.BytesIO()
    Image.new("RGB", (4000, 4000)).save(file, "JPEG")
    told = refusal({**members, f"{RUN}/thumbnails/{'0' * 32}.jpg": file.getvalue()}, tmp_path)
    assert "has 4000 x 4000 pixels, expected at most 128" in told
    told = refusal({**members, f"{RUN}/thumbnails/{'0' * 32}.jpg": bytes(300_000)}, tmp_path)
    assert "of 300,000 bytes, more than 262,144" in told


def test_nothing_but_listed_files_comes_out(capsules, tmp_path):
    contents, digest = unpack(capsules[0], tmp_path / "out")
    found = {name for name in files_of(tmp_path / "out") if not name.endswith(".lock")}
    listed_ones = {f"{run}/{file}" for run, of in contents.runs.items() for file in of.files}
    assert found == listed_ones | {f"{run}/capsule.json" for run in contents.runs}
    assert len(digest) == 64
    assert all(not os.access(tmp_path / "out" / name, os.X_OK) for name in found)
    for run, of in contents.runs.items():
        assert all(sha256(tmp_path / "out" / run / file) == digest for file, digest in of.files.items())
    assert Scores.read(tmp_path / "out" / SCORES.removeprefix("runs/")).score.size == 4
