"""What goes into a capsule, and that it always gives the same bytes."""

import shutil
import tarfile
from dataclasses import replace

import pytest

from alignbench.capsule.merge import bring_in
from alignbench.capsule.pack import pack
from alignbench.capsule.thumbnails import SIDE, encoded
from alignbench.errors import UserError
from alignbench.files import write_text
from alignbench.images import decoded
from alignbench.store.image_records import PromptRecord, write_prompts
from alignbench.store.run_folder import RunFolder
from tests.capsule.conftest import BASE, CONFIG, DPO, SFT


def names_in(capsule):
    with tarfile.open(capsule) as archive:
        return archive.getnames()


def test_a_run_comes_with_the_base_run_that_it_is_compared_with(capsules):
    names = names_in(capsules[0])
    assert {name.split("/")[1] for name in names if "/" in name} == {BASE, DPO}
    own = [name.removeprefix(f"runs/{DPO}/") for name in names if DPO in name]
    assert [name for name in own if not name.startswith("thumbnails/")] == [
        "config.yaml", "images/shapes/1a2b/prompts.jsonl", "images/shapes/1a2b/sampling.json", "manifest.json",
        "scores/shapes/1a2b/aesthetic@1.parquet", "scores/shapes/1a2b/clip@1.parquet",
        "statistics/shapes/1a2b.parquet", "train.jsonl",
    ]  # fmt: skip
    assert sum("thumbnails/" in name for name in own) == 4


def test_packing_again_gives_the_same_bytes_also_elsewhere_and_after_a_merge(capsules, groups, tmp_path, capsys):
    expected = capsules[0].read_bytes()
    pack([groups[0] / DPO], tmp_path / "again.tar")
    assert (tmp_path / "again.tar").read_bytes() == expected
    assert "2 runs written to" in capsys.readouterr().out
    bring_in(capsules, tmp_path / "results")
    pack([tmp_path / "results" / DPO], tmp_path / "merged.tar")
    assert (tmp_path / "merged.tar").read_bytes() == expected
    pack([tmp_path / "results" / SFT, tmp_path / "results" / DPO], tmp_path / "both.tar")
    assert {name.split("/")[1] for name in names_in(tmp_path / "both.tar") if "/" in name} == {BASE, DPO, SFT}


def test_unfinished_scores_and_locks_stay_behind(dpo, capsules, tmp_path):
    scores = dpo.scores("shapes", "1a2b")
    shutil.copy(scores / "clip@1.parquet", scores / "unfinished@1.parquet")
    (scores / "parts").mkdir(exist_ok=True)
    (scores / "parts" / "unfinished@1.evidence.jsonl").write_text("{}\n")
    (dpo.path / ".lock").touch()
    (dpo.path / "notes.txt").write_text("mine")
    pack([dpo.path], tmp_path / "again.tar")
    assert (tmp_path / "again.tar").read_bytes() == capsules[0].read_bytes()


def test_images_that_are_gone_are_counted(dpo, tmp_path, capsys):
    next(dpo.path.glob("images/*/*/p0-0.png")).unlink()
    pack([dpo.path], tmp_path / "a.tar")
    assert f"{DPO}  3 thumbnails; 1 images are gone" in capsys.readouterr().out


def test_paths_of_this_machine_are_told(dpo, tmp_path, capsys):
    dpo.store(dpo.config_file, lambda file: write_text(file, f"{CONFIG}data: {{path: /home/me/pairs}}\n"))
    pack([dpo.path], tmp_path / "a.tar")
    assert "its configuration tells paths of this machine: data.path=/home/me/pairs" in capsys.readouterr().out


def test_a_thumbnail_keeps_small_images_as_they_are_and_shrinks_large_ones(dpo):
    from PIL import Image

    image = Image.linear_gradient("L").convert("RGB")
    assert decoded(encoded(image.resize((64, 32)))).size == (64, 32)
    assert decoded(encoded(image.resize((1024, 512)))).size == (SIDE, SIDE // 2)


def test_what_cannot_be_handed_in_is_refused(dpo, groups, tmp_path):
    out = tmp_path / "a.tar"
    with pytest.raises(UserError, match="is a folder; give the name of a file"):
        pack([dpo.path], tmp_path)
    with pytest.raises(UserError, match="is not a run folder"):
        pack([tmp_path], out)
    with pytest.raises(UserError, match="have one name; pack them one after another"):
        pack([dpo.path, shutil.copytree(dpo.path, tmp_path / "other" / DPO)], out)
    image = next(dpo.path.glob("images/*/*/p0-0.png"))
    content = image.read_bytes()
    shutil.copy(image.with_name("p1-0.png"), image)
    with pytest.raises(UserError, match=r"p0-0.png has changed since it was scored"):
        pack([dpo.path], out)
    image.write_bytes(content)
    kept = dpo.manifest
    replace(kept, completed={**kept.completed, "train": []}).write(dpo.manifest_file)
    with pytest.raises(UserError, match="is not trained to its end"):
        pack([dpo.path], out)
    replace(kept, files={name: of for name, of in kept.files.items() if "scores" not in name}).write(dpo.manifest_file)
    with pytest.raises(UserError, match="has no scores yet"):
        pack([dpo.path], out)
    kept.write(dpo.manifest_file)
    base = RunFolder(groups[0] / BASE)
    base.config_file.unlink()
    with pytest.raises(UserError, match=r"has no config.yaml"):
        pack([dpo.path], out)
    assert not out.exists()


def test_pictures_from_elsewhere_are_refused(groups, tmp_path):
    run = RunFolder(groups[1] / BASE)
    images = run.images("shapes", "1a2b")
    write_prompts(images, [PromptRecord(f"p{n}", "a", (), (f"/home/me/{n}.png",)) for n in range(4)])
    run.record(images / "prompts.jsonl")
    with pytest.raises(UserError, match="an image of other origin"):
        pack([run.path], tmp_path / "a.tar")
