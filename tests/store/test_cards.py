"""Cards come back as they were written, and what is no card is refused."""

import json
from dataclasses import replace

import pytest

from alignbench.errors import UserError
from alignbench.files import with_check
from alignbench.store.cards import (
    Card,
    Cost,
    DataAccuracy,
    Interval,
    OtherGain,
    PixelAscent,
    card_file,
    newest_first,
    read_card,
    read_cards,
    write_card,
)

ON_MMRB2 = DataAccuracy(
    "mmrb2", "2025-12", True, "0a1b", 1, 1000, 1000, 0, False, Interval(0.586, 0.55, 0.62), 0.586, "mmrb2", [], [], [],
    None, None,
)  # fmt: skip
RAISED = PixelAscent("mmrb2", 8, 20, 200, 1.0, 0.1, 1.0, [OtherGain("clip", -0.1, 0.0, 0.3, False)], 1.1, 0.3)
COST = Cost("cpu", 0.1, 1)
CARD = Card("pickscore", "1", "evaluator", "abc float32", "abc", [], "0.2", [ON_MMRB2], [RAISED], cost=COST)


def test_a_card_comes_back_as_it_was_written(tmp_path):
    file = write_card(tmp_path, CARD)
    assert file == tmp_path / "cards" / "pickscore@1.json"
    assert read_card(file) == CARD
    assert read_cards(tmp_path) == {("pickscore", "1"): CARD}


def test_the_newest_data_set_of_people_leads():
    older = replace(ON_MMRB2, data="hpdv2", published="2023-06")
    shapes = replace(ON_MMRB2, data="shapes", published="9999-99", is_of_people=False)
    assert [one.data for one in newest_first([shapes, older, ON_MMRB2])] == ["mmrb2", "hpdv2", "shapes"]
    assert CARD.lead == ON_MMRB2
    assert replace(CARD, accuracy=[]).lead is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda card: card | {"accuracy": "high"}, "wrong entry accuracy"),
        (lambda card: card | {"harmless": 1}, "wrong entry harmless"),
        (lambda card: card | {"kind": "oracle"}, "wrong entry kind"),
        (lambda card: card | {"name": "hpsv2"}, r"is the card of hpsv2@1"),
        (lambda card: card | {"accuracy": [card["accuracy"][0] | {"mean_of_prompts": 1.5}]}, "mean_of_prompts"),
        (lambda card: {key: card[key] for key in card if key != "weights"}, "wrong entry weights"),
        (lambda card: [card], "holds a list, expected an object"),
    ],
)
def test_what_is_no_card_is_refused_and_left_out_of_others(tmp_path, change, message):
    file = write_card(tmp_path, CARD)
    values = {key: value for key, value in json.loads(file.read_text()).items() if key != "check"}
    file.write_text(json.dumps(change(values)))
    with pytest.raises(UserError, match=message):
        read_card(file)
    other = write_card(tmp_path, replace(CARD, name="clip_score"))
    left_out = {}
    assert list(read_cards(tmp_path, left_out)) == [("clip_score", "1")]
    assert list(left_out) == ["cards/pickscore@1.json"]
    assert other.exists()


def test_a_card_that_was_changed_by_hand_is_refused(tmp_path):
    file = write_card(tmp_path, CARD)
    values = json.loads(file.read_text())
    file.write_text(json.dumps(values | {"weights": "zzz"}))
    with pytest.raises(UserError, match="has changed since it was written"):
        read_card(file)
    file.write_text(json.dumps(with_check({key: value for key, value in values.items() if key != "check"})))
    assert read_card(file) == CARD
    assert card_file(tmp_path, "pickscore", "1") == file
