"""What goes through the networks: rows, and CPU seconds of the calling thread."""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from alignbench.evaluator import Evaluator
from alignbench.models.adapter import ModelAdapter

BACKWARD = torch.autograd.backward  # that of torch, whatever counts now
# calls of the denoiser without and with a gradient, and rows that a gradient comes back to
DENOISER = ("forward", "trained forward", "backward")


class Meter:
    """Counts the calls of a model's networks and of a reward's, forward and backward apart.

    A backward pass is counted where the gradient reaches the denoiser's output; its seconds are those of the whole
    call, decoder and reward included.

    Attributes:
        rows: by name: those of `DENOISER`, `text`, `encode`, `decode`, `reward image` and `reward text`.
        seconds: the same, in CPU seconds.
    """

    def __init__(self) -> None:
        self.rows: Counter[str] = Counter()
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @property
    def total(self) -> float:
        """CPU seconds inside networks so far."""
        return sum(self.seconds.values())

    def clear(self) -> None:
        """Begin anew."""
        self.rows.clear()
        self.seconds.clear()

    def watch(self, model: ModelAdapter, reward: Evaluator | None = None) -> None:
        """Count the calls of a model, and of a reward that is a CLIP network."""
        self._watch(model, "forward", self._denoiser)
        self._watch(model, "encode_prompts", lambda *_: "text")
        self._watch(model, "encode_posterior", lambda *_: "encode")
        self._watch(model, "decode_latents", lambda *_: "decode")
        network = None if reward is None else reward.network
        for method, name in (("get_image_features", "reward image"), ("get_text_features", "reward text")):
            if hasattr(network, method):
                self._watch(network, method, lambda *_, name=name: name)

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Take backward passes made meanwhile for those of this model, also within the counting of another meter."""

        def timed(*arguments: Any, **named: Any) -> None:
            began = time.thread_time()
            BACKWARD(*arguments, **named)
            self.seconds["backward"] += time.thread_time() - began

        before, torch.autograd.backward = torch.autograd.backward, timed
        try:
            yield
        finally:
            torch.autograd.backward = before

    def _watch(self, thing: Any, method: str, name_of: Callable[[Any], str]) -> None:
        function = getattr(thing, method)

        def watched(*arguments: Any, **named: Any) -> Any:
            began = time.thread_time()
            result = function(*arguments, **named)
            name = name_of(result)
            self.seconds[name] += time.thread_time() - began
            self.rows[name] += len(next(iter((*arguments, *named.values()))))
            return result

        setattr(thing, method, watched)

    def _denoiser(self, prediction: Tensor) -> str:
        if not prediction.requires_grad:
            return "forward"

        def reached(gradient: Tensor) -> None:
            self.rows["backward"] += len(gradient)

        prediction.register_hook(reached)
        return "trained forward"
