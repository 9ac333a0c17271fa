"""The last checkpoint of a run that was stopped before its end, as a policy: `model.policy_step=last`."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from alignbench.errors import UserError
from alignbench.files import sha256
from alignbench.models.weights.state_dicts import load_tensors
from alignbench.store.checkpoint_files import DIGESTS, STATE, checkpoint_steps, damaged_file, read_state
from alignbench.store.run_folder import RunFolder

if TYPE_CHECKING:
    from torch import Tensor

POLICY = "policy"  # name of the trained network among those of a checkpoint
POLICY_FILE = f"{POLICY}.safetensors"
AVERAGE = "ema"  # name of the moving average among the states of a checkpoint


@dataclass(frozen=True)
class StoppedRun:
    """A checkpoint of a run as a policy.

    Attributes:
        run: whose checkpoint it is.
        step: of the checkpoint.
    """

    run: RunFolder
    step: int

    @classmethod
    def find(cls, path: str) -> Self:
        """Return the last checkpoint of the run in a folder.

        Raises:
            UserError: if there is none, the run was finished, or its weights cannot be read.
        """
        named, run = f"model.policy={path}", RunFolder(Path(path))
        if not run.manifest_file.is_file():
            raise UserError(
                f"{named} is not the folder of a run, and model.policy_step=last takes the last checkpoint of one; "
                "leave model.policy_step out, or give the folder of a run that was stopped"
            )
        if run.completed("train"):
            raise UserError(f"{named} was trained to its end; leave model.policy_step out, and its policy is taken")
        steps = checkpoint_steps(run.checkpoints)
        if not steps:
            raise UserError(
                f"{named} has no checkpoint; repeat its command to train on, and stop it after the first one "
                "(train.checkpointing_steps)"
            )
        found = cls(run, steps[-1])
        if not (found.checkpoint / POLICY_FILE).is_file() and (shards := sorted(found.checkpoint.glob("shards-*"))):
            number = shards[0].stem.rpartition("-")[2]
            raise UserError(
                f"the weights in {found.checkpoint} are split over the {number} processes that trained them, and "
                f"cannot be read as a policy; repeat the command of the run in {number} processes to finish it"
            )
        if not (found.checkpoint / DIGESTS).exists() or "data" not in run.manifest.fingerprints:
            raise UserError(
                f"{found.checkpoint} was written by an older version, which noted neither its digests nor what it had "
                "trained on by then; repeat the command of the run, and stop it after the next checkpoint"
            )
        return found

    @property
    def checkpoint(self) -> Path:
        return self.run.checkpoint(self.step)

    @property
    def origin(self) -> dict[str, str]:
        """What a manifest says of the weights: where they are, and which bytes the checkpoint holds."""
        digest = sha256(self.checkpoint / DIGESTS)
        return {"policy": str(self.run.path), "policy_step": str(self.step), "policy_sha256": digest}

    def weights(self) -> "dict[str, Tensor]":
        """Return the trained parameters of the denoiser by name.

        Raises:
            UserError: if they have changed since they were written.
        """
        return load_tensors(self._verified(POLICY_FILE))

    def average(self) -> "list[Tensor]":
        """Return the moving average of the trained parameters, in their order, of a run that keeps one.

        Raises:
            UserError: as `weights`.
        """
        return read_state(self._verified(STATE), mmap=True)[AVERAGE]["shadow_params"]

    def _verified(self, name: str) -> Path:
        if not self.checkpoint.is_dir():
            raise UserError(f"{self.checkpoint} is gone, since the run trains on; stop it, and repeat this command")
        if (file := damaged_file(self.checkpoint, name)) is not None:
            raise UserError(
                f"{file} is damaged (sha256 differs); restore it, or delete {self.checkpoint} to take the checkpoint "
                "before it"
            )
        return self.checkpoint / name
