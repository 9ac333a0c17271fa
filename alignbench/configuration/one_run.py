"""Run a command that is one run with the configuration that was checked, as Hydra would run what it composes anew."""

from collections.abc import Callable

from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import run_job
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig

from alignbench.configuration.compose import in_hydra


def run_once(task: Callable[[DictConfig], None], tree: DictConfig) -> None:
    """Run `task` as Hydra runs a job: with its settings known to `HydraConfig`, in the environment that they ask for.

    `hydra.main` would compose the same words twice more, once to find out that they are no sweep.

    Args:
        tree: what Hydra composed of the command, which has Hydra's own settings, too.
    """
    with in_hydra():
        tree.hydra.mode = RunMode.RUN
        callbacks = Callbacks(tree)
        context = HydraContext(GlobalHydra.instance().config_loader(), callbacks)
        callbacks.on_run_start(config=tree, config_name="config")
        found = run_job(task, tree, job_dir_key="hydra.run.dir", job_subdir_key=None, hydra_context=context)
        callbacks.on_run_end(config=tree, config_name="config", job_return=found)
        _ = found.return_value  # raises what the job raised
