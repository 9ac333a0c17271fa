"""The lines of Python that load what a run trained."""

from hydra.utils import get_class
from omegaconf import DictConfig

from alignbench.configuration.build import row_name
from alignbench.exports.model_card import loading_lines
from alignbench.files import write_text
from alignbench.models.weights.policy_files import LORA_FILE
from alignbench.store.run_folder import RunFolder

FILE = "README.md"


def policy_lines(cfg: DictConfig, run: RunFolder) -> str:
    """Return what puts the policy of a run into a pipeline of diffusers.

    Adapters that were trained on top of another policy have no such lines: a command merges them with it first.
    """
    if cfg.train.tuning == "lora" and cfg.model.policy is not None:
        return (
            f"# adapters on top of {cfg.model.policy}; merge both first, in a shell:\n"
            f"# python -m alignbench.export {run.path} --format merged --out FOLDER"
        )
    adapter = get_class(cfg.model.adapter._target_)
    kind = "merged" if cfg.train.tuning == "full" else LORA_FILE
    return loading_lines(cfg, adapter.denoiser_name, kind, adapter.pipeline_class, place=str(run.policy.absolute()))


def write_policy_lines(cfg: DictConfig, run: RunFolder) -> None:
    """Write README.md of a run folder: how to load its policy and where its settings and figures are."""
    text = f"""# {run.name}

{row_name(cfg)} on {cfg.model.name}, trained with alignbench. These lines load the trained weights:

```python
{policy_lines(cfg, run)}
```

`config.yaml` holds all settings, `manifest.json` says what the run cost and trained on, and `../leaderboard.md` has its
figures.
"""
    write_text(run.path / FILE, text)
