"""Is it still the model that gave the known verdicts that answers under a comparer's name?"""

from collections.abc import Sequence
from pathlib import Path

from alignbench.errors import UserError
from alignbench.pairwise.canaries import canaries, other_answers, pairs_digest
from alignbench.pairwise.comparer import Comparer, Verdict
from alignbench.store.canary_answers import CanaryAnswers


def refuse_another_model(comparer: Comparer, verdicts: Sequence[Verdict], before: str, remedy: str) -> str:
    """Return the model that answers; none of the verdicts is kept if it is not the one that has answered before.

    Args:
        before: name of the model that has answered before; empty where nobody said.
        remedy: what to do about another one, as the end of the sentence.

    Raises:
        UserError: a server has put another model behind the name.
    """
    for name in (verdict.answered_by for verdict in verdicts if verdict.answered_by):  # garbage names none
        before = before or name
        if name != before:
            raise UserError(f"{comparer.name}: {name} answers now and {before} answered before; {remedy}")
    return before


def refuse_other_answers(comparer: Comparer, before: str, path: Path, is_known: bool, remedy: str) -> str:
    """Ask about the canary pairs; keep the answers if verdicts of this comparer begin now, otherwise compare them.

    Args:
        before, remedy: as for `refuse_another_model`.
        path: where the answers are kept.
        is_known: whether there are verdicts already of this comparer as it is configured now.

    Returns:
        The name of the model that answers; empty where nobody says.

    Raises:
        UserError: another model answers.
    """
    pairs = canaries()
    verdicts: list[Verdict] = []
    for start in range(0, len(pairs), comparer.batch_size):
        batch = pairs[start : start + comparer.batch_size]
        first, second = (
            comparer.preprocess(images) for images in ([one.first for one in batch], [one.second for one in batch])
        )
        verdicts += comparer.compare(first, second, [one.prompt for one in batch])
    before = refuse_another_model(comparer, verdicts, before, remedy)
    answers = CanaryAnswers(comparer.identity, pairs_digest(), tuple(verdicts))
    known = CanaryAnswers.read(path) if is_known else None
    if known is None or (known.identity, known.pairs) != (answers.identity, answers.pairs):
        answers.write(path)
    elif others := other_answers(known.verdicts, verdicts):
        raise UserError(
            f"{comparer.name} answers {len(others)} of {len(pairs)} test pairs otherwise than before, such as "
            f"{others[0].prompt!r}, so another model may be behind the name; {remedy}"
        )
    return before
