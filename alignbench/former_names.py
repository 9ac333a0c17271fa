"""What classes and functions were called in version 0.1.0.

Hashes of configurations and files of results name classes. So that results are still found and read after a class has
moved to another module or was renamed, hashes are computed with the names of version 0.1.0, and the names in files are
replaced by those of today when the files are read.
"""

from collections.abc import Mapping
from typing import Any

# The path of today and that of version 0.1.0, for each class and function that has moved or was renamed since, as far
# as a `_target_`, a hash or a file of results may name it.
FORMER = {
    "alignbench.data.sources.captions.CaptionFolder": "alignbench.data.captions.CaptionFolder",
    "alignbench.data.sources.hpdv2.HPDv2": "alignbench.data.hpdv2.HPDv2",
    "alignbench.data.sources.imagerewarddb.ImageRewardDB": "alignbench.data.imagerewarddb.ImageRewardDB",
    "alignbench.data.sources.kto_csv.LabelList": "alignbench.data.kto_csv.LabelList",
    "alignbench.data.sources.local.LocalPairs": "alignbench.data.local.LocalPairs",
    "alignbench.data.sources.local.Prompts": "alignbench.data.local.Prompts",
    "alignbench.data.sources.pickapic.PickAPic": "alignbench.data.pickapic.PickAPic",
    "alignbench.data.sources.runs.ScoredRuns": "alignbench.data.runs.ScoredRuns",
    "alignbench.data.sources.shapes.ShapesData": "alignbench.data.shapes.ShapesData",
    "alignbench.data.sources.webdataset.ShardCaptions": "alignbench.data.webdataset.ShardCaptions",
    "alignbench.data.sources.webdataset.ShardLabels": "alignbench.data.webdataset.ShardLabels",
    "alignbench.data.sources.webdataset.ShardPairs": "alignbench.data.webdataset.ShardPairs",
    "alignbench.generation.control.control.Control": "alignbench.control.control.Control",
    "alignbench.generation.control.makers.Canny": "alignbench.control.makers.Canny",
    "alignbench.generation.control.makers.Depth": "alignbench.control.makers.Depth",
    "alignbench.models.families.flux.Flux": "alignbench.models.flux.Flux",
    "alignbench.models.families.stable_diffusion.StableDiffusion": "alignbench.models.stable_diffusion.StableDiffusion",
    "alignbench.models.families.stable_diffusion_3.StableDiffusion3": (
        "alignbench.models.stable_diffusion_3.StableDiffusion3"
    ),
    "alignbench.models.families.stable_diffusion_xl.StableDiffusionXL": (
        "alignbench.models.stable_diffusion_xl.StableDiffusionXL"
    ),
    "alignbench.models.weights.loading.load_pipeline": "alignbench.models.loading.load_pipeline",
    "alignbench.objectives.inversion_path.InversionSettings": "alignbench.ascent.InversionSettings",
    "evaluators.judge.TrainedRewardModel": "evaluators.judge.TrainedJudge",
    "evaluators.judges.attention.FrozenAttention": "evaluators.attention_judge.FrozenAttention",
    "evaluators.judges.blip.ImageRewardLike": "evaluators.blip_judge.ImageRewardLike",
    "evaluators.judges.clip.PickScoreLike": "evaluators.clip_judge.PickScoreLike",
    "evaluators.judges.head.FrozenHead": "evaluators.head_judge.FrozenHead",
}


def with_former_names(values: Any) -> Any:
    """Return plain configuration values in which each `_target_` is the path that version 0.1.0 had."""
    return _renamed(values, FORMER)


def with_present_names(values: Any) -> Any:
    """Return plain configuration values, read from a file, in which each `_target_` is the path of today."""
    return _renamed(values, {former: present for present, former in FORMER.items()})


def former_class_name(cls: type) -> str:
    """Return the name of a class in version 0.1.0, without its module."""
    path = f"{cls.__module__}.{cls.__qualname__}"
    return FORMER.get(path, path).rpartition(".")[2]


def _renamed(values: Any, names: Mapping[str, str]) -> Any:
    if isinstance(values, list):
        return [_renamed(value, names) for value in values]
    if not isinstance(values, dict):
        return values
    return {
        key: names.get(value, value) if key == "_target_" and isinstance(value, str) else _renamed(value, names)
        for key, value in values.items()
    }
