"""The tables of settings in docs/configuration.md, made from the declarations.

`python -m alignbench.configuration.page` writes each table anew between its two marks, `<!-- settings: NAME -->` and
`<!-- end -->`.
"""

import re
from pathlib import Path

from alignbench.settings.auxiliary import AuxiliaryLoss
from alignbench.settings.card import CardCommand, Exploit
from alignbench.settings.command import Command
from alignbench.settings.compare import Compare
from alignbench.settings.data import HubSettings, LabelSettings, PairSettings, RowSettings, VideoSettings
from alignbench.settings.launchers import OfRay, OfSubmititLocal, OfSubmititSlurm, OfThisMachine
from alignbench.settings.model import Model
from alignbench.settings.reward_training import RewardCommand, RewardTrain
from alignbench.settings.sampling import Sampling
from alignbench.settings.section import Section, choices, expected, shown
from alignbench.settings.tracker import Tracker
from alignbench.settings.train import Train
from alignbench.settings.validation import Validation

PAGE = Path(__file__).resolve().parents[2] / "docs" / "configuration.md"
# by the name in the marks: the prefix of the keys, and who declares them
TABLES: dict[str, tuple[str, type[Section]]] = {
    "command": ("", Command),
    "model": ("model.", Model),
    "data": ("data.", RowSettings),
    "labels": ("data.", LabelSettings),
    "pairs": ("data.", PairSettings),
    "hub": ("data.", HubSettings),
    "videos": ("data.", VideoSettings),
    "train": ("train.", Train),
    "auxiliary": ("auxiliary.NAME.", AuxiliaryLoss),
    "sampling": ("sampling.", Sampling),
    "validation": ("validation.", Validation),
    "compare": ("compare.", Compare),
    "tracker": ("tracker.", Tracker),
    "launcher_joblib": ("hydra.launcher.", OfThisMachine),
    "launcher_submitit_local": ("hydra.launcher.", OfSubmititLocal),
    "launcher_submitit_slurm": ("hydra.launcher.", OfSubmititSlurm),
    "launcher_ray": ("hydra.launcher.", OfRay),
    "reward_command": ("", RewardCommand),
    "reward_train": ("train.", RewardTrain),
    "card_command": ("", CardCommand),
    "exploit": ("exploit.", Exploit),
}


def main() -> None:
    """Write the tables of the page anew."""
    PAGE.write_text(with_tables(PAGE.read_text()))


def with_tables(page: str) -> str:
    """Return the text of a page with the tables between its marks as the declarations have them."""
    mark = re.compile(r"(<!-- settings: (\w+) -->\n).*?(<!-- end -->)", flags=re.DOTALL)
    return mark.sub(lambda found: f"{found[1]}\n{table(*TABLES[found[2]])}\n{found[3]}", page)


def table(prefix: str, section: type[Section]) -> str:
    """Return the table of the settings that a section declares beside those of the section that it extends."""
    schemas, defaults = section.schemas(), section.defaults()
    inherited = {key for base in section.__bases__ if issubclass(base, Section) for key in base.model_fields}
    lines = ["| key | default | values | meaning |", "|---|---|---|---|"]
    for key in (key for key in schemas if key not in inherited):
        schema = schemas[key]
        values = ", ".join(f"`{value}`" for value in choices(schema)) or expected(schema)
        source = f" Source: {schema['source']}." if "source" in schema else ""
        meaning = re.sub(r"docs/(\w+)\.md", r"[\1](\1.md)", schema["description"] + source)
        lines.append(f"| `{prefix}{key}` | {_default(defaults[key], prefix)} | {values} | {meaning} |")
    return "\n".join(lines) + "\n"


def _default(value: object, prefix: str) -> str:
    if value == "???":
        return "each choice has its own"
    followed = re.fullmatch(r"\$\{(?:oc\.select:)?(\.?)([^,]*)(?:,.*)?\}", value) if isinstance(value, str) else None
    if followed:
        return f"as `{prefix if followed[1] else ''}{followed[2]}`"
    return f"`{shown(value)}`"


if __name__ == "__main__":
    main()
