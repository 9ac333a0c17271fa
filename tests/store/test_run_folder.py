import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace

import pytest

from alignbench.errors import UserError
from alignbench.files import locked, write_json, write_text
from alignbench.store.image_records import image_name
from alignbench.store.manifest import SCHEMA_VERSION, Budget, Manifest, ResultsError
from alignbench.store.run_folder import RunFolder, run_folders

MANIFEST = Manifest("sft-sd15_mini-ab12", "sft", "sd15_mini", 0, "ab12", "cd34", budget=Budget(optimizer_steps=60))


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path / MANIFEST.run)
    folder.open(MANIFEST)
    return folder


def test_a_manifest_comes_back_as_it_was_written(folder):
    assert folder.manifest == MANIFEST


def test_opening_the_same_run_again_returns_what_is_there(folder):
    folder.update(selected_step=60)
    assert folder.open(MANIFEST).selected_step == 60


def test_of_two_commands_that_start_together_the_second_keeps_what_the_first_notes(tmp_path):
    folder = RunFolder(tmp_path / MANIFEST.run)
    with ThreadPoolExecutor() as pool:
        with locked(folder.path / ".lock"):
            second = pool.submit(folder.open, MANIFEST)
            with pytest.raises(TimeoutError):
                second.result(timeout=0.2)
            write_json(folder.manifest_file, asdict(replace(MANIFEST, selected_step=60)))
        assert second.result().selected_step == 60


def test_a_folder_of_another_configuration_is_refused(folder):
    with pytest.raises(ResultsError, match="was made with configuration ab12, expected ff00; choose another"):
        folder.open(replace(MANIFEST, config_hash="ff00"))


def test_a_folder_of_another_schema_version_is_refused(folder):
    values = json.loads(folder.manifest_file.read_text())
    folder.manifest_file.write_text(json.dumps({**values, "schema_version": SCHEMA_VERSION + 1}))
    for read in (lambda: folder.manifest, lambda: folder.open(MANIFEST), lambda: folder.update(selected_step=1)):
        with pytest.raises(ResultsError, match=f"has schema version {SCHEMA_VERSION + 1}, expected {SCHEMA_VERSION}"):
            read()


def test_what_is_not_a_manifest_is_refused(folder, tmp_path):
    with pytest.raises(ResultsError, match="is missing"):
        _ = RunFolder(tmp_path / "nothing").manifest
    folder.manifest_file.write_text("{")
    with pytest.raises(UserError, match="is not JSON"):
        _ = folder.manifest
    folder.manifest_file.write_text("[]")
    with pytest.raises(ResultsError, match="has schema version None"):
        _ = folder.manifest


def test_unknown_and_missing_entries_are_named(folder):
    values = json.loads(folder.manifest_file.read_text())
    folder.manifest_file.write_text(json.dumps({**values, "colour": "red"}))
    with pytest.raises(ResultsError, match=r"unknown entries \['colour'\]"):
        _ = folder.manifest
    folder.manifest_file.write_text(json.dumps({k: v for k, v in values.items() if k != "recipe_hash"}))
    with pytest.raises(ResultsError, match=r"lacks the entries \['recipe_hash'\]"):
        _ = folder.manifest


def test_updates_merge_dictionaries_and_replace_the_rest(folder):
    folder.update(fingerprints={"data": "1"}, devices=["cpu"])
    folder.update(fingerprints={"prompts": "2"}, devices=["cuda"], budget=Budget(rollouts=3))
    assert folder.manifest.fingerprints == {"data": "1", "prompts": "2"}
    assert folder.manifest.devices == ["cuda"]
    assert folder.manifest.budget == Budget(rollouts=3)


def test_stages_that_end_at_the_same_time_are_all_noted(folder):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: folder.complete("score", str(number)), range(16)))
    assert folder.manifest.completed["score"] == sorted(map(str, range(16)))


def test_work_is_complete_once_it_was_said_so(folder):
    assert not folder.completed("train")
    folder.complete("train")
    folder.complete("score", "shapes/1a2b/clip@1")
    assert folder.completed("train")
    assert folder.completed("score", "shapes/1a2b/clip@1")
    assert not folder.completed("score", "shapes/1a2b/clip@2")
    assert not RunFolder(folder.path / "elsewhere").completed("train")


def test_a_recorded_file_is_handed_out_only_unchanged(folder):
    file = folder.images("shapes", "1a2b") / "prompts.jsonl"
    write_text(file, "one")
    with pytest.raises(ResultsError, match="was never finished"):
        folder.verified(file)
    folder.complete("generate", "shapes/1a2b", files=[file, folder.images("shapes", "1a2b")])
    assert folder.verified(file) == file
    assert folder.verified(file.parent) == file.parent
    write_text(file, "two")
    for path in (file, file.parent):
        with pytest.raises(ResultsError, match="has changed since it was written"):
            folder.verified(path)
    file.unlink()
    with pytest.raises(ResultsError, match="is missing"):
        folder.verified(file)


def test_who_reads_a_file_while_an_equal_one_is_written_does_not_take_it_from_its_writer(folder):
    file = folder.path / "records"
    folder.store(file, lambda path: write_text(path, "same"))
    with ThreadPoolExecutor() as pool:
        readers = []

        def write(path):
            write_text(path, "same")
            readers.append(pool.submit(folder.verified, file))
            with pytest.raises(TimeoutError):
                readers[0].result(timeout=0.2)

        folder.store(file, write)
        assert readers[0].result() == file
    assert file.read_text() == "same"


def test_paths_are_those_of_the_design(tmp_path):
    run = RunFolder(tmp_path / "sft-flux-ab12")
    found = [
        run.manifest_file,
        run.config_file,
        run.train_log,
        run.checkpoint(40),
        run.policy,
        run.images("parti", "1a2b") / image_name("parti-0001", 2),
        run.score_file("parti", "1a2b", "hpsv2", "2.1"),
    ]
    assert [path.relative_to(run.path).as_posix() for path in found] == [
        "manifest.json",
        "config.yaml",
        "train.jsonl",
        "checkpoints/step-40",
        "policy",
        "images/parti/1a2b/parti-0001-2.png",
        "scores/parti/1a2b/hpsv2@2.1.parquet",
    ]


def test_all_run_folders_of_a_root_are_found_by_name(folder, tmp_path):
    (tmp_path / "report").mkdir()
    RunFolder(tmp_path / "base-sd15_mini-00").open(replace(MANIFEST, run="base-sd15_mini-00"))
    assert [run.name for run in run_folders(tmp_path)] == ["base-sd15_mini-00", "sft-sd15_mini-ab12"]


def test_the_short_name_is_without_the_hash(tmp_path):
    assert RunFolder(tmp_path / "srpo-flux_mini-75b0c1490a").short_name == "srpo-flux_mini"
    assert RunFolder(tmp_path / "step-30").short_name == "step-30"
