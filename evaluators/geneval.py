"""GenEval: does the image show the objects, numbers, colours and positions that its prompt names?

Source: Ghosh et al. 2023, arXiv 2310.11513; djghosh13/geneval (MIT).
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import Mask2FormerConfig

from alignbench.errors import UserError
from alignbench.evaluator import Evaluator, Overall, Summary
from alignbench.files import file_digest
from evaluators import geneval_rules
from evaluators.annotations import Annotations
from evaluators.clip_reward import PublishedClipReward
from evaluators.geneval_colours import ColourClassifier
from evaluators.geneval_rules import Verdict
from evaluators.networks.checkpoint import check_checkpoint, checkpoint_file
from evaluators.networks.mask2former import DetectedObject, Mask2FormerDetector, load_mask2former, swin_small
from evaluators.networks.preprocess import Pictures

Rules = Literal["published", "strict", "soft"]

MMDET_FILE = "mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco_20220504_001756-743b7d99.pth"
HUB_FILE = "model.safetensors"

# COCO's classes in the order of their labels, three of them by the names that the prompts have.
CLASSES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant",
    "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard",
    "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli",
    "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed", "dining table", "toilet",
    "tv", "laptop", "computer mouse", "tv remote", "computer keyboard", "cell phone", "microwave", "oven", "toaster",
    "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip


class Scene:
    """A picture with its detections. The colour of an object is asked for once, whoever needs it."""

    def __init__(self, picture: Image.Image, found: Sequence[DetectedObject], classifier: ColourClassifier) -> None:
        self.objects: dict[str, list[DetectedObject]] = {}
        for one in found:
            self.objects.setdefault(CLASSES[one.label], []).append(one)
        self._picture, self._classifier = picture, classifier
        self._colours: dict[tuple[int, str], tuple[float, ...]] = {}

    def colours(self, one: DetectedObject, name: str) -> tuple[float, ...]:
        """Return the probabilities of the colours of an object of a class."""
        if (id(one), name) not in self._colours:  # objects live as long as the scene
            self._colours[id(one), name] = self._classifier(self._picture, one, name)
        return self._colours[id(one), name]


class GenEval(Evaluator):
    """Whether an image shows all of its prompt, by a detector, CLIP and rules.

    Args:
        rules: `published`: at least the number of objects, 0 or 1; `strict`: exactly the number, 0 or 1; `soft`: mean
            of partial scores, -14..1. See `evaluators.geneval_rules`.
        source: the detector: mmdet's file or its folder.
        revision: of a hub's repository, where `source` is the id of one.
        clip: CLIP ViT-L/14 of OpenAI, which names colours.

    Raises:
        UserError: the rules are unknown, or the weights are not there.
    """

    version = "1"
    summary: ClassVar[Summary] = "mean"
    overall: ClassVar[Overall] = "groups"
    preprocess = Pictures()
    calibration_samples: ClassVar[Path | None] = Path(__file__).parent / "calibration" / "geneval.json"
    prefix: ClassVar[str] = "geneval"
    filename: ClassVar[str] = MMDET_FILE

    def __init__(self, rules: Rules, source: str, revision: str | None, clip: PublishedClipReward) -> None:
        if rules not in get_args(Rules):
            raise ValueError(f"rules={rules} is unknown; available: {', '.join(get_args(Rules))}")
        check_checkpoint(source, self.filename, revision)
        self.name = self.prefix if rules == "published" else f"{self.prefix}_{rules}"
        self.range = (-14.0, 1.0) if rules == "soft" else (0.0, 1.0)
        self.precision = clip.precision
        self.source, self.revision, self.clip = source, revision, clip
        self._judge: Callable[..., Verdict] = getattr(geneval_rules, rules)
        self._classifier = ColourClassifier(clip)
        self._annotations = Annotations("geneval")

    @property
    def file(self) -> Path:
        """The weights of the detector on the disk."""
        return checkpoint_file(self.source, self.filename, self.revision)

    @property
    def config(self) -> Mask2FormerConfig:
        """The architecture of the detector."""
        return swin_small()

    @property
    def weights(self) -> str:
        return f"{file_digest(self.file)} {self.clip.weights} {self._annotations.digest}"

    @property
    def shared_pass(self) -> str:
        return f"objects of {file_digest(self.file)} and their colours by {self.clip.shared_pass}"

    @cached_property
    def network(self) -> nn.ModuleDict:
        """The detector and CLIP."""
        detector = load_mask2former(self.file, self.config)
        if detector.config.num_labels != len(CLASSES):
            raise UserError(
                f"{self.file} tells {detector.config.num_labels} classes apart; {self.name} needs a detector of COCO's "
                f"{len(CLASSES)} classes"
            )
        return nn.ModuleDict({"detector": detector, "clip": self.clip.network})

    def release(self) -> None:
        super().release()
        self.clip.release()

    def supports(self, prompts: Sequence[str]) -> str | None:
        lacking = self._annotations.lacking(prompts)
        return lacking and f"{self.name} scores the prompts of GenEval alone (prompts=geneval), and {lacking}"

    def encode_prompts(self, prompts: Sequence[str]) -> list[dict[str, Any]]:
        """Return what each prompt asks for."""
        if refusal := self.supports(prompts):
            raise UserError(refusal)
        return [self._annotations[prompt] for prompt in prompts]

    def image_features(self, inputs: Sequence[Image.Image]) -> list[Scene]:
        """Detect objects in each picture."""
        detect = Mask2FormerDetector(self.network["detector"])
        return [Scene(picture, detect(picture), self._classifier) for picture in inputs]

    def score_features(self, features: Sequence[Scene], encoded: Sequence[dict[str, Any]]) -> Tensor:
        """Judge each scene by the rules."""
        return self.explain(features, encoded)[0]

    def explain(
        self, features: Sequence[Scene], encoded: Sequence[dict[str, Any]]
    ) -> tuple[Tensor, list[dict[str, Any]]]:
        """Judge each scene by the rules; also return the conditions, and the objects that can count."""
        verdicts = [
            self._judge(annotation, scene.objects, scene.colours)
            for scene, annotation in zip(features, encoded, strict=True)
        ]
        scores = torch.tensor([verdict.score for verdict in verdicts], dtype=torch.float32)
        evidence = [_evidence(scene, verdict) for scene, verdict in zip(features, verdicts, strict=True)]
        return scores, evidence


class GenEvalFacebook(GenEval):
    """The same with facebook/mask2former-swin-small-coco-instance (CC BY-NC 4.0), another training of the detector.

    Args:
        rules, clip: see `GenEval`.
        source: hub id, or a folder that holds model.safetensors and config.json.
        revision: of the hub's repository.

    Raises:
        UserError: as `GenEval`.
    """

    prefix = "geneval_fb"
    filename = HUB_FILE

    def __init__(self, rules: Rules, source: str, revision: str | None, clip: PublishedClipReward) -> None:
        super().__init__(rules, source, revision, clip)
        check_checkpoint(source, "config.json", revision)

    @property
    def config(self) -> Mask2FormerConfig:
        return Mask2FormerConfig.from_json_file(checkpoint_file(self.source, "config.json", self.revision))


def _evidence(scene: Scene, verdict: Verdict) -> dict[str, Any]:
    """Return why an image has its score, as JSON; `margin` is how near it is to another one."""
    found = [
        {"object": name, "score": round(one.score, 4), "box": list(one.box)}
        for name, objects in scene.objects.items()
        for one in geneval_rules.kept(objects, geneval_rules.THRESHOLD)
    ]
    return {
        "reasons": verdict.reasons,
        "margin": verdict.margin,
        "conditions": [{"condition": term.name, "holds": term.holds, "margin": term.margin} for term in verdict.terms],
        "objects": sorted(found, key=lambda one: -one["score"]),
    }
