"""The whole command on a few renderings, and what it refuses."""

import json
import subprocess
import sys

import pytest
from omegaconf import OmegaConf

from alignbench.card.checks import check
from alignbench.card.policies import policy_gains
from alignbench.card.run import make_cards
from alignbench.configuration.compose import composed
from alignbench.errors import UserError
from alignbench.settings.card import CardCommand, Exploit
from alignbench.store.cards import read_cards
from tests.pages import ROOT

FEW = ["human_pairs.shapes.num_prompts=2", "human_pairs.shapes.num_images=6", "calibration=false"]
OTHERS = ("clip", "preference", "oracle_agreement", "oracle_realism", "oracle_cleanliness")
ANNOTATORS = [f"~evaluators.shapes_{one}" for one in OTHERS]  # words that leave them alone


def cards(*words):
    cfg = composed([*FEW, *words], "card")
    check(cfg)
    make_cards(cfg)
    return read_cards(cfg.results)


@pytest.mark.matrix
def test_a_command_makes_a_card_of_each_judge_and_a_second_one_asks_nothing(tmp_path, monkeypatch, capsys):
    words = [
        "comparers=shapes", "exploit.num_images=2", "exploit.num_steps=1", "exploit.levels=8", "comparer_pairs=5",
        f"results={tmp_path}", "~evaluators.shapes_oracle_agreement", "~evaluators.shapes_oracle_cleanliness",
        "~evaluators.shapes_preference", f"runs={ROOT / 'results/published/mini_online_table'}",
        "exploit.comparer_prompts=2",
    ]  # fmt: skip
    found = cards(*words)
    judges = {"shapes_annotators", "shapes_clip", "shapes_oracle_realism", "shapes_comparer"}
    assert {name for name, _ in found} == judges
    clip, truth = found["shapes_clip", "1"], found["shapes_annotators", "2"]
    assert truth.lead.accuracy.value == 1
    assert (truth.lead.in_domain, clip.lead.in_domain) == (True, False)
    assert [one.levels for one in clip.ascent] == [8]
    assert not truth.ascent, "a program has no gradient"
    assert clip.best_of[0].n == [1, 2, 4]
    assert clip.alike[0].num_scorers == 3
    assert clip.cost.seconds > 0
    assert {one.method for one in truth.policies} == {"smpo", "dpo"}
    comparer = found["shapes_comparer", "1"]
    assert comparer.lead.position.calls == 10
    [chosen] = comparer.best_of
    assert (chosen.n, chosen.num_prompts) == ([1, 2, 4], 2)
    assert chosen.gain["shapes_comparer"][-1] > chosen.gain["shapes_comparer"][1] > 0
    assert chosen.gain["shapes_annotators"] == pytest.approx(chosen.truth), "both orders take its bias away"
    page = (tmp_path / "cards" / "cards.md").read_text()
    assert "3 scorers are worth" in page
    assert "the truth is a program's" in page
    assert (
        len(list((tmp_path / "cards" / "pictures").glob("*.png"))) == 5
    )  # comparers saw fewer pairs, so have one of their own
    assert "shapes_clip@1" in capsys.readouterr().out

    from evaluators.comparers.shapes import ShapesComparer

    def refuse(*_):
        raise AssertionError("known already")

    monkeypatch.setattr(ShapesComparer, "compare", refuse)
    monkeypatch.setattr("alignbench.card.scoring._score", lambda asked, *_: [refuse() for _ in asked])
    again = cards(*words[5:], "comparers=shapes", "exploit.num_images=0", "comparer_pairs=5",
                  "exploit.comparer_prompts=1")  # fmt: skip
    assert again["shapes_clip", "1"].ascent == clip.ascent, "what an earlier command measured is kept"
    assert again["shapes_clip", "1"].lead == clip.lead
    assert again["shapes_comparer", "1"].lead == comparer.lead
    assert again["shapes_comparer", "1"].best_of[0].num_prompts == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["exploit.levels=[300]"], r"exploit\.levels=300 must be a whole number from 1 to 255"),
        (["exploit.steps=3"], r"exploit\.steps is unknown"),
        (["+exploit.foo=3"], r"exploit\.foo is unknown"),
        (["human_pairs=imagreward"], "human_pairs=imagreward is unknown; did you mean imagereward"),
        (["human_pairs=[shapes,imagereward]"], r"human_pairs\.imagereward\.images must be given"),
        (["evaluators=none"], "nobody is to be judged"),
        (["~human_pairs.shapes"], "leave nothing to measure"),
        (["num_prompts=0"], "num_prompts=0 must be"),
        (["runs=nowhere"], "runs=nowhere holds no leaderboard.csv"),
        (["human_pairs.shapes.fault_share=2"], r"fault_share=2 must be a number from 0 to 1"),
        (["+evaluator@evaluators.other=shapes_clip"], "two of the judges are called shapes_clip"),
    ],
)
@pytest.mark.matrix
def test_a_command_that_cannot_work_is_refused_in_a_sentence(words, message, tmp_path):
    with pytest.raises(UserError, match=message):
        cards(*words, f"results={tmp_path}")


def test_prompts_that_an_evaluator_cannot_judge_are_refused(tmp_path):
    files = [tmp_path / f"{n}.png" for n in range(2)]
    for file in files:
        file.touch()
    entry = {"prompt": "a painting of the sea", "generations": [one.name for one in files], "ranking": [1, 2]}
    (tmp_path / "test.json").write_text(json.dumps([entry]))
    words = [f"human_pairs.imagereward.path={tmp_path}/test.json", f"human_pairs.imagereward.images={tmp_path}"]
    words += [*ANNOTATORS, "calibration=false", f"results={tmp_path}"]
    cfg = composed(["human_pairs=imagereward", *words], "card")
    with pytest.raises(UserError, match="human_pairs=imagereward cannot be judged: shapes_"):
        make_cards(cfg)


def test_the_gap_of_a_policy_is_between_its_reward_and_what_it_did_not_train_on():
    found = policy_gains(ROOT / "results/published/mini_online_table/leaderboard.csv")
    draft = next(one for one in found["shapes_preference", "1"] if (one.method, one.model) == ("draft", "flux_mini"))
    assert round(100 * draft.won, 1) == 93.4
    # the mean of annotators 51.7, agreement 49.9, cleanliness 31.9, realism 85.9 and clip 30.1
    assert round(100 * draft.held_out_won, 1) == 49.9
    assert draft.num_held_out == 5


def test_a_damaged_card_is_refused_before_anything_is_measured(tmp_path):
    file = tmp_path / "cards" / "shapes_annotators@2.json"
    file.parent.mkdir()
    file.write_text("{}")
    with pytest.raises(UserError, match=r"shapes_annotators@2\.json has a wrong entry"):
        cards(*ANNOTATORS, f"results={tmp_path}")
    assert not (tmp_path / "cards" / "scores").exists()


@pytest.mark.matrix
def test_help_loads_no_network_library():
    code = (
        "import sys; sys.argv = ['card', '--help']\n"
        "from alignbench.card.__main__ import main\n"
        "try: main()\nexcept SystemExit: print({'torch', 'diffusers', 'pandas'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "set()"


def test_a_card_without_judges_or_data_is_refused():
    cfg = OmegaConf.create({"evaluators": {}, "comparers": {}, "human_pairs": {}, "runs": None, "exploit": {}})
    cfg = OmegaConf.merge(cfg, CardCommand.defaults(), {"exploit": Exploit.defaults()})
    with pytest.raises(UserError, match="nobody is to be judged"):
        check(cfg)
    with pytest.raises(UserError, match="leave nothing to measure"):
        check(OmegaConf.merge(cfg, {"evaluators": {"a": {"_target_": "x.y"}}}))
    with pytest.raises(UserError, match=r"exploit\.levels=300 must be a whole number from 1 to 255"):
        check(OmegaConf.merge(cfg, {"exploit": {"levels": [300]}}))
