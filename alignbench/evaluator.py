"""Evaluators turn images into scores, features turn them into vectors; rewards are evaluators with a gradient."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from alignbench.errors import UserError
from alignbench.images import opened

CalibrationImages = Literal["photos", "scenes", "words"]
Summary = Literal["median", "mean"]
Overall = Literal["images", "groups"]


class Preprocess(ABC):
    """Turns pictures into what evaluators read. Instances that compare equal are computed once for all of them.

    Several threads call an instance at once.
    """

    @property
    @abstractmethod
    def key(self) -> str:
        """What decides the scores: kind, size, interpolation, constants. Tables say it."""

    @property
    def output(self) -> str:
        """What comes back; other than `key` only where another program does a part of the preprocessing."""
        return self.key

    @abstractmethod
    def __call__(self, images: Sequence[Image.Image]) -> Any:
        """Return the inputs of pictures of any mode, one entry each: a tensor for a network, a list for a program."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Preprocess) and self.output == other.output

    def __hash__(self) -> int:
        return hash(self.output)


class ImageReader(ABC):
    """What reads images, mostly by a network: an evaluator, or the features that sets of images are measured by.

    Construction is cheap: weights are read when `network` is first used, so that a run can be checked before it starts.

    Attributes:
        name: as typed on the command line and printed in tables.
        version: raised whenever a result could change; those of two versions never share a table.
        precision: in which numbers the network computes; results of two precisions never share a table.
        preprocess: the published preprocessing.
    """

    name: str
    version: str
    precision: str = "float32"
    preprocess: Preprocess

    @property
    def weights(self) -> str:
        """Digest of the weights that results depend on; empty where the version alone decides."""
        return ""

    @cached_property
    def network(self) -> nn.Module | None:
        """The network, frozen; None for a program."""
        return None

    @property
    def device(self) -> torch.device:
        """Where the network lies; the CPU for a program."""
        return next(self.network.parameters()).device if self.network is not None else torch.device("cpu")

    def to(self, device: torch.device | str) -> None:
        """Move the network, loading it if need be."""
        if self.network is not None:
            self.network.to(device)

    def release(self) -> None:
        """Forget the network; it is read again when it is next used."""
        vars(self).pop("network", None)


class Features(ImageReader):
    """A vector for each image, by which sets of images are measured: see `alignbench.statistics.sets.set_measure`."""

    @abstractmethod
    def rows(self, inputs: Any) -> Tensor:
        """Return the unit vectors of preprocessed images, [N, D], float32, whatever the other images are."""


class Evaluator(ImageReader):
    """One number an image, in the scale of its publication.

    Attributes:
        higher_is_better: direction.
        range: smallest and largest possible score; infinities where unbounded.
        display_scale: factor in displays (100 for the cosines of the papers); scores keep the published scale.
        calibrated_on: whether it judges photographs, scenes of the shapes world or text in images; see
            `alignbench.scoring.calibration`.
        matches_prompts: whether an image has to score higher with the prompt that describes it than with one of
            another image.
        labelled_by: names of the evaluators whose judgement it learned from, as far as known.
        caches_text: whether a network encodes the prompts, so that what it returns is worth keeping on the disk.
        calibration_samples: a JSON list of `file`, beside it, and `prompt`, on which it is calibrated in place of the
            shipped images; for evaluators that can judge prompts of their own alone.
        tolerance: by how much scores of these may differ between two machines; None for the usual bound.
        summary: which figure of many images is shown: the median of scores such as 0 and 1 would be one of the two.
        overall: what the mean of all prompts is over: images, or the means of the groups of prompts, such as tasks.
        sees_group: whether the score of an image says how it compares with the others of the same call, which are then
            the images of one prompt that a method compares; it is a reward alone, and no score to report.
    """

    higher_is_better: ClassVar[bool] = True
    range: tuple[float, float] = (float("-inf"), float("inf"))
    display_scale: float = 1.0
    calibrated_on: CalibrationImages = "photos"
    matches_prompts: bool = False
    labelled_by: tuple[str, ...] = ()
    caches_text: ClassVar[bool] = False
    calibration_samples: ClassVar[Path | None] = None
    tolerance: ClassVar[float | None] = None
    summary: ClassVar[Summary] = "median"
    overall: ClassVar[Overall] = "images"
    sees_group: ClassVar[bool] = False

    @property
    def lineage(self) -> tuple[str, ...]:
        """All evaluators that a method has trained on, directly or not, if it trains on this one."""
        return (self.name, *self.labelled_by)

    @property
    def training_data(self) -> np.ndarray:
        """Digests of the images and data sets that it learned from, sorted, [N], uint64; none where they are unknown.

        Methods that learned from any of these have trained on this evaluator, too: see
        `alignbench.store.training_data`.
        """
        return np.zeros(0, np.uint64)

    @property
    def components(self) -> dict[str, "tuple[float, Evaluator]"]:
        """The evaluators that this one is a weighted sum of, by name, with their weights: itself alone by default.

        Of the sum the higher is the better, so an evaluator whose lower scores are better has a negative weight.
        """
        return {self.name: (1.0 if self.higher_is_better else -1.0, self)}

    @property
    def shared_pass(self) -> str | None:
        """Name of what `image_features` computes: evaluators with the same take it from one of them; None: alone."""
        return None

    @classmethod
    def weight_bytes(cls, settings: Mapping[str, Any]) -> int | None:
        """Return how many bytes the network takes that an evaluator of these settings would load.

        The estimate of memory asks before anything is loaded, and whether or not the weights are there.

        Args:
            settings: all arguments of the constructor.

        Returns:
            None where it is not known; the estimate then leaves it out, says so, and refuses nothing.
        """
        return None

    def supports(self, prompts: Sequence[str]) -> str | None:
        """Return None if these prompts can be scored, otherwise a sentence that says why not. Loads nothing."""
        return None

    def cost(self, num_images: int, group_size: int) -> str:
        """Return what it takes to score images, where it is more than one look at each; empty where it is not."""
        return ""

    def begin_training(self, folder: Path, process: int) -> None:
        """Get ready to reward a training, each time it begins or goes on after a kill. Loads nothing.

        Args:
            folder: of this reward in the run, for what is to outlast a kill; it need not be there.
            process: number of this one among those that train together, 0 for the main one.

        Raises:
            UserError: training must not go on.
        """
        return

    def take_figures(self) -> dict[str, tuple[float, float]]:
        """Return what a log should say of the scores since this was last called, by name: a sum, and its count."""
        return {}

    @abstractmethod
    def encode_prompts(self, prompts: Sequence[str]) -> Tensor | list[Any]:
        """Return what `score_inputs` needs of the prompts, one entry a prompt, whatever the other prompts are."""

    def image_features(self, inputs: Any) -> Any:
        """Return what `score_features` reads of preprocessed images, one entry an image; by default the inputs."""
        return inputs

    @abstractmethod
    def score_features(self, features: Any, encoded: Any) -> Tensor:
        """Score images, as `image_features` gives them, against encoded prompts, entry by entry.

        Returns:
            Scores, [N], float32, in the published scale.
        """

    def explain(self, features: Any, encoded: Any) -> tuple[Tensor, list[dict[str, Any]]]:
        """Score as `score_features` does, and say what each score was made of.

        Returns:
            Scores, [N], float32, and for each image an object of JSON, kept beside the scores; none where all are
            empty. `margin` in it says by how much a number would have to move to change a score that has thresholds.
        """
        scores = self.score_features(features, encoded)
        return scores, [{} for _ in scores]

    def score_inputs(self, inputs: Any, encoded: Any) -> Tensor:
        """Score preprocessed images against encoded prompts, entry by entry. Returns [N], float32."""
        return self.score_features(self.image_features(inputs), encoded)

    @torch.no_grad()
    def score(
        self,
        images: Sequence[Image.Image | str | Path] | Image.Image | str | Path,
        prompts: Sequence[str] | str,
        batch_size: int = 16,
    ) -> Tensor:
        """Score each image against its prompt by the published path.

        Args:
            images: pictures, or their files; or one of them.
            prompts: one an image; a single text is a list of one.
            batch_size: images that go through the network at once.

        Returns:
            Scores, [N], float32, on the CPU, in the published scale.

        Raises:
            UserError: an image cannot be scored (see `alignbench.images`), or there are not as many prompts as images.
        """
        images = [images] if isinstance(images, Image.Image | str | Path) else images
        prompts = [prompts] if isinstance(prompts, str) else prompts
        if len(images) != len(prompts):
            raise UserError(f"{len(images)} images and {len(prompts)} prompts; give one prompt an image")
        scores = [torch.zeros(0)]
        for start in range(0, len(images), batch_size):
            batch = slice(start, start + batch_size)
            inputs = self.preprocess([opened(image) for image in images[batch]])
            scores.append(self.score_inputs(inputs, self.encode_prompts(prompts[batch])).float().cpu())
        return torch.cat(scores)

    def score_videos(
        self, videos: Sequence[Sequence[Image.Image]], prompts: Sequence[str], batch_size: int = 16
    ) -> Tensor:
        """Score each video against its prompt: the mean over its frames. A picture is a video of one frame.

        Args:
            videos: the frames of each.
            batch_size: frames that go through the network at once.

        Returns:
            Scores, [N], float32, on the CPU, in the published scale.

        Raises:
            UserError: as `score`.
        """
        frames = [frame for video in videos for frame in video]
        of_frames = [prompt for video, prompt in zip(videos, prompts, strict=True) for _ in video]
        scores = self.score(frames, of_frames, batch_size).split([len(video) for video in videos])
        return torch.stack([of_video.mean() for of_video in scores])


class Reward(Evaluator):
    """An evaluator that can be trained on: differentiable with respect to pixels.

    Attributes:
        has_embeddings: True where image and text meet as two unit vectors; relative rewards then cost one image pass.
        embedding_scale: factor on the similarity of two unit vectors where it is used as a training reward.
    """

    has_embeddings: bool = False
    embedding_scale: float = 1.0

    @abstractmethod
    def reward(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return the score of each image, with a gradient.

        Args:
            pixels: [N, 3, H, W], float, 0..1.

        Returns:
            Rewards, [N], float32, in the scale of `score`.
        """

    def embed_image(self, pixels: Tensor) -> Tensor:
        """Return unit image features, [N, D], float32, with a gradient; pixels [N, 3, H, W] in 0..1."""
        raise TypeError(f"reward {self.name} has no embeddings")

    def embed_text(self, prompts: Sequence[str]) -> Tensor:
        """Return unit text features, [N, D], float32, without a gradient."""
        raise TypeError(f"reward {self.name} has no embeddings")


def weight_bytes(kind: type[Any], arguments: Mapping[str, Any]) -> int | None:
    """Return how many bytes the network of an evaluator takes, None where that is not known.

    Args:
        kind: its class, or another with the same class method.
        arguments: of the constructor, as plain values.
    """
    given = inspect.signature(kind).bind_partial(**arguments)
    given.apply_defaults()
    return kind.weight_bytes(given.arguments)
