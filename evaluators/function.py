"""A Python function of the user's as an evaluator."""

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

from PIL import Image

from alignbench.errors import UserError
from evaluators.black_box import BlackBox, Version


class Function(BlackBox):
    """The scores that a function returns for a list of pictures and a list of their prompts.

    The function is imported when it is first asked, from what Python finds in the folder of the command and among the
    installed packages. It is called with at most a batch of images, and may be called in a thread.

    Args:
        name, version, higher_is_better, display_scale: as for `BlackBox`.
        function: its module and its name, as in my_module:score.

    Raises:
        UserError: there is no such module. When asked: the module has no such function, or it returns something else
            than one finite number an image. What the function itself raises is passed on.
    """

    def __init__(
        self, name: str, version: Version, function: str, higher_is_better: bool = True, display_scale: float = 1.0
    ) -> None:
        super().__init__(name, version, higher_is_better, display_scale)
        self.module, _, self.attribute = function.partition(":")
        if not all(part.isidentifier() for part in (*self.module.split("."), self.attribute)):
            raise UserError(
                f"function={function} is not understood; expected a module and a name, as in my_module:score"
            )
        if not _exists(self.module):
            raise UserError(
                f"function={function}: there is no module {self.module}; start the command in its folder, or install it"
            )

    @property
    def called(self) -> str:
        return f"function={self.module}:{self.attribute}"

    @cached_property
    def function(self) -> Callable[[list[Image.Image], list[str]], Any]:
        """The function itself; its module is imported now."""
        found = getattr(importlib.import_module(self.module), self.attribute, None)
        if not callable(found):
            raise UserError(f"{self.called}: the module has no function of this name; correct it")
        return found

    def supports(self, prompts: Sequence[str]) -> str | None:
        """Return None; any prompt can be scored. Imports the function."""
        _ = self.function  # early, before hours of work that would be lost on it
        return None

    def ask(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[Any]:
        """Call the function."""
        answer = self.function(list(images), list(prompts))
        try:
            return list(answer)
        except TypeError:
            raise UserError(f"{self.called} returned {answer!r:.100}; expected a list of numbers") from None


def _exists(module: str) -> bool:
    """Say whether Python finds a module; the packages that it lies in are imported for this, the module is not."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of a package that it should lie in
        return False
