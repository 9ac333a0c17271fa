import csv
import hashlib
import io
import json
import os
import re
from pathlib import Path

import pytest
from PIL import Image

from alignbench.data.existing_images.folders import read_image_folders
from alignbench.data.prompts import HPDV2_STYLES, drawbench, hpdv2
from alignbench.errors import UserError
from alignbench.store.image_records import PromptRecord, SamplingRecord, image_name, write_prompts, write_sampling
from alignbench.store.manifest import Manifest
from alignbench.store.run_folder import RunFolder

OWN_TEXTS = ["a red circle, left", 'a "blue" square', " Ein grüner Stern "]


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), "red").save(path)


def key(text):
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def csv_text(rows, delimiter=","):
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator="\n").writerows(rows)
    return text.getvalue()


def listed(folder, rows, header=("file", "prompt"), name="manifest.csv"):
    """Write a list and its images."""
    for row in rows:
        picture(folder / dict(zip(header, row, strict=True))["file"])
    (folder / name).write_text(csv_text([header, *rows]), "utf-8")
    return folder


def hpdv2_folder(folder, names):
    for name in names:
        picture(folder / name)
    return folder


def made_here(root, method="dpo", config_hash="aaaa", sampling_hash="s0", prompt_set="mine", texts=("x", "y")):
    """Write a run folder with images, as generation leaves it, and return the image folder."""
    name = f"{method}-sd15-{config_hash}"
    run = RunFolder(root / name)
    run.path.mkdir(parents=True, exist_ok=True)
    run.open(Manifest(name, method, "sd15", 0, config_hash, config_hash))
    folder = run.images(prompt_set, sampling_hash)
    records = [PromptRecord(f"p{i}", text, ("g",), (image_name(f"p{i}", 0),)) for i, text in enumerate(texts)]
    write_prompts(folder, records)
    write_sampling(folder, SamplingRecord(prompt_set, 20, 7.5, "per_prompt", 3, 1, len(records), False))
    for record in records:
        picture(folder / record.images[0])
    return folder


def read(*paths):
    return read_image_folders([str(path) for path in paths])


def labels(*paths):
    return [folder.label for folder in read(*paths)]


def refusal(*paths):
    with pytest.raises(UserError) as caught:
        read(*paths)
    message = str(caught.value)
    assert "\n" not in message
    return message


# ---- made by this program


def test_an_image_folder_made_here_is_what_its_run_says(tmp_path):
    path = made_here(tmp_path)
    (folder,) = read(path)
    assert (folder.path, folder.label, folder.prompt_set, folder.model) == (path, "dpo", "mine", "sd15")
    assert folder.sampling == SamplingRecord("mine", 20, 7.5, "per_prompt", 3, 1, 2, False)
    assert folder.records == (
        PromptRecord("p0", "x", ("g",), (str(path / "p0-0.png"),)),
        PromptRecord("p1", "y", ("g",), (str(path / "p1-0.png"),)),
    )


def test_a_run_folder_stands_for_its_only_image_folder(tmp_path):
    path = made_here(tmp_path)
    assert read(path.parents[2]) == read(path)


def test_a_run_folder_with_several_or_no_image_folders_is_refused(tmp_path):
    run = made_here(tmp_path).parents[2]
    made_here(tmp_path, prompt_set="other")
    assert "holds several image folders; give the path of one of images/mine/s0, images/other/s0" in refusal(run)
    empty = made_here(tmp_path, "sft").parents[2]
    for file in sorted(empty.glob("images/*/*/*")):
        file.unlink()
    assert f"the run folder {empty} holds no images" in refusal(empty)


def test_a_manifest_of_a_run_is_no_list_of_images(tmp_path):
    run = made_here(tmp_path).parents[2]
    assert "is the manifest of a run; give the folder that holds it" in refusal(run / "manifest.json")


def test_a_copy_away_from_its_run_is_called_after_its_folder(tmp_path):
    copy = made_here(tmp_path).rename(tmp_path / "copy")
    (folder,) = read(copy)
    assert (folder.label, folder.model, folder.sampling.num_inference_steps) == ("copy", None, 20)


def test_a_link_to_a_folder_made_here_still_leads_to_its_run(tmp_path):
    path = made_here(tmp_path)
    (tmp_path / "link").symlink_to(path)
    (folder,) = read(tmp_path / "link")
    assert (folder.label, folder.model) == ("dpo", "sd15")
    assert folder.fingerprint == read(path)[0].fingerprint


def test_missing_images_of_a_folder_made_here_are_counted(tmp_path):
    path = made_here(tmp_path)
    (path / "p1-0.png").unlink()
    assert f"1 of 2 images of {path} are missing, such as p1-0.png" in refusal(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("sampling.json", "{", "sampling.json is not JSON: Expecting property name"),
        ("sampling.json", '{"steps": 3}', "sampling.json has a wrong entry prompt_set: Field required"),
        (
            "prompts.jsonl",
            '{"prompt_id": "p0"}\n',
            "line 1 of .* has a wrong entry prompt: Field required",
        ),
        ("prompts.jsonl", "", "holds 0 prompts, which contradicts sampling.json \\(full_size 2, subset false\\)"),
    ],
)
def test_a_damaged_folder_made_here_is_told(tmp_path, name, content, message):
    path = made_here(tmp_path)
    (path / name).write_text(content)
    assert re.search(message, refusal(path))


# ---- the HPSv2 benchmark


def test_the_hpsv2_layout_gets_the_ids_and_prompts_of_hpdv2(tmp_path):
    path = hpdv2_folder(tmp_path / "sdxl", ["photo/00799.png", "anime/00003.jpg", "paintings/00000.webp"])
    (folder,) = read(path)
    texts = {prompt.prompt_id: prompt.prompt for prompt in hpdv2("hpdv2", None)}
    assert folder.records == tuple(
        PromptRecord(prompt_id, texts[prompt_id], (style,), (str(path / name),))
        for prompt_id, style, name in (
            ("anime-00003", "anime", "anime/00003.jpg"),
            ("paintings-00000", "paintings", "paintings/00000.webp"),
            ("photo-00799", "photo", "photo/00799.png"),
        )
    )
    assert (folder.label, folder.prompt_set, folder.model) == ("sdxl", "hpdv2", None)


def test_missing_images_of_the_hpsv2_layout_make_a_subset_of_unknown_sampling(tmp_path):
    path = hpdv2_folder(tmp_path / "sdxl", ["anime/00000.jpg"])
    assert read(path)[0].sampling == SamplingRecord("hpdv2", 0, None, "unknown", 0, 1, 3200, True)


def test_a_whole_hpsv2_folder_is_no_subset(tmp_path):
    for style in HPDV2_STYLES:
        (tmp_path / style).mkdir()
        for index in range(800):
            (tmp_path / style / f"{index:05d}.jpg").touch()
    (folder,) = read(tmp_path)
    assert not folder.sampling.subset
    assert [record.prompt_id for record in folder.records] == [prompt.prompt_id for prompt in hpdv2("hpdv2", None)]


def test_files_that_are_no_images_may_lie_beside_the_hpsv2_folders(tmp_path):
    path = hpdv2_folder(tmp_path, ["anime/00000.jpg"])
    (path / "README.md").touch()
    (path / "anime" / ".hidden").touch()
    assert len(read(path)[0].records) == 1


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["anime/1.jpg"],
            "anime/1.jpg is not an image of the HPSv2 benchmark; expected files of five digits",
        ),
        (["anime/00001.ico"], "anime/00001.ico is not an image of the HPSv2 benchmark"),
        (["photo/00800.jpg"], "photo/00800.jpg has no prompt; photo has 00000 to 00799"),
        (["photo/00001.jpg", "photo/00001.png"], "photo holds both 00001.jpg and 00001.png for one prompt; delete one"),
        (["photo/00001.jpg", "concept_art/00001.jpg"], "but also holds concept_art (1 in all); expected the folders"),
        (["photo/00001.jpg", "grid.png"], "but also holds grid.png (1 in all)"),
    ],
)
def test_what_does_not_fit_the_hpsv2_layout_is_refused(tmp_path, names, message):
    assert message in refusal(hpdv2_folder(tmp_path, names))


def test_empty_hpsv2_folders_and_folders_in_the_place_of_images_are_refused(tmp_path):
    (tmp_path / "photo").mkdir()
    assert f"the folders photo of {tmp_path} hold no images" in refusal(tmp_path)
    (tmp_path / "photo" / "00000.png").mkdir()
    assert "photo/00000.png is not an image of the HPSv2 benchmark" in refusal(tmp_path)


# ---- lists

FILES = ["a.png", "deep/b c.png", "d.jpg"]
ROWS = list(zip(FILES, OWN_TEXTS, strict=True))


@pytest.mark.parametrize("header", [("file", "prompt"), ("file_name", "text"), ("filename", "caption")])
@pytest.mark.parametrize("name", ["manifest.json", "images.jsonl", "images.csv", "images.tsv", "pairs"])
def test_each_kind_of_list_and_each_usual_name_of_a_column_is_read(tmp_path, name, header):
    objects = [dict(zip(header, row, strict=True)) for row in ROWS]
    content = {
        "manifest.json": json.dumps(objects),
        "images.jsonl": "\n".join(json.dumps(entry, ensure_ascii=False) for entry in objects),
        "images.csv": csv_text([header, *ROWS]).replace("\n", "\r\n"),
        "images.tsv": "".join("\t".join(row) + "\n" for row in (header, *ROWS)),
        "pairs": json.dumps(dict(ROWS)),
    }[name]
    for file in FILES:
        picture(tmp_path / file)
    (tmp_path / ("manifest.json" if name == "pairs" else name)).write_bytes(b"\xef\xbb\xbf" + content.encode())
    (folder,) = read(tmp_path)
    assert folder.records == tuple(PromptRecord(key(text), text, (), (str(tmp_path / file),)) for file, text in ROWS)
    assert (folder.prompt_set, folder.model) == ("own", None)
    assert folder.sampling == SamplingRecord("own", 0, None, "unknown", 0, 1, 3, False)


@pytest.mark.parametrize("column", ["file_path", "image", "path"])
def test_other_usual_names_of_the_file_column_are_known(tmp_path, column):
    picture(tmp_path / "a.png")
    (tmp_path / "list.jsonl").write_text(json.dumps({column: "a.png", "prompt": "x", "score": 1}))
    assert read(tmp_path)[0].records[0].images == (str(tmp_path / "a.png"),)


def test_ids_and_groups_of_a_list_are_kept(tmp_path):
    header = ("file", "prompt", "prompt_id", "group")
    rows = [("a.png", "x", "one", "animals"), ("b.png", "x", "two", ""), ("c.png", "x", "one", "animals")]
    (folder,) = read(listed(tmp_path, rows, header))
    assert folder.records == (
        PromptRecord("one", "x", ("animals",), (str(tmp_path / "a.png"), str(tmp_path / "c.png"))),
        PromptRecord("two", "x", (), (str(tmp_path / "b.png"),)),
    )
    assert (folder.sampling.num_images_per_prompt, folder.sampling.full_size) == (2, 2)


def test_two_lists_in_different_order_pair_up(tmp_path):
    one = listed(tmp_path / "one", [("1.png", "x"), ("2.png", "y")])
    two = listed(tmp_path / "two", [("1.png", "y"), ("2.png", "x")])
    first, second = ({r.prompt: (r.prompt_id, Path(r.images[0]).name) for r in f.records} for f in read(one, two))
    assert {text: name for text, (_, name) in first.items()} == {"x": "1.png", "y": "2.png"}
    assert {text: name for text, (_, name) in second.items()} == {"x": "2.png", "y": "1.png"}
    assert {text: prompt_id for text, (prompt_id, _) in first.items()} == {t: i for t, (i, _) in second.items()}


def test_images_of_one_prompt_are_numbered_in_the_order_of_the_list(tmp_path):
    (folder,) = read(listed(tmp_path, [("b.png", "x"), ("c.png", "y"), ("a.png", "x")]))
    assert [record.images for record in folder.records] == [
        (str(tmp_path / "b.png"), str(tmp_path / "a.png")),
        (str(tmp_path / "c.png"),),
    ]
    assert folder.sampling.num_images_per_prompt == 2


def test_the_images_of_a_list_may_lie_anywhere(tmp_path):
    picture(tmp_path / "elsewhere" / "a.png")
    picture(tmp_path / "beside.png")
    (tmp_path / "lists").mkdir()
    path = tmp_path / "lists" / "x.csv"
    path.write_text(
        csv_text([("file", "prompt"), (str(tmp_path / "elsewhere" / "a.png"), "x"), ("../beside.png", "y")])
    )
    images = [record.images[0] for record in read(path)[0].records]
    assert [os.path.normpath(image) for image in images] == [
        str(tmp_path / "elsewhere" / "a.png"),
        str(tmp_path / "beside.png"),
    ]
    assert all(os.path.isabs(image) for image in images)


def test_relative_paths_and_the_home_folder_are_understood(tmp_path, monkeypatch):
    listed(tmp_path / "mine", [("a.png", "x")])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in ("mine", "./mine/", "~/mine", "mine/manifest.csv"):
        (folder,) = read(path)
        assert (folder.path, folder.label) == (tmp_path / "mine", "mine")
        assert folder.records[0].images == (str(tmp_path / "mine" / "a.png"),)


# ---- lists of shipped prompts


def test_prompts_of_a_shipped_set_get_its_ids_groups_order_and_size(tmp_path):
    prompts = drawbench("drawbench", None).prompts[:3]
    rows = [(f"{number}.png", prompts[number].prompt) for number in (2, 0)]
    (folder,) = read(listed(tmp_path, rows))
    assert [(r.prompt_id, r.groups, Path(r.images[0]).name) for r in folder.records] == [
        (prompts[0].prompt_id, prompts[0].groups, "0.png"),
        (prompts[2].prompt_id, prompts[2].groups, "2.png"),
    ]
    assert folder.sampling == SamplingRecord("drawbench", 0, None, "unknown", 0, 1, 200, True)


def test_one_byte_of_difference_makes_a_set_of_its_own(tmp_path):
    prompts = drawbench("drawbench", None).texts[:2]
    assert read(listed(tmp_path, [("0.png", prompts[0]), ("1.png", prompts[1] + " ")]))[0].prompt_set == "own"


def test_ids_of_a_list_are_not_exchanged_for_those_of_a_shipped_set(tmp_path):
    rows = [("0.png", drawbench("drawbench", None).texts[0], "first")]
    (folder,) = read(listed(tmp_path, rows, ("file", "prompt", "prompt_id")))
    assert (folder.prompt_set, folder.records[0].prompt_id) == ("own", "first")


def test_repeated_prompts_of_a_shipped_set_fill_its_ids_before_they_wrap_round(tmp_path):
    prompts = hpdv2("hpdv2", None).prompts
    texts = [prompt.prompt for prompt in prompts]
    repeated = next(text for text in texts if texts.count(text) == 2)
    ids = [prompt.prompt_id for prompt in prompts if prompt.prompt == repeated]
    (folder,) = read(listed(tmp_path, [(f"{number}.png", repeated) for number in range(3)]))
    assert [(r.prompt_id, [Path(image).name for image in r.images]) for r in folder.records] == [
        (ids[0], ["0.png", "2.png"]),
        (ids[1], ["1.png"]),
    ]


def test_a_list_of_shipped_prompts_pairs_with_the_hpsv2_layout(tmp_path):
    texts = {prompt.prompt_id: prompt.prompt for prompt in hpdv2("hpdv2", None)}
    one = hpdv2_folder(tmp_path / "one", ["photo/00007.jpg"])
    two = listed(tmp_path / "two", [("x.png", texts["photo-00007"])])
    first, second = read(one, two)
    assert first.records[0].prompt_id == second.records[0].prompt_id == "photo-00007"
    assert first.sampling == second.sampling


# ---- faults of lists


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", "name,prompt\na.png,x\n", "x.csv has no column for the file (file, file_name, "),
        ("x.csv", "file,words\na.png,x\n", "for the prompt (prompt, caption, text); its columns are file, words"),
        (
            "x.csv",
            "file,path,text\na.png,a.png,x\n",
            "the columns file, path, any of which could be the file; keep one",
        ),
        ("x.csv", "file,text,prompt\na.png,x,x\n", "has the columns prompt, text, any of which could be the prompt"),
        ("x.csv", "file,file,prompt\na.png,b.png,x\n", "x.csv has more than one column 'file'"),
        ("x.csv", "file,prompt\na.png,x\nb.png, \n", "line 3 of {folder}/x.csv has an empty prompt"),
        ("x.csv", "file,prompt\na.png,a cat, asleep\n", "line 2 of {folder}/x.csv has 3 cells"),
        ("x.csv", 'file,prompt\na.png,"x\n', "line 2 of {folder}/x.csv is not CSV: unexpected end of data"),
        (
            "x.csv",
            "file,prompt\na.png,x\nc.png,x\n,x\n",
            "2 of 3 images do not exist, the first being 'c.png' in line 3",
        ),
        ("x.csv", "file,prompt\na.png,x\n./a.png,y\n", "line 3 of {folder}/x.csv lists ./a.png, which line 2 of"),
        ("x.csv", "file,prompt,prompt_id\na.png,x,a/b\n", "x.csv has the prompt_id 'a/b', which cannot name a file"),
        ("x.csv", "file,prompt,prompt_id\na.png,x,1\nb.png,y,1\n", "gives the prompt_id 1 to 'y', but line 2 of"),
        (
            "x.csv",
            "file,prompt,group\na.png,x,g\nb.png,x,\n",
            "puts 'x' in group none, but line 2 of {folder}/x.csv puts it in g",
        ),
        ("x.csv", "", "x.csv lists no images"),
        ("x.csv", "file,prompt\n", "x.csv lists no images"),
        ("x.csv", b"file,prompt\na.png,\xe4\n", "x.csv is not UTF-8 at byte 18"),
        (
            "x.tsv",
            'file\tprompt\na.png\t"a ""cat"""\n',
            'line 2 of {folder}/x.tsv has a cell in quotes, "a ""cat""", and',
        ),
        ("x.jsonl", '{"file": "a.png", "prompt": "x"}\n{', "line 2 of {folder}/x.jsonl is not JSON"),
        (
            "x.jsonl",
            '{"file": "a.png", "prompt": "x"}\n{"file": "b.png"}',
            'line 2 of {folder}/x.jsonl has no text in column "p',
        ),
        ("x.jsonl", '{"file": "a.png", "prompt": "x", "prompt_id": 5.5}', 'x.jsonl has no text in column "prompt_id"'),
        ("manifest.json", "{", "manifest.json is not JSON"),
        ("manifest.json", "[]", "manifest.json lists no images"),
        ("manifest.json", '["a.png"]', "manifest.json is not a list of images; expected a list of objects"),
        ("manifest.json", '{"a.png": "x", "a.png": "y"}', "manifest.json gives 'a.png' twice in one object"),
        ("manifest.json", '{"a.png": "x", "b.png": ""}', "entry 2 of {folder}/manifest.json has an empty prompt"),
        ("manifest.json", '{"a.png": "x\\u0000"}', "entry 1 of {folder}/manifest.json has a prompt with a NUL byte"),
    ],
)
def test_a_fault_of_a_list_is_told_with_file_and_row(tmp_path, name, content, message):
    for file in ("a.png", "b.png"):
        picture(tmp_path / file)
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert message.replace("{folder}", str(tmp_path)) in refusal(tmp_path)


def test_several_lists_in_a_folder_are_named_and_one_can_be_chosen(tmp_path):
    listed(tmp_path / "imgs", [("a.png", "x")])
    listed(tmp_path / "imgs", [("b.png", "y")], name="other.csv")
    assert "holds manifest.csv, other.csv; give the path of the one" in refusal(tmp_path / "imgs")
    (folder,) = read(tmp_path / "imgs" / "other.csv")
    assert [record.prompt for record in folder.records] == ["y"]
    assert labels(tmp_path / "imgs" / "manifest.csv", tmp_path / "imgs" / "other.csv") == [
        "imgs-manifest",
        "imgs-other",
    ]


def test_a_list_beside_hpsv2_folders_must_be_chosen(tmp_path):
    listed(hpdv2_folder(tmp_path, ["photo/00000.jpg"]), [("a.png", "x")])
    assert "holds manifest.csv and the HPSv2 folders photo; give the path of manifest.csv" in refusal(tmp_path)
    assert read(tmp_path / "manifest.csv")[0].prompt_set == "own"


def test_paths_that_hold_no_images_say_what_was_found_and_what_is_known(tmp_path):
    known = "expected an image folder or run folder of this program, the folders anime, concept-art, paintings, photo"
    assert f"{tmp_path / 'none'} does not exist" in refusal(tmp_path / "none")
    assert f"{tmp_path} is empty; {known}" in refusal(tmp_path)
    (tmp_path / "deep").mkdir()
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.png")
    found = "is of an unknown layout: it holds folders such as deep (1) and files such as a.png (2)"
    assert f"{tmp_path} {found}; {known}" in refusal(tmp_path)
    assert "a.png is neither a folder nor a list of images; expected a .json" in refusal(tmp_path / "a.png")


# ---- several folders


def test_a_path_given_twice_is_refused_however_it_is_written(tmp_path):
    path, run = listed(tmp_path / "mine", [("a.png", "x")]), made_here(tmp_path).parents[2]
    (tmp_path / "link").symlink_to(path)
    assert refusal(path, path) == f"{path} is given twice"
    for again in (f"{path}/../mine", path / "manifest.csv", tmp_path / "link"):
        assert refusal(path, again) == f"{again} is given twice, as {path} too"
    assert "is given twice" in refusal(run, run / "images" / "mine" / "s0")


def test_folders_of_one_name_are_told_apart_by_those_above_them(tmp_path):
    paths = [
        listed(tmp_path / name, [("a.png", "x")]) for name in ("dpo/run/images", "sft/run/images", "kto v2", "last")
    ]
    assert labels(*paths) == ["dpo-run-images", "sft-run-images", "kto_v2", "last"]


def test_folders_whose_names_cannot_be_told_apart_are_refused(tmp_path):
    paths = [listed(tmp_path / name, [("a.png", "x")]) for name in ("a b", "a_b", "a+b")]
    assert "3 image folders would be called" in refusal(*paths)


def test_runs_of_one_method_are_told_apart_by_their_names(tmp_path):
    first = made_here(tmp_path / "one")
    second = made_here(tmp_path / "one", config_hash="bbbb")
    third = made_here(tmp_path / "one", sampling_hash="s1")
    fourth = made_here(tmp_path / "two", config_hash="bbbb")
    assert labels(first, second) == ["dpo", "dpo-bbbb"]
    assert labels(second, first) == ["dpo", "dpo-aaaa"]
    assert labels(first, third) == ["dpo", "dpo-aaaa"]
    assert labels(first, second, fourth) == ["dpo", "dpo-bbbb", "dpo-bbbb-s0"]
    fifth = made_here(tmp_path / "three", config_hash="bbbb")
    assert labels(first, second, fourth, fifth) == ["dpo", "dpo-bbbb", "dpo-bbbb-s0", "three-dpo-bbbb-s0"]


def test_a_run_keeps_its_method_s_name_before_a_folder_of_that_name(tmp_path):
    folder = listed(tmp_path / "mine" / "dpo", [("a.png", "x")])
    assert labels(folder, made_here(tmp_path, prompt_set="own")) == ["mine-dpo", "dpo"]


def test_base_is_a_base_run_or_a_folder_of_that_name(tmp_path):
    run = made_here(tmp_path, "base", prompt_set="own")
    named = listed(tmp_path / "x" / "base", [("a.png", "x")])
    other = listed(tmp_path / "x" / "base!", [("a.png", "x")])
    assert labels(run) == labels(named) == ["base"]
    assert labels(named, run) == ["x-base", "base"]
    assert labels(other) == ["x-base"]


def test_folders_of_different_prompt_sets_are_refused(tmp_path):
    one, two = listed(tmp_path / "one", [("a.png", "x")]), hpdv2_folder(tmp_path / "two", ["photo/00000.jpg"])
    three = listed(tmp_path / "three", [("a.png", "y")])
    message = "the image folders must belong to one prompt set, found own (one, three) and hpdv2 (two); own means"
    assert message in refusal(one, two, three)


def test_one_id_with_different_prompts_in_two_folders_is_refused(tmp_path):
    header = ("file", "prompt", "prompt_id")
    one = listed(tmp_path / "one", [("a.png", "x", "1")], header)
    two = listed(tmp_path / "two", [("a.png", "y", "1")], header)
    assert f"prompt 1 is 'x' in {one} and 'y' in {two}; give" in refusal(one, two)


# ---- fingerprints


def test_a_fingerprint_stays_when_a_folder_moves_and_follows_prompts_ids_groups_and_names(tmp_path):
    header = ("file", "prompt", "prompt_id", "group")

    def fingerprint(name, *row):
        return read(listed(tmp_path / name, [row], header))[0].fingerprint

    before = fingerprint("one", "a.png", "x", "1", "g")
    assert re.fullmatch("[0-9a-f]{64}", before)
    assert fingerprint("two", "a.png", "x", "1", "g") == before
    changed = [("b.png", "x", "1", "g"), ("a.png", "y", "1", "g"), ("a.png", "x", "2", "g"), ("a.png", "x", "1", "h")]
    assert len({before, *(fingerprint(f"n{number}", *row) for number, row in enumerate(changed))}) == 5


def test_each_image_is_looked_up_at_most_once(tmp_path, monkeypatch):
    path = listed(tmp_path / "one", [(f"{number}.png", f"prompt {number}") for number in range(20)])
    other = hpdv2_folder(tmp_path / "two", [f"photo/{number:05d}.png" for number in range(20)])
    seen, stat = [], os.stat
    monkeypatch.setattr(os, "stat", lambda file, **options: (seen.append(str(file)), stat(file, **options))[1])
    read(path)
    read(other)
    images = [file for file in seen if file.endswith(".png")]
    assert len(images) == len(set(images)) == 20  # listing a folder tells that its files are there
