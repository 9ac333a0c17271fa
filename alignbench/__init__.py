"""Compare and apply alignment methods for text-to-image diffusion and flow models.

From Python: `run` does what the command line does, `load_results` reads a results folder into pandas tables. Mistakes
raise `UserError`, whose message says what to change.
"""

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

from alignbench.terminal.late_imports import import_late

if TYPE_CHECKING:
    from alignbench.errors import UserError
    from alignbench.interface.results import Results, load_results
    from alignbench.interface.run import RunResult, run

import_late()
# it warns of a faster kernel that is not installed
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

__version__ = "0.1.0"
__all__ = ["Results", "RunResult", "UserError", "__version__", "load_results", "run"]

# imported when they are asked for: `import alignbench` itself takes no time
_MODULES = {
    "Results": "alignbench.interface.results",
    "RunResult": "alignbench.interface.run",
    "UserError": "alignbench.errors",
    "load_results": "alignbench.interface.results",
    "run": "alignbench.interface.run",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'alignbench' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
