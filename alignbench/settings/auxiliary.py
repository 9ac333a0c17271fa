"""The settings under `auxiliary.NAME`: a loss that is added to the method's."""

from typing import Any

from alignbench.settings.section import REQUIRED, Positive, Section, setting


class AuxiliaryLoss(Section):
    """One loss that is added to the method's; auxiliary=NAME chooses it and sets its keys."""

    weight: Positive = setting(REQUIRED, "Factor on the loss.")
    data: dict[str, Any] = setting(
        REQUIRED, "Data of this loss, with the keys of `data`. By default the data of the method."
    )
