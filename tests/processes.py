"""Several processes that meet over gloo, for tests of what they do together."""

import multiprocessing
import os
import tempfile
import traceback
from pathlib import Path
from queue import Empty

import torch
from accelerate.state import AcceleratorState

TIME_LIMIT = 300  # seconds; a process that waits for another in vain would wait for ever

# what `accelerate launch` says to its processes
FSDP2 = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
DEEPSPEED = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2", "DS_ACCELERATOR": "cpu"}


def together(function, *arguments, num_processes=2, environment=None):
    """Call `function(rank, *arguments)` in processes of one group; return what each returned, in rank order.

    A single process is alone, as one that no launcher has started.
    """
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        workers = [
            context.Process(
                target=_work, args=(function, arguments, rank, num_processes, folder, environment or {}, results)
            )
            for rank in range(num_processes)
        ]
        for worker in workers:
            worker.start()
        try:
            found = dict(_result(results) for _ in workers)
        finally:
            for worker in workers:
                worker.kill()
    return [found[rank] for rank in range(num_processes)]


def _result(results):
    """Return the rank of the next process that is ready, and its result; a failure need not wait for the others."""
    try:
        rank, value = results.get(timeout=TIME_LIMIT)
    except Empty:
        raise AssertionError(f"a process was not done within {TIME_LIMIT} seconds") from None
    if isinstance(value, Failure):
        raise AssertionError(value.args[0])
    return rank, value


class Failure(Exception):
    """What went wrong in a process, as text."""


def _work(function, arguments, rank, num_processes, folder, environment, results):
    torch.set_num_threads(1)
    AcceleratorState._reset_state(reset_partial_state=True)  # the parent was alone
    if num_processes > 1:
        _join(rank, num_processes, folder, environment)
    try:
        results.put((rank, function(rank, *arguments)))
    except BaseException:
        results.put((rank, Failure(traceback.format_exc())))
    results.close()
    results.join_thread()
    if num_processes > 1:
        torch.distributed.barrier()


def _join(rank, num_processes, folder, environment):
    """Become one of the processes of a group, as a launcher tells them to."""
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": num_processes, "LOCAL_WORLD_SIZE": num_processes}
    os.environ.update({name: str(value) for name, value in names.items()} | environment)
    if environment.get("ACCELERATE_USE_DEEPSPEED"):
        _leave_reductions_to_gloo()
    meet = f"file://{Path(folder) / 'meet'}"
    torch.distributed.init_process_group("gloo", init_method=meet, rank=rank, world_size=num_processes)


def _leave_reductions_to_gloo():
    """Keep DeepSpeed from compiling its own exchange by shared memory first: a minute's work, and a C++ compiler's."""
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
