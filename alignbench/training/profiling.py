"""Where the time of an update goes: a trace of a few updates, their largest costs, and what runs outside networks.

docs/performance.md says what each figure means.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function, schedule
from tqdm.auto import tqdm

from alignbench.files import with_check, write_json
from alignbench.store.run_folder import RunFolder

WARM_UP = 3  # updates that are not recorded: the first ones allocate memory and choose kernels
NUM_UPDATES = 3  # that are recorded
NUM_COSTS = 10
FORWARD = "alignbench.network"  # marks the call of a network in the trace
BACKWARD = "autograd::engine::evaluate_function"  # begins the name of each operation of a backward pass
UPDATE = "ProfilerStep"  # begins the name of each update in the trace


class Profiler:
    """Records updates after a warm-up, if it is on; each update ends with a call of `step`."""

    def __init__(self, recorder: profile | None) -> None:
        self._recorder = recorder

    def step(self) -> None:
        """Note that an update has ended."""
        if self._recorder is not None:
            self._recorder.step()


@contextmanager
def profiled(
    enabled: bool, folder: RunFolder, networks: Iterable[nn.Module | None], device: torch.device
) -> Iterator[Profiler]:
    """Record updates 4 to 6 of this training in the run folder: a trace, and the figures of `figures`.

    Nothing is recorded of a training that ends before. Results stay the same.

    Args:
        enabled: whether anything is recorded at all: of the processes of a run, by one.
        networks: what is not "outside networks".
    """
    if not enabled:
        yield Profiler(None)
        return
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]

    def write(recorder: profile) -> None:
        if recorder.step_num < WARM_UP + NUM_UPDATES:
            return
        folder.profile.mkdir(exist_ok=True)
        recorder.export_chrome_trace(str(folder.profile / "trace.json"))
        found = figures(recorder.events() or [], on_device=device.type == "cuda")
        write_json(folder.profile_figures, with_check(found))
        share = f"{100 * found['outside_networks']:.1f} %"
        tqdm.write(f"  profile     {share} of an update outside networks: {folder.profile_figures}")

    when = schedule(wait=1, warmup=WARM_UP - 1, active=NUM_UPDATES, repeat=1)
    with marked(networks), profile(activities=activities, schedule=when, on_trace_ready=write) as recorder:
        yield Profiler(recorder)


@contextmanager
def marked(networks: Iterable[nn.Module | None]) -> Iterator[None]:
    """Mark the calls of networks in a trace, and those of their children: a VAE is not called as a whole."""
    running: list[record_function] = []

    def begin(*_: Any) -> None:
        running.append(record_function(FORWARD))
        running[-1].__enter__()

    def end(*_: Any) -> None:
        running.pop().__exit__(None, None, None)

    modules = {module for network in networks if network is not None for module in (network, *network.children())}
    hooks = [module.register_forward_pre_hook(begin) for module in modules]
    hooks += [module.register_forward_hook(end, always_call=True) for module in modules]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def figures(events: Iterable[FunctionEvent], on_device: bool) -> dict[str, Any]:
    """Return what a trace of some updates comes to.

    Args:
        events: of the whole trace.
        on_device: whether operations are counted by their time on an accelerator, where the processor only starts them.

    Returns:
        num_updates, seconds_per_update, outside_networks (a share of an update, 0..1), and costs, the largest first: of
        each operation its name, calls_per_update, seconds_per_update and share of an update, without what it calls.
    """
    events = [event for event in events if event.device_type == torch.autograd.DeviceType.CPU]
    updates = [event for event in events if event.name.startswith(UPDATE)]
    total = sum(event.cpu_time_total for event in updates)
    kind = "device" if on_device else "cpu"
    in_networks = sum(getattr(event, f"{kind}_time_total") for event in events if _is_outermost(event))
    sums: dict[str, tuple[int, float]] = {}
    for event in events:
        if not event.name.startswith((UPDATE, FORWARD, BACKWARD)):
            calls, time = sums.get(event.name, (0, 0.0))
            sums[event.name] = calls + 1, time + getattr(event, f"self_{kind}_time_total")
    largest = sorted(sums.items(), key=lambda one: (-one[1][1], one[0]))[:NUM_COSTS]
    num = len(updates)
    return {
        "num_updates": num,
        "seconds_per_update": total / num / 1e6,
        "outside_networks": 1 - in_networks / total,
        "costs": [
            {
                "name": name,
                "calls_per_update": calls / num,
                "seconds_per_update": time / num / 1e6,
                "share": time / total,
            }
            for name, (calls, time) in largest
        ],
    }


def _of_networks(event: FunctionEvent) -> bool:
    return event.name.startswith((FORWARD, BACKWARD))


def _is_outermost(event: FunctionEvent) -> bool:
    """Say whether an event is of a network and no other that it is a part of is."""
    parent = event.cpu_parent
    while parent is not None and not _of_networks(parent):
        parent = parent.cpu_parent
    return _of_networks(event) and parent is None
