"""Cards in tables of results: the accuracy stands beside each evaluator that has a card."""

from dataclasses import replace

import pytest

from alignbench.report.cards.beside import cards_beside
from alignbench.report.cards.page import markdown
from alignbench.report.cards.tables import accuracy_grids, ascent_grids, position_grid
from alignbench.report.cards.write import write_cards_page
from alignbench.report.write import write_report
from alignbench.store.cards import Interval, PositionFigures, read_cards, write_card
from alignbench.store.scores import ScoreInfo
from tests.pages import ROOT
from tests.store.test_cards import CARD, ON_MMRB2


def card_of(name, **changes):
    return replace(CARD, name=name, identity="float32", weights="", **changes)


def test_a_card_of_other_weights_is_not_shown():
    infos = {("pickscore", "1"): ScoreInfo("pickscore", "1", "squash", weights="abc")}
    card = replace(CARD, identity="abc float32 squash")
    assert cards_beside(infos, {("pickscore", "1"): card}) == {("pickscore", "1"): card}
    assert cards_beside(infos, {("pickscore", "1"): replace(card, identity="abd float32 squash")}) == {}
    assert cards_beside(infos, {("pickscore", "2"): card}) == {}
    assert cards_beside(infos, {("pickscore", "1"): replace(card, accuracy=[])}) == {}


def test_the_leaderboard_names_the_accuracy_beside_an_evaluator_that_has_a_card(small_table):
    root = small_table.root
    write_report(root, 50)
    without = {path.name: path.read_bytes() for path in root.glob("*.*")}
    assert b"agrees with people" not in without["leaderboard.md"]
    assert b'"agreement"' not in without["index.html"]
    write_card(root, card_of("clip"))
    assert write_report(root, 50).cards.keys() == {("clip", "1")}
    text = (root / "leaderboard.md").read_text()
    assert "| agrees with people, % | 58.6 [55.0, 62.0] mmrb2 |" in text
    assert "compare within one data set" in text
    assert '"agreement":"58.6 [55.0, 62.0] mmrb2"' in (root / "index.html").read_text()
    for name in ("leaderboard.csv", "win_rates.csv", "ranking.csv", "diagnostics.csv"):
        assert (root / name).read_bytes() == without[name]


def test_a_damaged_card_is_left_out_of_a_report_and_named(small_table):
    file = write_card(small_table.root, card_of("clip"))
    file.write_text("{}")
    tables = write_report(small_table.root, 50)
    assert tables.cards == {}
    assert "cards/clip@1.json is left out of this report" in tables.left_out_told[0]


def test_accuracies_are_compared_within_the_same_pairs_and_protocol():
    same = card_of("a"), card_of("b")
    others = [replace(ON_MMRB2, digest="ffff"), replace(ON_MMRB2, protocol=2), replace(ON_MMRB2, num_pairs=10)]
    assert [len(grid.rows) for grid in accuracy_grids(same)] == [2]
    for other in others:
        grids = accuracy_grids([*same, card_of("c", accuracy=[other])])
        assert sorted(len(grid.rows) for grid in grids) == [1, 2]


def test_newer_data_sets_come_first_and_better_judges_before_worse():
    older = replace(ON_MMRB2, data="hpdv2", published="2023-06")
    better = replace(ON_MMRB2, accuracy=Interval(0.7, None, None))
    first, second = accuracy_grids([card_of("a", accuracy=[ON_MMRB2, older]), card_of("b", accuracy=[better])])
    assert [row[0] for row in first.rows] == ["b@1", "a@1"]
    assert first.rows[0][1] == "70.0", "an accuracy over one prompt has no interval"
    assert second.title.startswith("hpdv2: 1,000 pairs of 1,000 prompts")


def test_the_page_shows_who_notices_and_flags_a_biased_comparer(tmp_path):
    bias = PositionFigures(20, 10, 0, 0, 0.7, 0.5, 0.4, 0.1, 0.9, True)
    judged = card_of("judge", kind="comparer", accuracy=[replace(ON_MMRB2, position=bias)], ascent=[])
    (position,) = position_grid([judged])
    assert position.rows[0] == ["judge@1", "mmrb2", "20", "70.0", "50.0", "+0.90", "0", "biased"]
    figures, gains = ascent_grids([card_of("a")])
    assert figures.rows == [["a@1", "+1.00", "100", "clip", "-0.10", "+1.10", "30", "clip", "-0.10"]]
    assert gains.rows == [["a", "+1.00", "-0.10"]]
    for card in (judged, card_of("a")):
        write_card(tmp_path, card)
    text = write_cards_page(tmp_path).read_text()
    assert "| judge@1 | mmrb2 | 20 | 70.0 | 50.0 | +0.90 | 0 | biased |" in text
    assert (tmp_path / "cards" / "cards.csv").read_text().count("\n") == 3
    assert len(list((tmp_path / "cards" / "pictures").glob("*.png"))) == 2


def test_names_from_elsewhere_are_no_markup():
    text = markdown([card_of("a|b<script>")], {"cards/*x.json": "<b>"}, {})
    assert "<script>" not in text.replace("\\<", "")
    assert "a\\|b" in text


@pytest.mark.parametrize("cards", [[], [card_of("a", accuracy=[], ascent=[], cost=None)]])
def test_a_page_of_nothing_has_no_tables(cards):
    assert markdown(cards, {}, {}) == "# Judge cards\n"


def test_the_published_cards_can_be_read_and_the_readme_says_what_they_say():
    cards = read_cards(ROOT / "results" / "published" / "mini_cards")
    assert len(cards) == 8
    assert {card.lead.num_pairs for card in cards.values() if card.kind == "evaluator"} == {14750}
    readme = (ROOT / "results" / "published" / "README.md").read_text()
    for name in ("shapes_clip", "shapes_matching", "shapes_preference"):
        for one in cards[name, "1"].ascent:
            assert f"| `{name}` | {one.levels} | {one.gain + one.control:+.2f} |" in readme
