import hashlib
import json
from collections import Counter

import pytest

from alignbench.data.prompts import (
    FOLDER,
    HPDV2_STYLES,
    Prompt,
    PromptSet,
    drawbench,
    file,
    geneval,
    hpdv2,
    imagereward_test,
    overlap,
    parti,
    pickapic_test,
    read_prompts,
    shapes,
    shapes_validation,
    text_rendering,
)
from alignbench.errors import UserError

SHA256 = {  # of the files as they were published, and of two fields of the one from ImageReward
    "hpdv2/anime.json": "6b38a479cc6f899866e9b7a8bf91f096b4afc6883b95275a61891327182b14ae",
    "hpdv2/concept-art.json": "530d057deafcb82c581e9d1be2ffcb98828fe99f0b54257414d2ab8a5cf2b83e",
    "hpdv2/paintings.json": "6570d39467e08b24b64e5b8a4177b0f61c525631121dc5a91fe2ab956eab4d5f",
    "hpdv2/photo.json": "92a3c9a0f743f66eb87bd112cdda830d6bdb4c073c86021d53b74001fcb18052",
    "parti.tsv": "fab29e41bb512a169b56acab4cf2a41dcb675e285df2efcde6640c7dd3c440eb",
    "drawbench.tsv": "4ffec52ee97b20368503c8b5cf11d6d0bb3093ac478b0030716d810d568deb65",
    "geneval.jsonl": "5c48e0813e812e3c373fa5c8ed07a8f0a483be30272b4427b0559c8048e67c13",
    "pickapic_test.json": "1880384bffac2a90ea55cfbf6f4fa6f87c931ade3d8a50c0ecd447b8522dc6d6",
    "imagereward_test.json": "d442d4cbc781fbe240b43017e761fc7147ea55081db64e63b949e46f4c638904",
    "text_rendering.txt": "4dd8caf3ab6ade73bd376c7d14c6ca49b6eacfb1bd321e22c40714ae4a98d4dc",
}
PUBLISHED = {
    "hpdv2": hpdv2,
    "parti": parti,
    "drawbench": drawbench,
    "geneval": geneval,
    "pickapic_test": pickapic_test,
    "imagereward_test": imagereward_test,
    "text_rendering": text_rendering,
}


@pytest.mark.parametrize("name", SHA256)
def test_the_shipped_files_are_the_published_ones(name):
    assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == SHA256[name]


@pytest.mark.parametrize(
    ("name", "num_prompts", "num_distinct"),
    [
        ("hpdv2", 3200, 3172),
        ("parti", 1632, 1632),
        ("drawbench", 200, 200),
        ("geneval", 553, 553),
        ("pickapic_test", 487, 487),
        ("imagereward_test", 466, 463),
        ("text_rendering", 1018, 1018),
    ],
)
def test_each_set_holds_as_many_prompts_as_published(name, num_prompts, num_distinct):
    prompt_set = PUBLISHED[name](name, limit=None)
    assert len(prompt_set) == prompt_set.full_size == num_prompts
    assert len(set(prompt_set.texts)) == num_distinct
    assert not prompt_set.is_subset


def test_hpdv2_has_800_prompts_of_each_style_in_the_published_order():
    styles = [prompt.groups[0] for prompt in hpdv2("hpdv2", None)]
    assert styles == [style for style in HPDV2_STYLES for _ in range(800)]


def test_an_hpdv2_id_is_style_and_index_and_leads_to_the_untouched_text():
    texts = json.loads((FOLDER / "hpdv2" / "photo.json").read_text("utf-8"))
    by_id = {prompt.prompt_id: prompt.prompt for prompt in hpdv2("hpdv2", None)}
    assert [by_id[f"photo-{number:05d}"] for number in range(800)] == texts
    assert any(text != text.strip() for text in texts)  # blanks at the ends are part of the prompts


def test_repeated_hpdv2_prompts_keep_ids_of_their_own():
    repeated = [text for text, count in Counter(hpdv2("hpdv2", None).texts).items() if count > 1]
    ids = [prompt.prompt_id for prompt in hpdv2("hpdv2", None) if prompt.prompt in repeated]
    assert len(ids) == len(set(ids)) > len(repeated) > 0


def test_parti_prompts_keep_their_quotes():
    quoted = [text for text in parti("parti", None).texts if text.startswith('"')]
    assert len(quoted) == 1
    assert quoted[0].startswith('"G I G G L E" painted in thick')


def test_the_groups_of_a_parti_prompt_are_its_category_and_its_challenge():
    groups = [prompt.groups for prompt in parti("parti", None)]
    categories, challenges = ({group[place] for group in groups} for place in (0, 1))
    assert (len(categories), len(challenges)) == (12, 11)
    assert not categories & challenges


def test_drawbench_has_eleven_categories_without_blanks_around_them():
    categories = {prompt.groups[0] for prompt in drawbench("drawbench", None)}
    assert len(categories) == 11
    assert all(category == category.strip() for category in categories)


def test_geneval_has_the_published_number_of_prompts_of_each_task():
    assert Counter(prompt.groups[0] for prompt in geneval("geneval", None)) == {
        "single_object": 80,
        "two_object": 99,
        "counting": 80,
        "colors": 94,
        "position": 100,
        "color_attr": 100,
    }


def test_an_imagereward_id_is_the_place_of_its_record():
    texts = [row["prompt"] for row in json.loads((FOLDER / "imagereward_test.json").read_text("utf-8"))]
    expected = [Prompt(f"imagereward_test-{number:05d}", text) for number, text in enumerate(texts)]
    assert list(imagereward_test("imagereward_test", None)) == expected


def test_a_text_rendering_prompt_is_a_line_with_one_text_in_double_quotes():
    prompts = list(text_rendering("text_rendering", None))
    assert (prompts[0].prompt_id, prompts[-1].prompt_id) == ("text_rendering-00000", "text_rendering-01017")
    assert prompts[0].prompt.startswith("A high-fashion runway")
    targets = [prompt.prompt.split('"')[1] for prompt in prompts if prompt.prompt.count('"') == 2]
    assert len(targets) == 1018
    assert {min(map(len, targets)), max(map(len, targets))} == {2, 29}


def test_shapes_prompts_are_grouped_by_the_number_of_shapes_and_named_by_their_text():
    small, large = shapes("shapes", 24, 0, None), shapes("shapes", 48, 1, None)
    assert {prompt.groups for prompt in small} == {("one_shape",), ("two_shapes",)}
    assert all(prompt.prompt_id.startswith(prompt.groups[0]) for prompt in small)
    known = {prompt.prompt_id: prompt.prompt for prompt in large}
    assert all(known.get(prompt.prompt_id, prompt.prompt) == prompt.prompt for prompt in small)


# ---- subsets


def test_a_subset_is_deterministic_marked_and_in_the_order_of_the_set():
    part, whole = hpdv2("hpdv2", limit=10), hpdv2("hpdv2", limit=None)
    assert part == hpdv2("hpdv2", limit=10)
    assert part.is_subset
    assert (len(part), part.full_size) == (10, 3200)
    assert [prompt for prompt in whole if prompt in part.prompts] == list(part)


def test_a_subset_keeps_the_styles_balanced():
    assert set(Counter(prompt.groups for prompt in hpdv2("hpdv2", limit=40)).values()) == {10}
    assert len({prompt.groups for prompt in hpdv2("hpdv2", limit=4)}) == 4


def test_a_subset_of_unequal_groups_keeps_their_shares():
    whole = Counter(prompt.groups[0] for prompt in parti("parti", None))
    part = Counter(prompt.groups[0] for prompt in parti("parti", 408))
    assert all(abs(part[group] - whole[group] / 4) <= 1 for group in whole)


def test_a_smaller_subset_lies_within_a_larger_one():
    small, large = (set(parti("parti", limit).prompts) for limit in (37, 120))
    assert small < large


def test_a_limit_above_the_size_takes_everything():
    assert drawbench("drawbench", limit=1000) == drawbench("drawbench", limit=None)


@pytest.mark.parametrize("limit", [0, -3])
def test_a_limit_below_one_is_refused(limit):
    with pytest.raises(UserError, match=f"prompts.limit={limit} must be at least 1"):
        drawbench("drawbench", limit)


# ---- fingerprints and names


def test_a_fingerprint_follows_ids_texts_and_groups_but_not_the_name():
    one = PromptSet("a", (Prompt("0", "x", ("g",)),), 1)
    assert one.fingerprint == PromptSet("b", one.prompts, 1).fingerprint
    for other in (Prompt("1", "x", ("g",)), Prompt("0", "x ", ("g",)), Prompt("0", "x", ())):
        assert PromptSet("a", (other,), 1).fingerprint != one.fingerprint


def test_ids_are_unique_and_can_name_files():
    with pytest.raises(ValueError, match="more than once"):
        PromptSet("a", (Prompt("0", "x"), Prompt("0", "y")), 2)
    with pytest.raises(ValueError, match="cannot name a file"):
        PromptSet("a", (Prompt("../0", "x"),), 1)


# ---- files


def test_prompts_are_read_from_text_jsonl_and_csv(tmp_path):
    (tmp_path / "a.txt").write_bytes(" \u2028a “b”, c \r\n\nd\n".encode())
    (tmp_path / "a.jsonl").write_text('{"prompt": "a\\nb", "group": "g"}\n{"prompt": "c"}\n')
    (tmp_path / "a.csv").write_text('group,prompt\ng,"a, ""b"""\n,c\n')
    assert [p.prompt for p in read_prompts(tmp_path / "a.txt")] == [" \u2028a “b”, c ", "d"]
    assert read_prompts(tmp_path / "a.jsonl") == [Prompt("00000", "a\nb", ("g",)), Prompt("00001", "c")]
    assert read_prompts(tmp_path / "a.csv") == [Prompt("00000", 'a, "b"', ("g",)), Prompt("00001", "c")]


def test_blank_lines_of_a_text_file_are_left_out(tmp_path):
    (tmp_path / "a.txt").write_text("a\n\n  \nb")
    assert read_prompts(tmp_path / "a.txt") == [Prompt("00000", "a"), Prompt("00001", "b")]


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("a.csv", "prompt,prompt_id\nx,one\n", "prompt,prompt_id\ny,two\nx,one\n"),
        (
            "a.jsonl",
            '{"prompt": "x", "prompt_id": "one"}\n',
            '{"prompt": "y", "prompt_id": "two"}\n{"prompt": "x", "prompt_id": "one"}\n',
        ),
    ],
)
def test_a_prompt_keeps_an_id_of_its_own_when_lines_are_inserted(tmp_path, name, before, after):
    (tmp_path / name).write_text(before)
    assert read_prompts(tmp_path / name) == [Prompt("one", "x")]
    (tmp_path / name).write_text(after)
    assert read_prompts(tmp_path / name) == [Prompt("two", "y"), Prompt("one", "x")]


def test_a_file_set_is_named_after_file_and_content(tmp_path):
    path = tmp_path / "my prompts.txt"
    path.write_text("a\nb\n")
    before = file("file", str(path), None)
    path.write_text("a\nc\n")
    after = file("file", str(path), None)
    assert before.name.startswith("my_prompts-")
    assert before.name != after.name


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", None, "does not exist"),
        ("a.txt", b"\n \n", "holds no prompts"),
        ("a.txt", b"\xff\xfe", "is not UTF-8"),
        ("a.txt", b"x\n\ny\0\n", "line 3 of .* has a prompt with a NUL byte"),
        ("a.xml", b"a", "unknown kind; expected .txt, .jsonl or .csv"),
        ("a.csv", b"caption\nx\n", "has no column prompt; its columns are caption"),
        ("a.csv", b"prompt\n", "holds no prompts"),
        ("a.csv", b"prompt,prompt\nx,y\n", "has more than one column 'prompt'"),
        ("a.csv", b"prompt,group\nx,g\n ,g\n", "line 3 of .* has an empty prompt"),
        ("a.csv", b'prompt\n"a\nb"\n""\n', "line 4 of .* has an empty prompt"),
        ("a.csv", b"prompt\na cat, asleep\n", "line 2 of .* has 2 cells, but its first line names 1 columns"),
        ("a.csv", b'prompt\n"a cat" asleep\n', "line 2 of .* is not CSV"),
        ("a.csv", b"prompt\na\0\n", "line 2 of .* has a prompt with a NUL byte"),
        ("a.csv", b"prompt,prompt_id\nx,a\ny,a\n", "line 3 of .* has the prompt_id a, which line 2 of .* has too"),
        ("a.csv", b"prompt,prompt_id\nx,../a\n", "line 2 of .* has the prompt_id '../a', which cannot name a file"),
        ("a.csv", b"prompt,prompt_id\nx,\n", "line 2 of .* has the prompt_id '', which cannot name a file"),
        ("a.jsonl", b'{"prompt": "x"}\n{"caption": "x"}\n', 'line 2 of .* has no text in column "prompt"'),
        ("a.jsonl", b'{"prompt": " "}\n', "line 1 of .* has an empty prompt"),
        ("a.jsonl", b'{"prompt": "a\\u0000"}\n', "line 1 of .* has a prompt with a NUL byte"),
        ("a.jsonl", b'{"prompt": "a\\ud800"}\n', "line 1 of .* has half a surrogate pair"),
        ("a.jsonl", b'{"prompt": "x", "prompt": "y"}\n', "line 1 of .* gives 'prompt' twice in one object"),
        ("a.jsonl", b'{"prompt": "x", "prompt_id": "a"}\n{"prompt": "y"}\n', 'line 2 .* no text in column "prompt_id"'),
        ("a.jsonl", b'{"prompt": "x", "group": ["a"]}\n', 'line 1 of .* has no text in column "group"'),
        ("a.jsonl", b'"x"\n', "line 1 of .* is not a JSON object"),
        ("a.jsonl", b"\nx\n", "line 2 of .* is not JSON"),
    ],
)
def test_a_file_that_cannot_be_used_is_told_in_one_sentence(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_prompts(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_an_overlap_ignores_case_and_blanks():
    prompt_set = PromptSet("a", (Prompt("0", "A red  Car "), Prompt("1", "a blue car")), 2)
    assert overlap(["a RED car", "a car"], prompt_set) == ["A red  Car "]
    assert overlap([], prompt_set) == []


def test_prompts_for_validation_are_held_out_from_those_for_evaluation():
    evaluation = shapes("shapes", 384, 0, None)
    found = shapes_validation("shapes_validation", 64, 384, 1, None)
    assert len(found) == 64
    assert not set(found.texts) & set(evaluation.texts)
    assert {prompt.groups for prompt in found} == {("one_shape",), ("two_shapes",)}
