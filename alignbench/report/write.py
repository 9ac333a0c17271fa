"""Write everything the report consists of: tables and the page under the results root, the rest in its `report`."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from alignbench.files import locked, write_csv
from alignbench.report import markdown, pictures
from alignbench.report.cards.beside import cards_beside
from alignbench.report.columns import TURNING_POINT_COLUMNS
from alignbench.report.comparison import ALL
from alignbench.report.curves.turning_points import turning_points, validation_curves
from alignbench.report.diagnostics import diagnose, features_left_out, looks_left_out
from alignbench.report.display import sections
from alignbench.report.labels import strength_label
from alignbench.report.page.write import write_page
from alignbench.report.published_tables.reproduced import read_reproductions
from alignbench.report.readable import readable
from alignbench.report.sensitivity.best import best_settings
from alignbench.report.sensitivity.curves import sensitivity_rows
from alignbench.report.sensitivity.picture import sensitivity_picture
from alignbench.report.sensitivity.searched import add_tried
from alignbench.report.sensitivity.tried import tried_settings
from alignbench.report.tables import Tables, build
from alignbench.statistics.resampling import NUM_RESAMPLES
from alignbench.store.image_records import PROMPTS, read_prompts, read_sampling
from alignbench.store.manifest import BASE
from alignbench.store.run_folder import RunFolder, run_folders
from alignbench.store.search_record import count_tried
from alignbench.store.training_data import note_shared_data
from alignbench.terminal.waiting import waiting


def write_report(root: Path, num_resamples: int = NUM_RESAMPLES) -> Tables:
    """Write leaderboard, win rates, ranking and diagnostics, pictures, and the page; return the tables.

    Statistics of images that have none yet are measured on the way. Runs that share training data with a reward model
    of this root are noted as trained on it. What cannot be read, or contradicts other runs, is left out and named in
    `Tables.left_out`.
    """
    with locked(Path(root) / ".report.lock"):  # all tables are of one writer
        return _write_report(root, num_resamples)


def _write_report(root: Path, num_resamples: int) -> Tables:
    found = readable(Path(root), with_images=True)
    for folder in found.runs:
        note_shared_data(folder, found.reward_models)
    with waiting("comparing the runs"):
        tables = build(root, num_resamples, found.runs, found.studies, found.verdicts, found.reader)
    tried, damaged_searches = count_tried(Path(root))
    add_tried(tables, found.runs, tried)
    diagnostics = diagnose(root, tables, num_resamples, found.reader)
    cards = cards_beside(tables.evaluators, found.cards)
    recipes = tried_settings(found.runs, tables.labels)
    left_out = found.left_out | tables.left_out | damaged_searches
    left_out |= features_left_out(root, tables) | looks_left_out(root, tables, found.reader)
    reproductions = [one for one in read_reproductions(Path(root), left_out) if one.run in tables.labels]
    tables = replace(
        tables,
        left_out=left_out,
        reproductions=reproductions,
        diagnostics=diagnostics,
        cards=cards,
        sensitivity=sensitivity_rows(tables, recipes),
        best_settings=best_settings(tables, recipes, num_resamples),
    )
    tables.write(root)
    _write_turning_points(root, found.runs)
    markdown.write(root, tables)
    with waiting("drawing the charts"):
        _write_charts(root, tables)
    write_page(root, tables)
    return tables


def _write_charts(root: Path, tables: Tables) -> None:
    """Draw the win rates of each section, and base at other guidance where it was sampled so."""
    for section in sections(tables):
        if any(method != BASE for method, _ in section.rows):
            key = f"{section.model}-{section.prompt_set}.png"
            folder = Path(root) / "report"
            pictures.forest(tables, section.model, section.prompt_set, folder / f"win_rates-{key}")
            where = (section.model, section.prompt_set, ALL)
            if any((row["model"], row["prompt_set"], row["group"]) == where for row in tables.win_rates):
                pictures.win_matrix(tables, section.model, section.prompt_set, folder / f"win_matrix-{key}")
            if section.guidance:
                pictures.guidance_curves(section.guidance, folder / f"guidance-{key}", title=section.where)
            swept = [
                row
                for row in tables.sensitivity
                if (row["model"], row["prompt_set"]) == (section.model, section.prompt_set)
            ]
            if swept:
                sensitivity_picture(swept, folder / f"sensitivity-{key}", title=section.where)


def _write_turning_points(root: Path, folders: Sequence[RunFolder]) -> None:
    """Write where the curves of validation turn, if any run was validated often enough while it trained."""
    curves = validation_curves(folders)
    if not curves:
        return
    rows = turning_points(curves)
    write_csv(Path(root) / "turning_points.csv", TURNING_POINT_COLUMNS, rows)
    for model in sorted({curve.model for curve in curves}):
        own = [(curve, row) for curve, row in zip(curves, rows, strict=True) if curve.model == model]
        pictures.turning_curves(own, Path(root) / "report" / f"turning_points-{model}.png", title=model)


def _share_prompts(images: Path, of_base: Path) -> bool:
    """Say whether a run and base have images of the same prompts."""
    if not (of_base / PROMPTS).exists():
        return False
    own, its = ({record.prompt_id for record in read_prompts(one)} for one in (images, of_base))
    return not own.isdisjoint(its)


def write_run_pictures(folder: RunFolder, folders: Sequence[RunFolder] | None = None) -> list[Path]:
    """Write a run's training curve and its images beside base's; return the files, in `report/<run>/`.

    Args:
        folders: the runs among which base is; None for all beside this one.
    """
    manifest = folder.manifest
    target = folder.path.parent / "report" / folder.name
    written = []
    if folder.train_log.exists():
        written.append(target / "training.png")
        pictures.training_curve(folder.train_log, written[-1], title=folder.name)
    if folder.validation_table.exists():
        written.append(target / "validation.png")
        kept = manifest.selected_step if manifest.selected_by else None
        pictures.validation_curves(folder.validation_table, written[-1], title=folder.name, kept=kept)
    for base in run_folders(folder.path.parent) if folders is None else folders:
        if (base.manifest.method, base.manifest.model) != (BASE, manifest.model) or base.name == folder.name:
            continue
        for prompts in sorted(folder.path.glob("images/*/*/prompts.jsonl")):
            prompt_set, sampling_hash = prompts.parts[-3:-1]
            sampling = read_sampling(prompts.parent)
            of_base = base.images(prompt_set, sampling.base_sampling or sampling_hash)
            if _share_prompts(prompts.parent, of_base):
                written.append(target / f"{prompt_set}-{sampling_hash}.png")
                name = manifest.display_name or manifest.method
                name += strength_label(sampling.strength, sampling.strength_kind)
                pictures.side_by_side({BASE: of_base, name: prompts.parent}, written[-1])
    return written
