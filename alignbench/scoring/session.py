"""The evaluators and features of one command: which can judge its prompts, whether they score as they should."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from omegaconf import DictConfig
from rich.console import Console

from alignbench.configuration.build import build
from alignbench.errors import UserError
from alignbench.evaluator import Evaluator, Features, ImageReader
from alignbench.scoring.calibration import calibrate, summary
from alignbench.scoring.feature_rows import add_features
from alignbench.scoring.network_pool import NetworkPool
from alignbench.scoring.score import finish, score
from alignbench.store.image_records import ImageSet
from alignbench.store.run_folder import RunFolder
from alignbench.store.training_data import note_shared_data
from alignbench.terminal.console import print_fact
from alignbench.terminal.waiting import waiting
from alignbench.work_share import WorkShare


class Scoring:
    """Scores the image sets of several run folders by the same evaluators, and computes their features.

    Args:
        cfg: the configuration, of which evaluators, features, calibration, batch size and results folder are read.
        prompt_set: name of the prompt set.
        prompts: its texts. Evaluators that cannot judge them are left out, and that is said.

    Raises:
        UserError: no evaluator can judge them, or two evaluators or features have one name.
    """

    def __init__(
        self, cfg: DictConfig, prompt_set: str, prompts: Sequence[str], accelerator: Accelerator, console: Console
    ) -> None:
        self.cfg, self.accelerator, self.console = cfg, accelerator, console
        self.work_share = WorkShare.of(cfg.shard, accelerator.process_index, accelerator.num_processes)
        self.network_pool = NetworkPool(accelerator.device)
        self.evaluators: list[Evaluator] = []
        self.calibration: dict[str, dict[str, Any]] = {}
        self._asked: list[tuple[RunFolder, ImageSet]] = []
        for evaluator in build(cfg.evaluators).values():
            reason = evaluator.supports(prompts)
            if reason is None:
                self.evaluators.append(evaluator)
            else:
                console.print(f"left out: {reason}")
        if not self.evaluators:
            raise UserError(f"none of the evaluators can judge prompts={prompt_set}; choose others")
        self.features: list[Features] = list(build(cfg.features).values())
        if repeated := _repeated(self.features):
            raise UserError(f"{repeated[0]} is the name of more than one of the features; leave one out")
        if repeated := _repeated(self.evaluators):
            raise UserError(
                f"{repeated[0]} is the name of more than one evaluator, and scores are kept by name; leave one out, or "
                "give remote ones names of their own, as in evaluators.KEY.name=NAME"
            )

    def calibrate(self) -> None:
        """Make sure that the evaluators score as they should, before hours of work rest on them.

        Raises:
            UserError: one of them does not.
        """
        if not self.cfg.calibration:
            self.calibration = {f"{one.name}@{one.version}": {"outcome": "off"} for one in self.evaluators}
            return
        root, is_main = Path(self.cfg.results), self.accelerator.is_main_process
        with waiting("checking the evaluators on the test images"):
            found = calibrate(self.evaluators, root, self.network_pool, is_main)
        self.accelerator.wait_for_everyone()
        self.network_pool.clear()  # training may need the memory
        if news := summary(found):
            print_fact(self.console, "calibrated", news)
        self.calibration = {
            key: {"outcome": entry.outcome, "largest_difference": entry.largest_difference}
            for key, entry in found.items()
        }

    def score(self, folder: RunFolder, images: ImageSet) -> int:
        """Score what has no score yet; return how many images are left for other shards.

        Raises:
            UserError: as `alignbench.scoring.score.score` does.
        """
        self._asked.append((folder, images))
        how = (self.cfg.sampling.batch_size, self.network_pool, self.work_share)
        left = score(folder, images, self.evaluators, *how)
        if self.features:
            add_features(folder, images, self.features, *how)
        if self.accelerator.is_main_process:
            folder.update(calibration=self.calibration)
            note_shared_data(folder, self.evaluators)
        return left

    def left(self) -> int:
        """Return how many of all images that were to be scored are left for other shards now.

        These go on meanwhile. Only who asks when all its own work is done can tell whether it is the last.
        """
        return sum(finish(folder, images, self.evaluators) for folder, images in self._asked)


def _repeated(readers: Sequence[ImageReader]) -> list[str]:
    """Return the names that more than one has."""
    return [name for name, count in Counter(one.name for one in readers).items() if count > 1]
