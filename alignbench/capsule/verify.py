"""Say whether a capsule is whole, and whether a share of its images and scores comes out again."""

import secrets
import tempfile
from collections.abc import Sequence
from pathlib import Path

from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from alignbench.capsule.check import unpack
from alignbench.capsule.contents import MIB, Contents
from alignbench.capsule.repeat import Repeater
from alignbench.devices import multiply_float32
from alignbench.errors import UserError
from alignbench.files import sha256
from alignbench.store.run_folder import RunFolder
from alignbench.terminal.waiting import waiting


def verify(path: Path, share: float, seed: int | None = None, policies: Sequence[Path] = ()) -> None:
    """Check a capsule, and print what was checked and what was not.

    Args:
        share: of the images that are made and scored again, 0 to 1.
        seed: chooses them; None for one that nobody can know before.
        policies: trained weights of runs of the capsule, which know theirs by the digest.

    Raises:
        UserError: the capsule is damaged, or something comes out otherwise.
    """
    for library in (diffusers_logging, transformers_logging):
        library.set_verbosity_error()
        library.disable_progress_bar()
    multiply_float32(tf32=False)
    seed = secrets.randbelow(10**6) if seed is None else seed
    faults: list[str] = []
    with tempfile.TemporaryDirectory(prefix="alignbench-capsule-") as folder:
        runs, workspace = Path(folder) / "runs", Path(folder) / "again"
        runs.mkdir()
        with waiting(f"checking {path.name}"):
            contents, digest = unpack(path, runs)
        num_files = sum(len(run.files) for run in contents.runs.values())
        print(f"{path}  {len(contents.runs)} runs, {num_files} files, {path.stat().st_size / MIB:,.1f} MiB")
        print(f"  whole: every bit is as it was packed; contents {digest[:16]}")
        print(f"  {100 * share:g} % of the images are made again, in whole batches, with --seed {seed}")
        found = find_policies(policies, contents, runs)
        repeater = Repeater(workspace, share, seed)
        num_repeated = 0
        for name in contents.runs:
            print(name)
            try:
                repeated = repeater.repeat(RunFolder(runs / name), found.get(name))
            except UserError as error:
                print(f"  nothing was made again: {error}")
                continue
            num_repeated += repeated.num_images > 0
            faults += repeated.faults
            for line in repeated.told:
                print(f"  {line}")
    if faults:
        raise UserError("; ".join(faults))
    print(f"nothing contradicts {path}; {num_repeated} of {len(contents.runs)} runs were made again in part")


def find_policies(policies: Sequence[Path], contents: Contents, runs: Path) -> dict[str, Path]:
    """Return the trained weights of each run that has some: from its capsule, or those that are given.

    Args:
        runs: folder of the runs.

    Raises:
        UserError: weights that are given belong to none of the runs.
    """
    found = {name: runs / name / "policy" for name in contents.runs if (runs / name / "policy").exists()}
    for given in policies:
        path = given / "policy" if (given / "policy").is_dir() else given
        if not path.exists():
            raise UserError(f"--policy {given} does not exist; give a run, its policy folder, or a file of weights")
        digest = sha256(path)
        owners = [
            name
            for name, run in contents.runs.items()
            if digest in (RunFolder(runs / name).manifest.files.get("policy"), *run.policy_files.values())
        ]
        if not owners:
            raise UserError(f"--policy {given} is not the policy of {' or '.join(contents.runs)} (sha256 differs)")
        found |= dict.fromkeys(owners, path)
    return found
