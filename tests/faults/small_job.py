"""All stages of a run that change files and take a second together: what is killed at many places."""

import shutil

from accelerate import Accelerator

from alignbench.generation.generate import Sampling, generate, generated, image_set
from alignbench.models.tiny_random import tiny_adapter
from alignbench.scoring.score import score
from alignbench.store.run_folder import RunFolder
from alignbench.terminal.signals import handled
from alignbench.training.train import train
from alignbench.training.validation import Validation
from alignbench.work_share import WorkShare
from tests.tiny_runs import RandomPairs, settings, sft
from tests.training.test_validation import MANIFEST, PROMPTS, Brightness

SAMPLING = Sampling(num_inference_steps=1, guidance_scale=1.0, batch_size=2)


def small_job(path, **changes):
    """Train with looks that choose the weights, make images and score them; do nothing that was done."""
    accelerator, folder = Accelerator(cpu=True), RunFolder(path)
    share = WorkShare(accelerator.process_index, accelerator.num_processes)
    model, evaluator = tiny_adapter("flux"), Brightness()
    with accelerator.main_process_first():
        folder.open(MANIFEST)
    if not folder.completed("train"):
        validation = Validation(
            PROMPTS, SAMPLING, [evaluator], folder, accelerator, every=2, select=["brightness"], patience=None
        )
        cfg = settings(**{"checkpointing_steps": 1, "max_train_steps": 3, "ema_decay": 0.9} | changes)
        train(cfg, model, sft(), RandomPairs(), folder, accelerator, (), validation)
        if share.is_main:
            folder.complete("train", files=[folder.policy])
            shutil.rmtree(folder.checkpoints, ignore_errors=True)
        accelerator.wait_for_everyone()
    model = tiny_adapter("flux")
    model.load_policy(folder.verified(folder.policy))
    if not generated(folder, PROMPTS, SAMPLING, share):
        generate(model, PROMPTS, SAMPLING, folder, share, progress=False)
    score(folder, image_set(PROMPTS, SAMPLING, model.resolution), [evaluator], 2, None, share, progress=False)


def program(path, **changes):
    """Return a main function of the job, as `benchmarks.faulty_runs.start` takes it."""

    def main():
        with handled():
            small_job(path, **changes)

    return main
