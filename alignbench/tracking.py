"""What a run logs, sent to a tracker by accelerate: TensorBoard, Weights & Biases, SwanLab or MLflow.

Names are `train/...` for what an update logs, `perf/...` for its pace and memory, `eval/...` for scores of images.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker
from omegaconf import DictConfig, OmegaConf
from PIL import Image

PROJECT = "alignbench"
# what a tracker calls the name of a run; TensorBoard's project is the run
NAME_OPTION = {"wandb": "name", "swanlab": "experiment_name", "mlflow": "run_name"}


class Tracking:
    """One run's tracker. Only the main process has one; on others, and with tracker=none, nothing happens.

    Args:
        cfg: the configuration, of which `tracker` and `results` are read; all of it is stored with the run.
        run: name of the run.
    """

    def __init__(self, cfg: DictConfig, run: str, accelerator: Accelerator) -> None:
        self.tracker: GeneralTracker | None = None
        kind = cfg.tracker.log_with
        if kind is None or not accelerator.is_main_process:
            return
        options: dict[str, Any] = dict(cfg.tracker.get("options") or {})
        project = cfg.tracker.get("project") or PROJECT
        if kind == "tensorboard":
            self.tracker = LOGGER_TYPE_TO_CLASS[kind](run, Path(cfg.results) / "tensorboard", **options)
        else:
            self.tracker = LOGGER_TYPE_TO_CLASS[kind](project, **{NAME_OPTION[kind]: run}, **options)
        self.tracker.start()
        self.tracker.store_init_configuration(_flat(cfg))

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log figures by name."""
        if self.tracker is not None:
            self.tracker.log(dict(values), step=step)

    def picture(self, name: str, file: Path, step: int) -> None:
        """Log one picture file."""
        if self.tracker is None:
            return
        with Image.open(file) as image:
            picture = image.convert("RGB")
        if self.tracker.name == "tensorboard":
            import numpy as np

            self.tracker.log_images({name: np.asarray(picture)[None]}, step=step, dataformats="NHWC")
        elif self.tracker.name == "mlflow":
            import mlflow  # pyright: ignore[reportMissingImports]

            mlflow.log_image(picture, key=name.replace("/", "_"), step=step)
        else:
            self.tracker.log_images({name: [picture]}, step=step)

    def finish(self) -> None:
        """Close the tracker."""
        if self.tracker is not None:
            self.tracker.finish()
