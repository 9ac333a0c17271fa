import pytest

from alignbench.errors import UserError
from alignbench.plan.__main__ import read_settings
from alignbench.plan.lines import plan, shipped_sets


def lines(*words):
    return list(plan(read_settings(words)))


def test_a_plan_tells_prompts_images_time_and_what_the_shipped_sets_show():
    told = "\n".join(lines("win_rate=0.53", "images=4", "rho=0.3", "comparisons=6", "seconds_per_image=1"))
    assert (
        "1,593 prompts show it with 80 % power: 12,744 images, those of base included, 3 h 32 min on one device" in told
    )
    assert "3,200 prompts   52.1 %  prompts=hpdv2" in told
    assert "One seed says nothing about training again" in told
    assert list(shipped_sets().values()) == [3200, 1632, 1018, 553, 487, 200]


def test_too_few_seeds_are_told_with_how_many_would_do():
    told = "\n".join(lines("seeds=3", "seed_deviation=0.05", "prompts=100"))
    assert "no number of prompts shows it with 3 seeds; 10 seeds can" in told
    assert "100 prompts   75.1 %  your own" in told
    assert "One seed" not in told


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["win_rate=0.4"], "win_rate=0.4 must be a share above 0.5"),
        (["win_rate=55"], "win_rate=55 must be a share above 0.5"),
        (["winrate=0.6"], "winrate is unknown; did you mean win_rate"),
        (["0.6"], "0.6 is not understood; expected key=value"),
        (["images=[1"], "images=[[]1 is not understood; expected a number"),
        (["images=1.5"], "images=1.5 must be"),
        (["ties=0.9", "win_rate=0.6"], "win_rate=0.6 cannot be with ties=0.9: ties count half, so it is at most 0.55"),
        (["results=nowhere"], "results=nowhere does not exist"),
    ],
)
def test_a_wrong_word_is_told_in_a_sentence(words, message):
    with pytest.raises(UserError, match=message):
        lines(*words)


def test_variances_are_those_of_finished_runs():
    told = "\n".join(lines("results=results/published/example", "win_rate=0.6"))
    assert "sft over base on sd15_mini by shapes_annotators@2" in told
    assert "of the images are equal, so that no method can win so much" in told


def test_a_folder_without_a_comparison_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no method that was scored beside base"):
        lines(f"results={tmp_path}")
