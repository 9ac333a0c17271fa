"""Words of the online methods that are not among their choices are refused, with those that are, before a load."""

import re

import pytest

from alignbench.configuration.compose import check_command_line
from alignbench.errors import UserError


@pytest.mark.parametrize(
    ("method", "word", "available"),
    [
        ("nft", "advantage.combination=mean", "sum, gdpo"),
        ("nft", "advantage.spread=mean", "round, group, none"),
        ("nft", "levels.draw=first", "shuffled, stratified"),
        ("nft", "rollout_policy=reference", "policy, old"),
        ("awm", "likelihood=elbo", "uniform, sigma, sigma2, adaptive, ghuber, huber, exact"),
        ("awm", "ratio_to=reference", "policy, old"),
        ("pepg", "variant=ppo", "pepg, epg, par"),
        ("draft", "truncation.draw=normal", "fixed, uniform, gaussian"),
        ("grpo", "gate=clip", "ratio, centred_ratio, divergence"),
        ("grpo", "kernel.kind=sde", "flow, dance, ddim, cps"),
    ],
)
def test_a_word_that_is_no_choice_is_refused_with_those_that_are(method, word, available):
    with pytest.raises(UserError) as refused:
        check_command_line([f"method={method}", "model=flux_mini", f"method.{word}"], multirun=False)
    assert re.match(rf"method\.{re.escape(word)} is unknown; .*available: {available}$", str(refused.value))
