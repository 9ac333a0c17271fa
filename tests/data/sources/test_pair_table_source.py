"""What is done to judgements of a corpus, whatever its layout: splits, exclusions, ties, votes, noise, fingerprints."""

import json
import pickle

import numpy as np
import pytest
from PIL import ExifTags, Image

from alignbench.data.source import Pair, images_of, labels
from alignbench.errors import UserError
from alignbench.text import is_held_out

NAMES = [f"{letter}.png" for letter in "abcdef"]


@pytest.fixture
def corpus(tmp_path, source, encoded):
    """Build `data=local` of (prompt, first image, second image, label_0); images have sides of 8 to 13 pixels."""
    for number, name in enumerate(NAMES):
        (tmp_path / name).write_bytes(encoded(40 * number, (8 + number, 20), "PNG"))

    def build(*judged, **values):
        rows = [
            {"prompt": prompt, "image_0": f"{a}.png", "image_1": f"{b}.png", "label_0": label}
            for prompt, a, b, label in judged
        ]
        (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return source("local", path=str(tmp_path), **values)

    build.folder = tmp_path
    return build


def pairs(data):
    return [(s.prompt, s.image_w.key[0], s.image_l.key[0], round(s.probability_w, 6)) for s in data.view("pairs")]


# ---- splits


def many(count=400):
    return [
        (f"prompt {number % (count // 2)}", "a", "b", 1.0 if number < count // 2 else 0.0) for number in range(count)
    ]


def test_no_prompt_is_in_both_splits_and_together_they_are_all(corpus):
    train, held_out, whole = (corpus(*many(), split=split, heldout_share=0.3) for split in ("train", "heldout", "all"))
    found = [set(data.prompts) for data in (train, held_out, whole)]
    assert found[0] | found[1] == found[2]
    assert not found[0] & found[1]
    assert len(train.view("pairs")) + len(held_out.view("pairs")) == len(whole.view("pairs")) == 400
    assert train.num_filtered == {"held out": 2 * len(found[1])}
    assert held_out.num_filtered == {"not held out": 2 * len(found[0])}
    assert 0.2 < len(found[1]) / 200 < 0.4


def test_the_split_of_a_prompt_depends_on_its_text_alone():
    texts = [f"prompt {number}" for number in range(2000)]
    held_out = [is_held_out(text, 0.1) for text in texts]
    assert 150 < sum(held_out) < 250
    assert held_out == [is_held_out(f"  {text.upper()} ", 0.1) for text in texts]
    assert all(is_held_out(text, 0.2) for text, out in zip(texts, held_out, strict=True) if out)
    # pinned: a prompt held out once is never trained on by a later version
    assert [number for number in range(100) if is_held_out(texts[number], 0.05)] == [19, 60, 70]
    assert not any(is_held_out(text, 0.0) for text in texts)


# ---- exclusions and sizes


def test_prompts_and_images_of_a_file_are_excluded(corpus):
    (corpus.folder / "out.txt").write_text("A  Prompt\nc.png\n")
    judged = [("a prompt", "a", "b", 1), ("b", "a", "c", 1), ("b", "c", "a", 1), ("b", "a", "b", 1)]
    data = corpus(*judged, exclude=str(corpus.folder / "out.txt"))
    assert pairs(data) == [("b", "a", "b", 1.0)]
    assert data.num_filtered == {"excluded": 3}


def test_small_images_are_dropped_by_their_short_side(corpus):
    data = corpus(("p", "a", "f", 1), ("p", "c", "d", 1), ("p", "d", "e", 1), min_side=10)
    assert pairs(data) == [("p", "c", "d", 1.0), ("p", "d", "e", 1.0)]
    assert data.num_filtered == {"too small": 1}


def test_each_row_is_counted_under_one_reason(corpus):
    (corpus.folder / "b.png").write_text("")
    judged = [(" ", "a", "b", 0.5), ("p", "b", "b", 0.5), ("p", "a", "b", 0.5), ("p", "a", "b", 1), ("p", "x", "b", 1),
              ("p", "c", "d", 1), ("p", "d", "c", 0), ("p", "d", "c", 1)]  # fmt: skip
    data = corpus(*judged)
    assert pairs(data) == [("p", "c", "d", 1.0), ("p", "d", "c", 1.0)]
    assert data.num_filtered == {
        "empty prompt": 1, "twice the same image": 1, "tie": 1, "unreadable image": 1, "missing image": 1,
        "duplicate": 1,
    }  # fmt: skip
    assert sum(data.num_filtered.values()) + len(data.view("pairs")) == len(judged)


def test_sizes_are_those_of_the_upright_images_and_nothing_is_decoded_for_them(tmp_path, source):
    shapes = {"a.png": (12, 30), "b.jpg": (30, 12), "c.jpg": (12, 30), "d.png": (30, 12)}
    for name, (height, width) in shapes.items():
        image, exif = Image.new("RGB", (width, height)), Image.Exif()
        if name in ("c.jpg", "d.png"):
            exif[ExifTags.Base.Orientation] = 6  # a quarter turn
        image.save(tmp_path / name, exif=exif)
    rows = [{"prompt": "p", "image_w": a, "image_l": b} for a, b in (("a.png", "b.jpg"), ("c.jpg", "d.png"))]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = source("local", path=str(tmp_path))
    pictures = [picture for sample in data.view("pairs") for picture in images_of(sample)]
    found = [data.size(picture) for picture in pictures]
    assert not any("pixels" in vars(picture) for picture in pictures)
    assert found == [picture.pixels.shape[:2] for picture in pictures] == [(12, 30), (30, 12), (30, 12), (12, 30)]


def test_images_are_looked_at_once_for_each_state_of_the_data(corpus, monkeypatch):
    from alignbench.data.storage import image_headers

    seen = []
    read_header = image_headers._read_header
    monkeypatch.setattr(
        image_headers,
        "_read_header",
        lambda store, number: seen.append(store.image(number).key) or read_header(store, number),
    )
    for _ in range(2):
        corpus(("p", "a", "b", 1)).view("pairs")
    assert seen == ["a.png", "b.png"]
    (corpus.folder / "b.png").write_text("changed")
    with pytest.raises(UserError, match=r"1 filtered out \(unreadable image, the first is .*b.png\)"):
        corpus(("p", "a", "b", 1)).view("pairs")
    assert seen == ["a.png", "b.png"] * 2


# ---- ties, votes, repeats


def test_ties_may_be_kept_for_methods_that_read_soft_labels_and_choose_no_winner(corpus):
    data = corpus(("p", "a", "b", 0.5), ("p", "c", "d", 0.3), ties="half")
    assert pairs(data) == [("p", "a", "b", 0.5), ("p", "d", "c", 0.7)]
    assert [sample.image.key for sample in data.view("images")] == ["d.png"]
    assert [(sample.image.key, sample.desirable) for sample in data.view("labels")] == [
        ("d.png", True),
        ("c.png", False),
    ]
    assert not data.num_filtered


VOTES = [
    ("p", "a", "b", 1),
    ("p", "b", "a", 1),
    ("p", "b", "a", 1),
    ("p", "a", "c", 1),
    ("p", "c", "a", 1),
    ("q", "a", "b", 1),
]


def test_repeated_judgements_are_dropped_kept_or_counted_as_votes(corpus):
    data = corpus(*VOTES)
    assert pairs(data) == [
        ("p", "a", "b", 1.0),
        ("p", "b", "a", 1.0),
        *((*pair, 1.0) for pair in ("pac", "pca", "qab")),
    ]
    assert data.num_filtered == {"duplicate": 1}
    assert len(corpus(*VOTES, repeats="keep").view("pairs")) == 6
    voted = corpus(*VOTES, repeats="vote")
    assert pairs(voted) == [("p", "b", "a", 0.666667), ("q", "a", "b", 1.0)]
    assert voted.num_filtered == {"counted with another vote": 3, "tie": 1}


@pytest.mark.parametrize("mixed", ["desirable", "undesirable", "dropped"])
def test_labels_of_pairs_are_those_of_the_plain_rule(corpus, mixed):
    rng = np.random.default_rng(0)
    judged = [(str(rng.integers(3)), *map(str, rng.choice(list("abcdef"), 2, replace=False)), 1) for _ in range(40)]
    data = corpus(*judged, mixed=mixed)
    plain = labels([Pair(prompt, f"{a}.png", f"{b}.png", 1.0) for prompt, a, b, _ in judged], mixed)
    assert [(s.prompt, s.image.key, s.desirable) for s in data.view("labels")] == plain
    assert data.view("labels").desirable == [wanted for _, _, wanted in plain]
    assert list(data.pairs) == [Pair(s.prompt, s.image_w.key, s.image_l.key, 1.0) for s in data.view("pairs")]


# ---- noise


def test_noise_turns_its_share_of_pairs_around_always_the_same_ones(corpus):
    judged = [(f"prompt {number}", "a", "b", 1) for number in range(500)]
    turned = {}
    for rate in (0.1, 0.3):
        data = corpus(*judged, label_noise=rate)
        turned[rate] = {prompt for prompt, winner, *_ in pairs(data) if winner == "b"}
        assert abs(len(turned[rate]) / 500 - rate) < 3 * (rate * (1 - rate) / 500) ** 0.5
        assert data.summary() == f"{len(turned[rate])} labels flipped (data.label_noise={rate})"
    assert turned[0.1] < turned[0.3]
    backwards = corpus(*[(prompt, "b", "a", 0) for prompt, *_ in reversed(judged)], label_noise=0.1)
    assert {prompt for prompt, winner, *_ in pairs(backwards) if winner == "b"} == turned[0.1]
    opposite = corpus(*[(prompt, "b", "a", 1) for prompt, *_ in judged], label_noise=0.1)
    assert {prompt for prompt, winner, *_ in pairs(opposite) if winner == "a"} == turned[0.1]
    other = corpus(*judged, label_noise=0.1, noise_seed=1)
    assert {prompt for prompt, winner, *_ in pairs(other) if winner == "b"} != turned[0.1]
    assert all(winner == "b" for _, winner, *_ in pairs(corpus(*judged[:5], label_noise=1.0)))


# ---- fingerprints and samples


def test_what_changes_the_samples_changes_the_fingerprint_and_what_does_not_leaves_addresses_alone(corpus):
    judged = many(20)
    plain = corpus(*judged)
    assert corpus(*judged).fingerprint == plain.fingerprint
    for change in ({"label_noise": 0.5}, {"heldout_share": 0.5}, {"repeats": "vote", "ties": "half"}):
        changed = corpus(*judged, **change)
        assert changed.fingerprint != plain.fingerprint
        assert changed.address("a.png") == plain.address("a.png")
    assert corpus(*((prompt, "b", "a", label) for prompt, _, _, label in judged)).fingerprint != plain.fingerprint


def test_large_data_are_told_apart_by_sizes_and_times_or_by_the_names_in_the_hubs_cache(corpus, monkeypatch):
    import os

    monkeypatch.setattr("alignbench.data.storage.image_store.HASHED_BYTES", 0)
    data = corpus(("p", "a", "b", 1))
    before = data.contents.store.identity
    assert before.startswith("stat:")
    assert data.address("a.png") == f"{before}/a.png"
    os.utime(corpus.folder / "a.png", ns=(1, 1))
    assert corpus(("p", "a", "b", 1)).contents.store.identity != before
    (corpus.folder / "blobs").mkdir()
    for name in ("a.png", "b.png"):
        blob = corpus.folder / "blobs" / (name[0] * 64)
        (corpus.folder / name).rename(blob)
        (corpus.folder / name).symlink_to(blob)
    assert corpus(("p", "a", "b", 1)).contents.store.identity.startswith("hub:")


def test_a_sample_that_was_not_read_travels_between_processes_in_a_few_hundred_bytes(corpus):
    sample = corpus(*many()).view("pairs")[0]
    content = pickle.dumps(sample)
    assert len(content) < 1000
    assert np.array_equal(pickle.loads(content).image_w.pixels, sample.image_w.pixels)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"split": "test"}, "data.split=test is unknown; available: train, heldout, all"),
        ({"heldout_share": 2}, "data.heldout_share=2 must be a number from 0 to 1"),
        ({"label_noise": "much"}, "data.label_noise=much must be a number from 0 to 1"),
        ({"min_side": -1}, "data.min_side=-1 must be a whole number of at least 0"),
        ({"min_side": 10, "check_images": False}, "add data.check_images=true"),
        ({"split": "heldout"}, "data.split=heldout is empty with data.heldout_share=0"),
        ({"exclude": "nowhere.txt"}, "data.exclude=nowhere.txt does not exist"),
        ({"ties": "keep"}, "data.ties=keep is unknown"),
        ({"repeats": "all"}, "data.repeats=all is unknown"),
        ({"mixed": "both"}, "data.mixed=both is unknown"),
        ({"noise_seed": 0.5}, "data.noise_seed=0.5 must be a whole number"),
    ],
)
def test_impossible_rules_are_refused_before_anything_is_read(corpus, values, message):
    with pytest.raises(Exception, match=message):
        corpus(("p", "a", "b", 1), **values)
