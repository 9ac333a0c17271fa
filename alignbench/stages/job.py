"""One job from its configuration to its table: the stages in order, each through the run folder alone."""

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import broadcast_object_list
from diffusers.utils import logging as diffusers_logging
from omegaconf import DictConfig
from rich.console import Console
from transformers.utils import logging as transformers_logging

from alignbench.configuration.build import (
    base_of,
    build,
    frames_of,
    has_images,
    is_base,
    resolve,
    run_name,
    trains,
)
from alignbench.configuration.distilled_weights import follow_distilled_weights
from alignbench.data.prompts import PromptSet
from alignbench.data.source import kind_of
from alignbench.devices import float32_products, free_memory, multiply_float32
from alignbench.generation.generate import Sampling, generate, generated, image_set
from alignbench.generation.ready_to_sample import make_ready
from alignbench.models.adapter import ModelAdapter
from alignbench.scoring.compare import Comparing, refuse_no_opponent
from alignbench.scoring.session import Scoring
from alignbench.settings.command import STAGES, Stage
from alignbench.stages.early_end import advice_in, diverged, no_policy
from alignbench.stages.existing import compare_existing
from alignbench.stages.introduction import introduction, tell_cut_prompts
from alignbench.stages.last_command import remember
from alignbench.stages.loading import policy_lines, write_policy_lines
from alignbench.stages.looks.look_by_look import STAGES_OF_A_LOOK, LookByLook
from alignbench.stages.open_run import note_training, open_run
from alignbench.stages.prepare import Preparation, build_adapter, prepare_data
from alignbench.stages.real_images import open_real_images, real_records
from alignbench.stages.start import load_start, measuring_start, start_run
from alignbench.stages.training_terms import (
    begin_rewards,
    build_terms,
    cost_of_reward,
    evaluation_prompts_trained_on,
    refuse_prompts,
    trained_on,
    training_data,
)
from alignbench.stages.turns import training_alone, turn
from alignbench.store.run_folder import RunFolder
from alignbench.store.training_data import note_shared_data, readable_reward_models, write_training_data
from alignbench.terminal.console import headed, open_console, print_fact
from alignbench.training.memory_estimate import refuse_what_cannot_fit
from alignbench.training.tracking import Tracking
from alignbench.training.validation import Watch, build_validation
from alignbench.work_share import WorkShare


def run(cfg: DictConfig, watch: Watch | None = None) -> list[RunFolder]:
    """Do the requested stages of one job, and what they need of the base run.

    Args:
        watch: see `alignbench.training.validation.Validation`.

    Returns:
        The runs that the job is about: base first, if it was needed, and the job's own last.

    Raises:
        UserError: if the configuration and what lies on the disk do not fit.
    """
    for library in (diffusers_logging, transformers_logging):  # long real prompts would fill the screen with warnings
        library.set_verbosity_error()
        library.disable_progress_bar()
    multiply_float32(tf32=False)  # an accelerator scores as a CPU does
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(),  # without it, launched processes on a CPU each believe to be alone
        mixed_precision=cfg.train.mixed_precision,
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )
    console = open_console(quiet=not accelerator.is_main_process)
    try:
        if has_images(cfg):
            return compare_existing(cfg, accelerator, console)
        job = Job(cfg, accelerator, console)
        job.watch = watch
        job.run()
        base = RunFolder(job.root / run_name(base_of(cfg)))
        runs = [job.folder] if job.is_base or not base.manifest_file.exists() else [base, job.folder]
        if job.printed:
            remember(cfg, runs, job.printed)
        return runs
    finally:
        # accelerate keeps its state for the process; the next job of a sweep must not inherit it
        accelerator.end_training()
        accelerator.free_memory()
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()


class Job:
    """The stages of one configuration."""

    def __init__(self, cfg: DictConfig, accelerator: Accelerator, console: Console) -> None:
        self.cfg = cfg
        self.sampling_remarks = follow_distilled_weights(cfg)
        self.accelerator = accelerator
        self.console = console
        self.root = Path(cfg.results)
        self.folder = RunFolder(self.root / run_name(cfg))
        self.is_base = is_base(cfg)
        self.trains = trains(cfg)
        self.start = start_run(cfg)
        self.work_share = WorkShare.of(cfg.shard, accelerator.process_index, accelerator.num_processes)
        self.tracking: Tracking | None = None  # of a run that trains now
        self.watch: Watch | None = None  # of its validations
        self.told: list[str] = []  # what was said of the weights
        self.printed = ""  # the tables, once they are printed

    def run(self) -> None:
        stages: list[Stage] = [stage for stage in STAGES if stage in self.cfg.stages]
        self.prompts: PromptSet | None = build(self.cfg.prompts) if {*stages} - {"prepare", "train"} else None
        self.scoring: Scoring | None = None
        if self.prompts is not None and self.cfg.evaluators and {"score", "report"} & set(stages):
            self.scoring = Scoring(self.cfg, self.prompts.name, self.prompts.texts, self.accelerator, self.console)
        if self.prompts is not None and self.cfg.real_images is not None and "score" in stages:
            real_records(self.cfg.real_images, self.prompts, 1)  # refuses a wrong folder before hours of training
        built = {"control": build(self.cfg.sampling.control), "frames": frames_of(self.cfg.model)}
        self.sampling = Sampling(**resolve(self.cfg)["sampling"] | built)
        looks = self._looks() if self.sampling.stop != "none" and "score" in stages else None
        seen = evaluation_prompts_trained_on(self.cfg, self.prompts)
        before_images: list[Stage] = [stage for stage in stages if stage in ("prepare", "train")]
        trains = self.trains and "train" in stages and not self.folder.completed("train")
        with training_alone(self.folder.path, self.accelerator) if trains else nullcontext():
            self._begin(stages, seen)
            self._do(before_images)
        if looks is not None:
            looks.run(self._measure)
        self._do(stage for stage in stages[len(before_images) :] if looks is None or stage not in STAGES_OF_A_LOOK)

    def _looks(self) -> LookByLook:
        """Return how the run is measured look by look; what cannot be is refused before training."""
        assert self.prompts is not None
        assert self.scoring is not None
        runs, evaluators = (self.folder, RunFolder(self.root / run_name(base_of(self.cfg)))), self.scoring.evaluators
        return LookByLook.of(self.sampling, self.prompts, evaluators, runs, self.accelerator, self.console)

    def _measure(self, prompts: PromptSet) -> None:
        self.prompts = prompts
        self._do(STAGES_OF_A_LOOK)

    def _begin(self, stages: Sequence[Stage], seen: str | None) -> None:
        """Open the run folder, say what will be done, and calibrate the evaluators.

        Args:
            seen: the prompt set of the evaluation, if training sees prompts of it.
        """
        self._open()
        if self.prompts is not None and self.is_base and "compare" in stages:
            refuse_no_opponent(self.folder, self.prompts.name, self.sampling.hash)
        if seen and self.accelerator.is_main_process:
            self.folder.update(trained_prompt_sets=sorted({*self.folder.manifest.trained_prompt_sets, seen}))
        self.console.print(headed(self.folder.name, " > ".join(stages)))
        self.console.print(f"  folder      {self.folder.path}", soft_wrap=True)  # a path is never cut
        for name, told in introduction(self.cfg, stages, self.accelerator, self.prompts, self.sampling):
            print_fact(self.console, name, told)
        for remark in self.sampling_remarks if self.prompts is not None else ():
            self.console.print(f"  {remark}")
        if self.scoring is not None and "score" in stages:
            self.scoring.calibrate()

    def _do(self, stages: Iterable[Stage]) -> None:
        for stage in stages:
            with advice_in(stage, self.cfg):
                getattr(self, stage)()
                self.accelerator.wait_for_everyone()

    # ---- stages

    def prepare(self) -> None:
        """Encode and score the data of training, unless training was done before."""
        if not self.trains or ("train" in self.cfg.stages and self.folder.completed("train")):
            return
        cache, load = self.root / "cache", partial(self._model, self.cfg)
        with float32_products(self.cfg.train.tf32):
            prepare_data(self.cfg, cache, self.work_share, self.accelerator, self.console, load)

    def train(self) -> None:
        """Train, unless it was done before. The base run and a published policy have nothing to train."""
        if not self.trains:
            return
        if self.folder.completed("train"):
            self.folder.remove_checkpoints()  # a kill may have come before
            self.console.print(f"train: done before, {self.folder.policy}")
            return
        from alignbench.data.batches.stream import check_mix
        from alignbench.training.train import Auxiliary, train

        terms = build_terms(self.cfg)
        for term in terms:
            check_mix(*term)
        refuse_prompts(terms)
        method, data = terms[0]
        kind, dropped = kind_of(method.batch_type), data.summary()
        print_fact(self.console, "data", f"{data.name}, {len(data.view(kind))} {kind}{dropped and f'; {dropped}'}")
        if cost := cost_of_reward(method, self.cfg):
            print_fact(self.console, "reward", cost)
        begin_rewards(method, self.folder, self.accelerator.process_index)
        left_out: Sequence[str] = ()
        if self.cfg.validation.every is None:  # images need all networks
            with float32_products(self.cfg.train.tf32):
                left_out = Preparation(self.cfg, terms, self.root / "cache", self.accelerator.device).left_out()
        if left_out:
            self.console.print(f"  cache       all is there that {', '.join(left_out)} would compute: not loaded")
        is_cuda = self.accelerator.device.type == "cuda"  # main memory can be had from the disk, slowly
        if is_cuda and (told := refuse_what_cannot_fit(self.cfg, free_memory(self.accelerator.device), left_out)):
            self.console.print(f"  memory      {told}")
        model = self._model(self.cfg, left_out)
        for _, source in terms:
            self._tell_cut(model, f"data={source.name}", sorted({*source.prompts}))
        if self.cfg.train.reward_vae is not None:
            from alignbench.models.reward_vae import load_reward_vae

            model.reward_vae = load_reward_vae(self.cfg.train.reward_vae, model)
        auxiliary = [
            Auxiliary(node.weight, *term) for node, term in zip(self.cfg.auxiliary.values(), terms[1:], strict=True)
        ]
        followed = [name for one, _ in terms for name in one.trained_on]
        learned_from = training_data(self.cfg, self.start, terms)
        self.tracking = Tracking(self.cfg, self.folder.name, self.accelerator)
        sources = [source for _, source in terms]
        validation = build_validation(
            self.cfg, followed, sources, learned_from, self.prompts, self.folder, self.accelerator, self.tracking
        )
        if validation is not None:
            validation.watch = self.watch
        if self.accelerator.is_main_process:  # now, as a run that is stopped may be a start or be measured
            write_training_data(self.folder, learned_from)
            self.folder.update(
                trained_on=trained_on(self.cfg, self.start, terms),
                fingerprints={"data": data.fingerprint}
                | {f"auxiliary.{term.method.name}": term.data.fingerprint for term in auxiliary},
            )
            note_shared_data(self.folder, readable_reward_models(self.root))
        optional = auxiliary, validation, self.tracking, self.cfg.profile
        with float32_products(self.cfg.train.tf32):
            try:
                trained = train(self.cfg, model, method, data, self.folder, self.accelerator, *optional)
            except FloatingPointError as error:
                raise diverged(error, self.folder) from None
        best_step = None if validation is None else validation.best_step
        if self.accelerator.is_main_process:
            selected_by = [] if validation is None or best_step is None else list(validation.select)
            note_training(self.folder, self.cfg, trained, best_step, selected_by)
            write_policy_lines(self.cfg, self.folder)
            self.folder.complete("train", files=[self.folder.policy, *self.folder.logs])
            self.folder.remove_checkpoints()

    def generate(self) -> None:
        """Make the images of this run and, where they are missing, of its base run."""
        assert self.prompts is not None
        if not self.is_base:
            self._base().generate()
        self._also_start("generate")
        if self._generated():
            if self.prompts.whole is None:
                self.console.print(f"generate: done before, {self._images}")
            return
        if self.scoring is not None:
            self.scoring.network_pool.clear()  # of an earlier look
        with turn("generate", self._images, self.work_share, self.accelerator, self.console):
            if not self._generated():  # by another command, meanwhile
                self._make_images()

    def _make_images(self) -> None:
        assert self.prompts is not None
        if self.trains and not self.folder.completed("train"):
            raise no_policy(self.folder)
        model = self._model(self.cfg, keep_start=self.sampling.strength != 1)
        policy = self.folder.verified(self.folder.policy) if self.trains else None
        make_ready(model, self.sampling, policy, self.accelerator.device)
        self._tell_cut(model, self.prompts.name, self.prompts.texts)
        self._leave(generate(model, self.prompts, self.sampling, self.folder, self.work_share), "generate")

    def score(self) -> None:
        """Score the images of this run and, where scores are missing, of its base run; real images beside base's."""
        assert self.prompts is not None
        assert self.scoring is not None
        if not self.is_base:
            self._base().score()
        self._also_start("score")
        if not self.trains and not self._generated():
            self.generate()
        images = image_set(self.prompts, self.sampling, self.cfg.model.resolution)
        scores = self.folder.scores(self.prompts.name, self.sampling.hash)
        with turn("score", scores, self.work_share, self.accelerator, self.console):
            self._leave(self.scoring.score(self.folder, images), "score")
        if self.is_base and self.cfg.real_images is not None:
            with self.accelerator.main_process_first():  # all processes write the same
                folder, images = open_real_images(self.cfg, self.prompts, self._images)
            self.console.print(f"  real images {len(images.records)} prompts of {self.cfg.real_images}")
            self._leave(self.scoring.score(folder, images), "score")

    def compare(self) -> None:
        """Let comparers judge pairs of images of this run and others; base's are made where they are missing."""
        assert self.prompts is not None
        if "generate" not in self.cfg.stages:
            self.generate()
        if self.scoring is not None:
            self.scoring.network_pool.clear()  # a comparer may need the memory
        comparing = Comparing(self.cfg, self.prompts.name, self.sampling.hash, self.accelerator, self.console)
        with turn("compare", comparing.folder, self.work_share, self.accelerator, self.console):
            comparing.compare(self.folder)

    def report(self) -> None:
        """Make the tables of all runs under the results root, and this run's pictures."""
        if not self.accelerator.is_main_process or (self.scoring is not None and self.scoring.left()):
            return  # other shards have work to do before a table makes sense
        from alignbench.report.terminal.print_results import print_results
        from alignbench.report.write import write_report, write_run_pictures
        from alignbench.stages.track_results import track_results

        tables = write_report(self.root)
        pictures = write_run_pictures(self.folder, [RunFolder(self.root / name) for name in tables.labels])
        python = policy_lines(self.cfg, self.folder) if self.trains else ""
        self.printed = print_results(self.folder, tables, pictures, python, self.console)
        if self.tracking is not None:
            track_results(self.tracking, self.folder, self.sampling, tables, pictures)

    # ---- parts

    def _tell_cut(self, model: ModelAdapter, of: str, prompts: Sequence[str]) -> None:
        tell_cut_prompts(model.cut_prompts(prompts), of, self.folder, self.accelerator, self.console)

    def _also_start(self, stage: str) -> None:
        """Do a stage of the run that measures `model.policy` first, where training started from it."""
        if not self.trains or self.cfg.model.policy is None:
            return
        start = self._beside(measuring_start(self.cfg), "what training started from is measured first")
        getattr(start, stage)()
        if self.accelerator.is_main_process:
            self.folder.update(start_run=start.folder.name)

    def _leave(self, num_images: int, stage: str) -> None:
        """Say what is left for other shards, if anything is."""
        if num_images:
            self.console.print(f"{stage}: {num_images} images of {self.folder.name} are left for the other shards")

    def _generated(self) -> bool:
        """Say whether this shard has its images: the word of the main process, while other shards go on, for all."""
        assert self.prompts is not None
        done = self.accelerator.is_main_process and generated(self.folder, self.prompts, self.sampling, self.work_share)
        return broadcast_object_list([done])[0]

    @property
    def _images(self) -> Path:
        assert self.prompts is not None
        return self.folder.images(self.prompts.name, self.sampling.hash)

    def _base(self) -> "Job":
        """Return the job of the base run, sharing what is already loaded."""
        return self._beside(base_of(self.cfg), "the base run is missing and is made first")

    def _beside(self, cfg: DictConfig, told: str) -> "Job":
        """Return the job of another run that is measured as this one; where it is new, that is told."""
        other = Job(cfg, self.accelerator, self.console)
        other.prompts, other.scoring, other.told = self.prompts, self.scoring, self.told
        other.sampling = self.sampling.at_full_strength
        if not other.folder.manifest_file.exists():
            self.console.print(f"{told}: {other.folder.path}")
        other._open()
        return other

    def _open(self) -> None:
        """Start the run folder, or check that what lies there belongs to this configuration."""
        with self.accelerator.main_process_first():
            open_run(self.folder, self.cfg, self.start, self.accelerator)

    def _model(self, cfg: DictConfig, left_out: Sequence[str] = (), keep_start: bool = False) -> ModelAdapter:
        """Build the model with its start weights, or with the policy that is measured.

        Args:
            left_out: networks that get no weights.
            keep_start: whether `reference` is to answer for the untouched model where a policy is measured.
        """
        model = build_adapter(cfg.model, left_out)
        for remark in [one for one in model.remarks if one not in self.told]:  # the base run has the same weights
            self.console.print(f"  {remark}")
            self.told.append(remark)
        if cfg.model.policy is not None:
            load_start(model, cfg, self.folder.manifest.start_weights, keep_start and not trains(cfg))
            if trains(cfg):
                model.fold_adapters()  # a policy trained from here on is relative to their sum
        return model
