"""Write runs into a capsule."""

import shlex
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from tqdm.auto import tqdm

from alignbench.capsule.archive import ArchiveWriter
from alignbench.capsule.check import check_prompts
from alignbench.capsule.contents import CONTENTS, MIB, Contents, member_name, most_bytes
from alignbench.capsule.thumbnails import scored_images, thumbnail_of
from alignbench.configuration.run_config import read_plain_config
from alignbench.errors import UserError
from alignbench.files import replacing, sha256
from alignbench.models.weights.policy_files import LORA_FILE
from alignbench.report.readable import check_run
from alignbench.report.tables import ScoreReader
from alignbench.store.manifest import BASE, Manifest
from alignbench.store.origin.capsule_record import RunContents, read_contents
from alignbench.store.run_folder import RunFolder, checked, readable_manifests

NUM_NAMED = 3  # settings with paths that are named


def pack(runs: Sequence[Path], out: Path, with_policy: bool = False) -> None:
    """Write runs, and the base runs that they are compared with, into one file; packing again gives the same bytes.

    Image statistics that a run lacks are measured on the way.

    Args:
        with_policy: whether LoRA weights are added.

    Raises:
        UserError: a folder is no finished run of this program, or a file of it has changed.
    """
    if out.is_dir():
        raise UserError(f"--out {out} is a folder; give the name of a file, such as {out / 'runs.tar'}")
    folders = with_bases([RunFolder(run.resolve()) for run in runs])
    contents: dict[str, RunContents] = {}
    with replacing(out) as temporary, temporary.open("wb") as file:
        archive = ArchiveWriter(file)
        for run in folders:
            contents[run.name] = _add_run(archive, run, with_policy)
        digest = archive.add(CONTENTS, Contents(runs=contents).text())
        archive.close()
    for run in folders:
        _tell_paths(run)
    print(f"{len(folders)} runs written to {out}, {out.stat().st_size / MIB:,.1f} MiB, contents {digest[:16]}")
    print(f"check it with: python -m alignbench.capsule verify {shlex.quote(str(out))}")


def with_bases(runs: Sequence[RunFolder]) -> list[RunFolder]:
    """Return runs with those that tables compare them with, by name: base, and what their training started from.

    Raises:
        UserError: a folder is no run, or two runs have one name.
    """
    found: dict[str, RunFolder] = {}
    for run in runs:
        manifest = run.manifest
        for other, of_other in [(run, manifest), *readable_manifests(run.path.parent)]:
            is_base = of_other.method == BASE and of_other.model == manifest.model and _share_images(manifest, of_other)
            if not (other.path == run.path or is_base or other.name == manifest.start_run):
                continue
            if found.setdefault(other.name, other).path != other.path:
                raise UserError(f"{found[other.name].path} and {other.path} have one name; pack them one after another")
    return [found[name] for name in sorted(found)]


def _share_images(one: Manifest, other: Manifest) -> bool:
    """Say whether two runs have images of a common prompt set."""
    sets = [{key.partition("/")[0] for key in manifest.completed.get("generate", [])} for manifest in (one, other)]
    return not sets[0].isdisjoint(sets[1])


def files_of(run: RunFolder) -> list[str]:
    """Return the files of a run that a capsule holds beside thumbnails and weights, by their paths in the run folder.

    Scores that are not finished, and what belongs to them, are left out.
    """
    ledgers = {"": run.manifest.files}
    ledgers |= {f"validation/{look.name}/": look.manifest.files for look in map(RunFolder, run.validation_folders)}

    def belongs(path: str) -> bool:
        look = next((start for start in ledgers if start and path.startswith(start)), "")
        if path.startswith("validation/") and not look:
            return False
        own = path.removeprefix(look)
        table = own.replace("/parts/", "/").replace(".evidence.jsonl", ".parquet")
        is_ledgered = own.startswith(("scores/", "images/"))
        return not is_ledgered or table in ledgers[look]

    paths = (file.relative_to(run.path).as_posix() for file in run.path.rglob("*") if file.is_file())
    others = ("thumbnails/", "policy/")
    return sorted(path for path in paths if most_bytes(path) and not path.startswith(others) and belongs(path))


def _add_run(archive: ArchiveWriter, run: RunFolder, with_policy: bool) -> RunContents:
    """Add a run to a capsule, and return what was added."""
    reader = ScoreReader()
    _check_finished(run)
    check_run(run, True, reader)
    measured = reader.measurements(run)
    if not measured:
        raise UserError(f"{run.path} has no scores yet; add score to stages")
    check_prompts(run)
    files: dict[str, str] = {}
    for file in files_of(run):
        files[file] = archive.add_file(member_name(run.name, file), checked(run.path / file))
        if files[file] != run.manifest.files.get(file, files[file]):
            raise UserError(f"{run.path / file} changed while it was packed; pack again when no command writes it")
    for file, content in _thumbnails(run, measured):
        files[file] = archive.add(member_name(run.name, file), content)
    policy_files = _policy_files(run)
    if with_policy and policy_files:
        if [*policy_files] != [LORA_FILE] or not (run.policy / LORA_FILE).is_file():
            raise UserError(
                f"{run.path} trained all weights or has none here, and --policy adds LoRA weights; leave --policy out, "
                "and hand over its policy by other means"
            )
        file = f"policy/{LORA_FILE}"
        files[file] = archive.add_file(member_name(run.name, file), run.policy / LORA_FILE)
    return RunContents(files, policy_files)


def _check_finished(run: RunFolder) -> None:
    """Refuse a run whose training has not ended, and files that a capsule cannot stand for."""
    manifest = run.manifest
    if not run.config_file.is_file():
        raise UserError(f"{run.path} has no config.yaml; give the folder of a run of this program")
    if manifest.seed is not None and not run.completed("train"):
        raise UserError(f"{run.path} is not trained to its end; repeat its command, and pack it then")


def _thumbnails(run: RunFolder, measured: Sequence) -> Iterator[tuple[str, bytes]]:
    """Yield the thumbnails of a run, by their paths in its folder."""
    images, gone = scored_images(run, measured), 0
    # decoding lets other threads work
    with (
        ThreadPoolExecutor() as pool,
        tqdm(total=len(images), desc=f"pack {run.short_name}", unit="image", disable=None, leave=None) as bar,
    ):
        for shown, content in zip(images, pool.map(lambda one: thumbnail_of(run, one), images), strict=True):
            bar.update()
            if content is None:
                gone += 1
            else:
                yield run.thumbnail(shown.digest).relative_to(run.path).as_posix(), content
    print(f"{run.name}  {len(images) - gone} thumbnails" + (f"; {gone} images are gone" if gone else ""))


def _policy_files(run: RunFolder) -> dict[str, str]:
    """Return the sha256 of each file of the trained weights."""
    if run.policy.exists():
        run.verified(run.policy)
        inside = (file for file in run.policy.rglob("*") if file.is_file() and not file.name.startswith("."))
        return {file.relative_to(run.policy).as_posix(): sha256(file) for file in sorted(inside)}
    return read_contents(run).policy_files if run.is_from_capsule else {}


def _tell_paths(run: RunFolder) -> None:
    """Name what of the configuration tells where files lie on this machine, as a capsule holds it as it is."""
    found = sorted(_paths(read_plain_config(run.config_file)))
    if found:
        more = f" and {len(found) - NUM_NAMED} more" if len(found) > NUM_NAMED else ""
        print(f"{run.name}  its configuration tells paths of this machine: {', '.join(found[:NUM_NAMED])}{more}")


def _paths(values: object, prefix: str = "") -> Iterator[str]:
    """Yield the keys of a configuration whose values are absolute paths."""
    if isinstance(values, dict):
        for key, value in values.items():
            yield from _paths(value, f"{prefix}{key}.")
    elif isinstance(values, list):
        for value in values:
            yield from _paths(value, prefix)
    elif isinstance(values, str) and PurePosixPath(values).is_absolute():
        yield f"{prefix[:-1]}={values}"
