import subprocess
import sys

import numpy as np
import pytest

from alignbench.data.prompts import overlap, shapes
from alignbench.data.sources import shapes as module
from alignbench.data.sources.shapes import NUM_PROBES, ShapesData
from alignbench.errors import UserError
from alignbench.miniature.annotators import Population, features
from alignbench.miniature.captions import content_of, parse
from alignbench.miniature.reading import read


def data(**changes):
    settings = {
        "name": "shapes",
        "num_prompts": 5,
        "num_pairs": 12,
        "annotators": Population(),
        "num_votes": 5,
        "fault_share": 0.4,
        "dirt_share": 0.3,
        "seed": 0,
        "posterior": "mode",
    }
    return ShapesData(**(settings | changes))


@pytest.fixture(scope="module")
def source():
    return data()


def test_pairs_are_the_same_each_time_they_are_made(source):
    again = data()
    assert again.pairs == source.pairs
    key = source.pairs[3].key_w
    assert np.array_equal(again.image(key).pixels, source.image(key).pixels)


def test_more_pairs_leave_the_first_ones_as_they_are(source):
    assert data(num_pairs=3).pairs == source.pairs[:3]


def test_an_odd_number_of_votes_never_ties_and_the_soft_label_is_the_share_of_the_winner(source):
    assert len(source.pairs) == 12
    assert source.num_filtered == {}
    assert {round(pair.probability_w, 6) for pair in source.pairs} <= {0.6, 0.8, 1.0}


def test_ties_are_dropped_and_counted():
    source = data(num_votes=2, num_pairs=24)
    pairs = source.view("pairs")
    assert 0 < len(pairs) < 24
    assert source.num_filtered == {"tie": 24 - len(pairs)}
    assert {pair.probability_w for pair in pairs} == {1.0}


def test_without_votes_the_soft_label_is_the_exact_law():
    source = data(num_votes=None, num_pairs=6)
    for pair in source.view("pairs"):
        exact = source.annotators.preference_probability(
            features(read(pair.image_w.pixels), pair.prompt), features(read(pair.image_l.pixels), pair.prompt)
        )
        assert pair.probability_w == pytest.approx(float(exact))
        assert pair.probability_w > 0.5


def test_annotators_who_agree_choose_the_image_of_greater_utility():
    annotators = Population(spread=0.0, noise_rate=0.0, temperature=1e-6)
    for pair in data(annotators=annotators).view("pairs"):
        utility_w, utility_l = (
            annotators.mean_utility(features(read(image.pixels), pair.prompt)) for image in (pair.image_w, pair.image_l)
        )
        assert utility_w >= utility_l


def test_every_prompt_gets_its_share_of_pairs(source):
    assert [pair.prompt for pair in source.pairs] == [source.prompts[number % 5] for number in range(12)]


def test_each_kind_of_samples_follows_from_the_pairs(source):
    winners, labelled = source.view("images"), source.view("labels")
    assert [sample.image.key for sample in winners] == [pair.key_w for pair in source.pairs]
    assert [sample.desirable for sample in labelled] == [True, False] * 12
    assert [sample.prompt for sample in source.view("prompts")] == source.prompts
    assert all(sample.image.pixels.shape == (64, 64, 3) for sample in labelled)


def test_prompts_are_offered_without_drawing_an_image():
    source = data(seed=5)
    source.view("prompts")
    assert source.candidates._images == {}


def test_jobs_of_a_sweep_draw_and_read_the_same_images_once(monkeypatch):
    data(seed=6).pairs  # noqa: B018
    monkeypatch.setattr("alignbench.data.sources.shapes.candidate", lambda *_: pytest.fail("drawn again"))
    other_people = data(seed=6, annotators=Population(seed=1))
    assert len(other_people.pairs) == 12
    assert other_people.image(other_people.pairs[0].key_w).pixels.shape == (64, 64, 3)


@pytest.fixture
def another_command(tmp_path, monkeypatch):
    """Return the data as another command sees them, and the images that it measures because the cache has none."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def start():
        module._candidates.cache_clear()
        measured = []
        monkeypatch.setattr("alignbench.miniature.reading.read", lambda image: measured.append(image) or read(image))
        return data(), measured

    return start


def test_another_command_measures_only_the_images_of_the_fingerprint(source, another_command):
    cold, measured = another_command()
    assert cold.pairs == source.pairs
    assert len(measured) == 2 * 12
    warm, measured = another_command()
    assert (warm.pairs, warm.fingerprint) == (source.pairs, source.fingerprint)
    assert len(measured) == 2 * NUM_PROBES
    keys = [key for pair in source.pairs for key in (pair.key_w, pair.key_l)]
    assert all(np.array_equal(warm.candidates.features(key), cold.candidates.features(key)) for key in keys)


@pytest.mark.parametrize(
    "damage", [lambda content: content[:-40], lambda content: content[:-50] + b"!" + content[-49:]]
)
def test_a_damaged_cache_is_measured_again(source, another_command, tmp_path, damage):
    another_command()[0].pairs  # noqa: B018
    (kept,) = tmp_path.rglob("*.npy")
    whole = kept.read_bytes()
    kept.write_bytes(damage(whole))
    again, measured = another_command()
    assert again.pairs == source.pairs
    assert len(measured) == 2 * 12
    assert kept.read_bytes() == whole


def test_another_program_has_a_cache_of_its_own(another_command, tmp_path, monkeypatch):
    another_command()[0].pairs  # noqa: B018
    monkeypatch.setattr(module, "PROGRAM", tmp_path)
    (tmp_path / "reading.py").write_text("MIN_CHROMA = 25.0")
    other, measured = another_command()
    assert other.pairs
    assert len(measured) == 2 * 12
    assert len(list(tmp_path.rglob("*.npy"))) == 2


def test_training_prompts_ask_for_no_picture_that_is_evaluated():
    trained, evaluated = data(num_prompts=300).prompts, shapes("shapes", 384, 0, None)
    assert overlap(trained, evaluated) == []
    assert not {content_of(parse(p)) for p in trained} & {content_of(parse(p)) for p in evaluated.texts}


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"num_pairs": 13},
        {"num_prompts": 6},
        {"num_votes": 3},
        {"fault_share": 0.5},
        {"annotators": Population(seed=1)},
        {"annotators": Population(noise_rate=0.9)},
    ],
)
def test_the_fingerprint_follows_the_recipe(source, changes):
    assert data().fingerprint == source.fingerprint
    assert data(**changes).fingerprint != source.fingerprint


@pytest.mark.parametrize("setting", ["num_prompts", "num_pairs", "num_votes"])
def test_a_count_below_one_is_refused(setting):
    with pytest.raises(UserError, match=f"data.{setting}=0 must be at least 1"):
        data(**{setting: 0})


def test_a_share_above_one_is_refused():
    with pytest.raises(UserError, match=r"data.dirt_share=1.5 must lie in 0..1"):
        data(dirt_share=1.5)


def test_sources_and_prompt_sets_are_read_without_torch():
    program = (
        "import sys, alignbench.data.prompts, alignbench.data.sources.local, alignbench.data.sources.shapes;"
        "sys.exit('torch' in sys.modules or 'pandas' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
