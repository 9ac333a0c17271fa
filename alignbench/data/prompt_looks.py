"""In which order is a prompt set measured look by look, and which prompts does a look have?"""

from collections import Counter, defaultdict

from alignbench.data.prompts import Prompt, PromptSet
from alignbench.errors import UserError
from alignbench.settings.sampling import Looks
from alignbench.text import keyed


def in_random_order(whole: PromptSet, seed: int) -> list[list[Prompt]]:
    """Return the prompts of a set in a random order, those of one text together.

    Every first part of the order has about the share of each group that the whole set has. The order is the same for
    all runs with the same `sampling.seed`, so two of them have the prompts of the shorter one in common.
    """
    by_text: defaultdict[str, list[Prompt]] = defaultdict(list)
    for prompt in whole:
        by_text[prompt.prompt].append(prompt)
    groups = {text: same[0].groups[:1] for text, same in by_text.items()}
    sizes, seen = Counter(groups.values()), Counter[tuple[str, ...]]()
    draws = {text: keyed(seed, "looks", text) for text in by_text}
    urgency = {}
    for text in sorted(by_text, key=lambda text: draws[text]):
        group = groups[text]
        urgency[text] = ((seen[group] + 0.5) / sizes[group], draws[text])
        seen[group] += 1
    return [by_text[text] for text in sorted(by_text, key=lambda text: urgency[text])]


def look_sizes(whole: PromptSet, looks: Looks) -> list[int]:
    """Return how many different prompts each look has, the last one all of them.

    Args:
        looks: see `alignbench.settings.sampling`.

    Raises:
        UserError: there are too few prompts for looks that differ.
    """
    num = len(set(whole.texts))
    shares = [(look + 1) / looks for look in range(looks)] if isinstance(looks, int) else [*looks, 1.0]
    sizes = [max(round(share * num), 1) for share in shares]
    if sizes != sorted(set(sizes)):
        told = looks if isinstance(looks, int) else f"[{','.join(f'{share:g}' for share in looks)}]"
        raise UserError(
            f"sampling.looks={told} has looks with the same prompts, as there are only {num} different ones; choose "
            "fewer looks"
        )
    return sizes


def first_prompts(whole: PromptSet, seed: int, num: int) -> PromptSet:
    """Return the prompts of the first `num` texts of the random order, in the order of the set."""
    chosen = {prompt.prompt_id for same_text in in_random_order(whole, seed)[:num] for prompt in same_text}
    prompts = tuple(prompt for prompt in whole if prompt.prompt_id in chosen)
    return PromptSet(whole.name, prompts, whole.full_size, whole)
