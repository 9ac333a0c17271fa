"""What a run logs, sent to a tracker by accelerate: TensorBoard, Weights & Biases, SwanLab or MLflow.

Names are `train/...` for what an update logs, `perf/...` for its pace and memory, `eval/...` for scores of images.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker
from omegaconf import DictConfig, OmegaConf

from alignbench.videos import read_still

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
        options: dict[str, Any] = dict(cfg.tracker.options)
        if kind == "tensorboard":
            tracker = LOGGER_TYPE_TO_CLASS[kind](run, Path(cfg.results) / "tensorboard", **options)
        else:
            tracker = LOGGER_TYPE_TO_CLASS[kind](cfg.tracker.project, **{NAME_OPTION[kind]: run}, **options)
        tracker.start()
        tracker.store_init_configuration(_flat(cfg))
        self.tracker = tracker

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log figures by name."""
        if self.tracker is not None:
            self.tracker.log(dict(values), step=step)

    def picture(self, name: str, file: Path, step: int) -> None:
        """Log one picture file; of a video its middle frame."""
        if self.tracker is None:
            return
        tracker: Any = self.tracker
        picture = read_still(file)
        if tracker.name == "tensorboard":
            import numpy as np

            tracker.log_images({name: np.asarray(picture)[None]}, step=step, dataformats="NHWC")
        elif tracker.name == "mlflow":
            import mlflow  # pyright: ignore[reportMissingImports]

            mlflow.log_image(picture, key=name.replace("/", "_"), step=step)
        else:
            tracker.log_images({name: [picture]}, step=step)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> None:
        """Log a table: as such where the tracker has tables, otherwise as text."""
        if self.tracker is None:
            return
        tracker: Any = self.tracker
        if tracker.name == "wandb":
            tracker.log_table(name, columns=list(columns), data=[list(row) for row in rows], step=step)
        elif tracker.name == "mlflow":
            import mlflow  # pyright: ignore[reportMissingImports]

            cells = {column: [row[place] for row in rows] for place, column in enumerate(columns)}
            mlflow.log_table(cells, artifact_file=f"{name}.json")
        else:
            text = "\n".join(f"| {' | '.join(map(str, row))} |" for row in (columns, ["---"] * len(columns), *rows))
            if tracker.name == "swanlab":
                import swanlab  # pyright: ignore[reportMissingImports]

                tracker.log({name: swanlab.Text(text)}, step=step)
            else:
                tracker.log({name: text}, step=step)

    def finish(self) -> None:
        """Close the tracker."""
        if self.tracker is not None:
            self.tracker.finish()


def _flat(cfg: DictConfig) -> dict[str, Any]:
    """Return the configuration as dotted names with plain values, as trackers take it."""
    flat: dict[str, Any] = {}

    def add(name: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                add(f"{name}.{key}" if name else str(key), inner)
        else:
            flat[name] = value if isinstance(value, bool | int | float | str) else str(value)

    add("", OmegaConf.to_container(cfg, resolve=False))
    return flat
