"""The settings of launchers, which the files of conf/hydra/launcher set."""

from typing import Any

from alignbench.settings.section import REQUIRED, Count, CountOrZero, NotNegative, Section, setting


class OfThisMachine(Section):
    """`hydra/launcher=joblib`."""

    n_jobs: Count | None = setting(REQUIRED, "Cells that run at a time. null: one for each group of `processes` GPUs.")
    processes: Count = setting(REQUIRED, "Processes of one cell, each with a GPU of its own.")


class OfSubmititLocal(OfThisMachine):
    """`hydra/launcher=submitit_local`."""

    timeout_min: Count = setting(REQUIRED, "Minutes that a job may run; a new one goes on.")
    max_num_timeout: CountOrZero = setting(REQUIRED, "How often a cell may reach that limit.")
    signal_delay_s: Count = setting(REQUIRED, "Seconds before the limit at which the cell is told.")


class OfSubmititSlurm(Section):
    """`hydra/launcher=submitit_slurm`."""

    processes: Count | None = setting(REQUIRED, "Processes of one cell. null: `gpus_per_node`, or 1.")
    gpus_per_node: Count | None = setting(REQUIRED, "GPUs of one cell; null for none.")
    cpus_per_task: Count | None = setting(REQUIRED, "CPU cores of one cell.")
    mem_gb: Count | None = setting(REQUIRED, "Main memory of one cell in GB; null: what the cluster gives.")
    partition: str | None = setting(REQUIRED, "As `sbatch --partition`.")
    account: str | None = setting(REQUIRED, "As `sbatch --account`.")
    qos: str | None = setting(REQUIRED, "As `sbatch --qos`.")
    constraint: str | None = setting(REQUIRED, "As `sbatch --constraint`.")
    exclude: str | None = setting(REQUIRED, "As `sbatch --exclude`.")
    timeout_min: Count = setting(REQUIRED, "Minutes that a job may run; then it goes back into the queue.")
    max_num_timeout: CountOrZero = setting(REQUIRED, "How often a cell may reach that limit.")
    signal_delay_s: Count = setting(REQUIRED, "Seconds before the limit at which Slurm tells the cell.")
    array_parallelism: Count = setting(REQUIRED, "Most jobs of the sweep that run at a time.")
    setup: list[str] = setting(REQUIRED, "Lines of the shell before the cell starts.")
    additional_parameters: dict[str, Any] = setting(REQUIRED, "Further options of sbatch, by their long names.")


class OfRay(Section):
    """`hydra/launcher=ray`."""

    address: str | None = setting(REQUIRED, "Of a Ray cluster: `auto` or `HOST:PORT`. null: start Ray on this machine.")
    processes: Count = setting(REQUIRED, "Processes of one cell, all on one machine.")
    num_cpus: NotNegative = setting(REQUIRED, "CPU cores that Ray reserves for one cell.")
    num_gpus: NotNegative = setting(REQUIRED, "GPUs that Ray reserves for one cell.")
