"""What diffusers has to sample a family under a ControlNet."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ControlNetSupport:
    """The classes of diffusers for one family.

    Attributes:
        pipeline: class that samples under control.
        network: class of its ControlNets.
        argument: of the pipeline's call that takes the maps.
        width: value of the configuration in which ControlNets of different models differ.
        scheduler: the only one that its pipeline works with, where there is one.
    """

    pipeline: str
    network: str
    argument: str
    width: str
    scheduler: str | None = None
