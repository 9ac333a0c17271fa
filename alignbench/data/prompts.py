"""Prompt sets: the prompts that a model is evaluated on, with their ids and groups."""

import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from alignbench.data.storage.text_tables import TextRow, columns_of, lines_of, read_rows, read_text
from alignbench.errors import UserError
from alignbench.settings.section import Seed
from alignbench.text import plain

FOLDER = Path(__file__).parent / "prompt_sets"
HPDV2_STYLES = ("anime", "concept-art", "paintings", "photo")  # in the order of the published list
MAX_ID = 200  # bytes of UTF-8: names of files have 255, and an id is not all of one
_PATH_SAFE = re.compile(r"[^\W_][\w.-]*")  # letters of any script


@dataclass(frozen=True)
class Prompt:
    """One prompt.

    Attributes:
        prompt_id: names the prompt's images and seeds their noise; path-safe and stable.
        prompt: the text, byte for byte as published.
        groups: names of the groups it belongs to, such as its style, or its category and challenge.
    """

    prompt_id: str
    prompt: str
    groups: tuple[str, ...] = ()


@dataclass(frozen=True)
class PromptSet:
    """Prompts in their published order.

    Attributes:
        name: path-safe; images and scores are stored under this name.
        prompts: the prompts that are used.
        full_size: number of prompts before `limit` was applied.
        whole: the set that these are the first prompts of, where it is measured look by look; see
            `alignbench.data.prompt_looks`.
    """

    name: str
    prompts: tuple[Prompt, ...]
    full_size: int
    whole: "PromptSet | None" = None

    def __post_init__(self) -> None:
        names = [self.name, *(prompt.prompt_id for prompt in self.prompts)]
        for name in names:
            if not _PATH_SAFE.fullmatch(name):
                raise ValueError(f"{name!r} cannot name a file; expected letters, digits, '.', '_' and '-'")
        if len(self.name.encode()) > MAX_ID:
            raise ValueError(f"prompts.name has {len(self.name.encode())} bytes; at most {MAX_ID} can name a folder")
        repeated = [prompt_id for prompt_id, count in Counter(names[1:]).items() if count > 1]
        if repeated:
            raise ValueError(f"prompt_id {repeated[0]!r} occurs more than once in prompts={self.name}")

    @property
    def is_subset(self) -> bool:
        """Whether `limit` leaves prompts out."""
        return len(self.prompts) < self.full_size

    @property
    def texts(self) -> list[str]:
        """The texts of the prompts, in order."""
        return [prompt.prompt for prompt in self.prompts]

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all ids, texts and groups. Equal sets have equal fingerprints, whatever their names."""
        content = [[prompt.prompt_id, prompt.prompt, prompt.groups] for prompt in self.prompts]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.prompts)

    def __iter__(self) -> Iterator[Prompt]:
        return iter(self.prompts)


# ---- the sets, called as in `prompts=`


def shapes(name: str, num_prompts: int, seed: Seed, limit: int | None) -> PromptSet:
    """Return held-out prompts of the shapes world, in the groups one_shape and two_shapes.

    Ids are made from the text, so that a new prompt never gets the id of an old one, whatever number and seed are.
    """
    from alignbench.miniature import captions

    if num_prompts < 1:
        raise UserError(f"prompts.num_prompts={num_prompts} must be at least 1")
    return _take(name, [_shape_prompt(text) for text in captions.prompts("heldout", num_prompts, seed)], limit)


def shapes_validation(name: str, num_prompts: int, apart_from: int, seed: Seed, limit: int | None) -> PromptSet:
    """Return held-out prompts that are not in `shapes` with `apart_from` prompts and a seed that is one less."""
    from alignbench.miniature import captions

    if num_prompts < 1:
        raise UserError(f"num_prompts={num_prompts} of {name} must be at least 1")
    known = set(captions.prompts("heldout", apart_from, seed - 1))
    texts = captions.prompts("heldout", 2 * num_prompts + apart_from, seed)
    return _take(name, [_shape_prompt(text) for text in texts if text not in known][:num_prompts], limit)


def _shape_prompt(text: str) -> Prompt:
    from alignbench.miniature import captions

    group = "one_shape" if len(captions.parse(text).shapes) == 1 else "two_shapes"
    return Prompt(f"{group}-{hashlib.sha256(text.encode()).hexdigest()[:10]}", text, (group,))


def hpdv2(name: str, limit: int | None) -> PromptSet:
    """Return the HPDv2 benchmark prompts: four styles of 800. Repeated texts keep their own ids."""
    return _take(
        name,
        [
            Prompt(f"{style}-{number:05d}", text, (style,))
            for style in HPDV2_STYLES
            for number, text in enumerate(json.loads((FOLDER / "hpdv2" / f"{style}.json").read_text("utf-8")))
        ],
        limit,
    )


def parti(name: str, limit: int | None) -> PromptSet:
    """Return PartiPrompts; the groups of a prompt are its category and its challenge."""
    rows = _tsv(FOLDER / "parti.tsv")
    records = [
        Prompt(f"parti-{number:05d}", row["Prompt"], (row["Category"], row["Challenge"]))
        for number, row in enumerate(rows)
    ]
    return _take(name, records, limit)


def drawbench(name: str, limit: int | None) -> PromptSet:
    """Return DrawBench; the group of a prompt is its category."""
    rows = _tsv(FOLDER / "drawbench.tsv")
    records = [Prompt(f"drawbench-{i:05d}", row["Prompt"], (row["Category"],)) for i, row in enumerate(rows)]
    return _take(name, records, limit)


def geneval(name: str, limit: int | None) -> PromptSet:
    """Return the GenEval prompts; the group of a prompt is its task."""
    rows = [json.loads(line) for _, line in lines_of(read_text(FOLDER / "geneval.jsonl"))]
    return _take(name, [Prompt(f"geneval-{i:05d}", row["prompt"], (row["tag"],)) for i, row in enumerate(rows)], limit)


def pickapic_test(name: str, limit: int | None) -> PromptSet:
    """Return the distinct captions of Pick-a-Pic v2's test_unique split. Real users wrote them; some are explicit."""
    texts = json.loads((FOLDER / "pickapic_test.json").read_text("utf-8"))
    return _take(name, [Prompt(f"pickapic_test-{i:05d}", text) for i, text in enumerate(texts)], limit)


def imagereward_test(name: str, limit: int | None) -> PromptSet:
    """Return the prompts of ImageReward's test annotations, one a record. Repeated texts keep their own ids."""
    rows = json.loads((FOLDER / "imagereward_test.json").read_text("utf-8"))
    return _take(name, [Prompt(f"imagereward_test-{i:05d}", row["prompt"]) for i, row in enumerate(rows)], limit)


def text_rendering(name: str, limit: int | None) -> PromptSet:
    """Return the test prompts of Flow-GRPO's text task; each has a text in double quotes that the image has to show."""
    texts = [text for _, text in lines_of(read_text(FOLDER / "text_rendering.txt"))]
    return _take(name, [Prompt(f"text_rendering-{i:05d}", text) for i, text in enumerate(texts)], limit)


def file(name: str, path: str, limit: int | None) -> PromptSet:
    """Return the prompts of a file; see `read_prompts`.

    The name of the set holds the name of the file and a hash of its content, so that images of an older version of the
    file are never used for the new one.
    """
    records = read_prompts(path)
    whole = PromptSet(name, tuple(records), len(records))
    stem = path_safe(Path(path).stem) or name
    return _take(f"{stem}-{whole.fingerprint[:8]}", records, limit)


# ---- reading


def read_prompts(path: str | Path) -> list[Prompt]:
    """Read prompts from a file.

    .txt: one prompt in each line; blank lines are skipped. .jsonl: objects with "prompt" and optionally "group" and
    "prompt_id". .csv: the first line names the columns, prompt and optionally group and prompt_id. Without prompt_id,
    the ids count the prompts of the file from 00000.

    Raises:
        UserError: the file is missing, empty, damaged or of another kind; or a row has no prompt, a prompt that is
            blank or holds a NUL byte, or a prompt_id that cannot name a file or occurs twice.
    """
    path = Path(path)
    if path.suffix not in (".txt", ".jsonl", ".csv"):
        raise UserError(f"the prompt file {path} is of an unknown kind; expected .txt, .jsonl or .csv")
    if not path.is_file():
        raise UserError(f"the prompt file {path} does not exist")
    if path.suffix == ".txt":
        rows = [TextRow(f"line {number} of {path}", {"prompt": line}) for number, line in lines_of(read_text(path))]
    else:
        rows = read_rows(path)
    if not rows:
        raise UserError(f"the prompt file {path} holds no prompts")
    columns = columns_of(rows)
    if "prompt" not in columns:
        raise UserError(f"{path} has no column prompt; its columns are {', '.join(columns)}")

    locations: dict[str, str] = {}
    prompts = []
    for number, row in enumerate(rows):
        prompt_id = row.identifier("prompt_id") if "prompt_id" in columns else f"{number:05d}"
        check_prompt_id(prompt_id, row.location)
        if prompt_id in locations:
            raise UserError(f"{row.location} has the prompt_id {prompt_id}, which {locations[prompt_id]} has too")
        locations[prompt_id] = row.location
        prompts.append(Prompt(prompt_id, row.prompt("prompt"), row.groups()))
    return prompts


def check_prompt_id(prompt_id: str, location: str) -> None:
    """Refuse an id that cannot name a file.

    Args:
        location: line and file of the id, for the message.

    Raises:
        UserError: the id cannot name a file.
    """
    if len(prompt_id.encode()) > MAX_ID:
        raise UserError(f"{location} has a prompt_id of {len(prompt_id)} characters; at most {MAX_ID} can name a file")
    if not _PATH_SAFE.fullmatch(prompt_id):
        raise UserError(
            f"{location} has the prompt_id {prompt_id!r}, which cannot name a file; "
            "use letters, digits, '.', '_' and '-', a letter or digit first"
        )


def path_safe(name: str) -> str:
    """Return a name whose characters can all be in the name of a file; others become `_`. The result may be empty.

    Letters of all scripts stay. Two systems may spell an accented letter differently; here it has one form.
    """
    return re.sub(r"[^\w.-]+", "_", unicodedata.normalize("NFC", name)).strip("._-")


def _tsv(path: Path) -> list[dict[str, str]]:
    """Read tab-separated values literally, because quotes are part of the prompts."""
    header, *rows = (line.split("\t") for _, line in lines_of(read_text(path)))
    return [dict(zip(header, row, strict=True)) for row in rows]


# ---- subsets and overlaps


def _take(name: str, records: Sequence[Prompt], limit: int | None) -> PromptSet:
    """Return the set, or a subset of `limit` prompts in the order of the set.

    The subset keeps the shares of the first groups (the styles, the categories). Within a group, prompts are chosen by
    a hash of their id, because published lists are sorted by topic. A smaller subset is part of every larger one.
    """
    if limit is None:
        return PromptSet(name, tuple(records), len(records))
    if limit < 1:
        raise UserError(f"prompts.limit={limit} must be at least 1, or null for all {len(records)} prompts")

    sizes = Counter(record.groups[:1] for record in records)
    seen: Counter[tuple[str, ...]] = Counter()
    urgency: dict[str, tuple[float, str]] = {}
    digests = {record.prompt_id: hashlib.sha256(record.prompt_id.encode()).hexdigest() for record in records}
    for record in sorted(records, key=lambda record: digests[record.prompt_id]):
        group = record.groups[:1]
        urgency[record.prompt_id] = ((seen[group] + 0.5) / sizes[group], digests[record.prompt_id])
        seen[group] += 1
    chosen = set(sorted(urgency, key=lambda prompt_id: urgency[prompt_id])[:limit])
    return PromptSet(name, tuple(record for record in records if record.prompt_id in chosen), len(records))


def overlap(train_prompts: Iterable[str], prompt_set: PromptSet) -> list[str]:
    """Return the texts of `prompt_set` that are also training prompts, ignoring case and blanks."""
    known = {plain(text) for text in train_prompts}
    return [text for text in prompt_set.texts if plain(text) in known]
