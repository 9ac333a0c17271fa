"""Read `reward=[NAME,NAME]`: a sum of rewards, as the words that compose it."""

from collections.abc import Sequence

from alignbench.configuration.typed.words import parse_words
from alignbench.errors import UserError
from alignbench.settings.section import shown


def with_reward_sums(words: Sequence[str]) -> list[str]:
    """Return the words of a command with `reward=[NAME,NAME]` in the words that compose it: a sum of rewards.

    `reward.weights.NAME=0.5` sets the weight of one of them, 1 by default. All other words stay as they are.

    >>> with_reward_sums(["reward=[pickscore,clip_score]", "reward.weights.clip_score=0.5"])[:2]
    ['reward=several', '+reward@reward.components.pickscore=pickscore']

    Raises:
        UserError: a reward is named twice.
    """
    chosen = {word: parse_words([word])[0].value() for word in words if word.startswith("reward=[")}
    lists = [value for value in chosen.values() if isinstance(value, list)]  # a sweep over lists is refused elsewhere
    names = [shown(name) for value in lists[-1:] for name in value]
    if len(names) < 2:  # Hydra takes a list of one
        return list(words)
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"reward={shown(names)} names {repeated} twice; count it twice by reward.weights.{repeated}=2")
    parts = [f"+reward@reward.components.{name}={name}" for name in names]
    weights = [f"+reward.weights.{name}=1.0" for name in names]
    # a weight of another name is refused by the sum, which knows the names
    others = [f"++{word}" if word.startswith("reward.weights.") else word for word in words if word not in chosen]
    return ["reward=several", *parts, *weights, *others]
