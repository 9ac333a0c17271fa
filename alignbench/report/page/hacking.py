"""Tell the page who hacks the reward, how images differ from base's, and what the looks at a run said."""

import math
from collections.abc import Iterable

from alignbench.report.columns import TableRow
from alignbench.report.curves.read import read_validation
from alignbench.report.diagnostics import WEIGHT_DISTANCE
from alignbench.report.display import Grid, TableSection, guidance_grids
from alignbench.report.figures import number, stars
from alignbench.report.hacking import all_clear, findings, warnings
from alignbench.report.page.store import PageData
from alignbench.report.tables import Tables
from alignbench.store.manifest import BASE
from alignbench.store.run_folder import RunFolder

MEASURES = {  # what each is called, and the factor in displays
    "saturation": ("colour saturation, %", 100.0),
    "sharpness": ("sharpness, variance of the Laplacian", 1.0),
    "grid_8": ("grid of 8 pixels, dB", 1.0),
    "grid_16": ("grid of 16 pixels, dB", 1.0),
    "clipped": ("clipped values, %", 100.0),
    "brightness": ("brightness, %", 100.0),
    "contrast": ("contrast, standard deviation of brightness, %", 100.0),
    "edge_density": ("pixels at an edge, %", 100.0),
    "colour_entropy": ("entropy of colours, bits", 1.0),
    "colourfulness": ("colourfulness", 1.0),
    "jpeg_bits": ("size as JPEG, bits a pixel", 1.0),
    "diversity_prompts": ("diversity of different prompts, %", 100.0),
    "diversity_noise": ("diversity of different noise, %", 100.0),
    WEIGHT_DISTANCE: ("distance of the weights, %", 100.0),
}
KINDS = {"image": "Image statistics", "diversity": "Diversity of colours"}
SET_MEASURES = {  # the same of measures of sets, whose names end with those of the features
    "cmmd": ("CMMD, distance from base's images", 1.0),
    "vendi": ("Vendi score of the images of a prompt", 1.0),
    "distance_prompts": ("distance of different prompts", 1.0),
    "distance_noise": ("distance of different noise", 1.0),
    "precision": ("precision against base's images of other noise, %", 100.0),
    "recall": ("recall of base's images of other noise, %", 100.0),
}


def hacking_entry(tables: Tables, section: TableSection) -> PageData:
    """Return the flags of a section, the differences of its images to base, and how far weights have moved."""
    key = (section.model, section.prompt_set)
    rows = [row for row in tables.diagnostics if row["step"] is None and row["model"] == section.model]
    kinds = ("image", "diversity", "set")
    here = [row for row in rows if row["prompt_set"] == section.prompt_set and row["kind"] in kinds]
    moved = [row for row in rows if row["measure"] == WEIGHT_DISTANCE and row["method"] in section.methods]
    weights = [[row["method"], row["run"], number(100 * row["value"], (math.nan, math.nan))] for row in moved]
    of_sets = sorted(
        {row["measure"] for row in here if row["kind"] == "set"}, key=lambda name: name.partition(".")[::-1]
    )
    names = [*MEASURES, *of_sets]
    plots = [_plot(name, [row for row in here if row["measure"] == name]) for name in names]
    return {
        "flags": [
            {"method": one.method, "text": str(one), "isHacking": one.is_hacking, "lowest": f"{100 * one.lowest:.1f} %"}
            for one in findings(tables, *key)
        ],
        "warnings": [str(one) for one in warnings(tables, *key)],
        "allClear": all_clear(tables, *key),
        "changed": list(dict.fromkeys(row["flag"] for row in here if row["flag"])),
        "diagnostics": [plot for plot in plots if plot],
        "guidance": [vars(grid) for grid in guidance_grids(section)],
        "weights": vars(
            Grid("Distance of the weights from the start, % of their norm", ["method", "run", "%"], weights)
        ),
    }


def _plot(name: str, rows: list[TableRow]) -> PageData | None:
    """Return what is drawn of one statistic; nothing where no method has it beside base."""
    title, scale = MEASURES[name] if name in MEASURES else _of_sets(name)
    base = next((row for row in rows if row["method"] == BASE), None)
    compared = [row for row in rows if row["difference"] == row["difference"]]  # NaN without a base
    if base is None or not compared:
        return None
    interval = (base["ci_low"], base["ci_high"])
    has_interval = interval[1] > interval[0]  # base has no distance from itself, whatever the prompts
    return {
        "title": title,
        "heading": KINDS.get(base["kind"]) or f"Images as sets, by the features {name.partition('.')[2]}",
        "base": number(base["value"], interval, scale) if has_interval else f"{scale * base['value']:.3g}",
        "rows": [_difference(row, scale) for row in compared],
    }


def _of_sets(name: str) -> tuple[str, float]:
    """Return what a measure of sets is called, such as `vendi_4.dinov2_base`, and the factor in displays."""
    measure = name.partition(".")[0]
    num_images = f", {measure[6:]} of each" if measure.startswith("vendi_") else ""
    title, scale = SET_MEASURES["vendi" if num_images else measure]
    return f"{title}{num_images}", scale


def _difference(row: TableRow, scale: float) -> PageData:
    interval = (row["difference_ci_low"], row["difference_ci_high"])
    return {
        "method": row["method"],
        "value": scale * row["difference"],
        "low": scale * interval[0],
        "high": scale * interval[1],
        "text": number(row["difference"], interval, scale),
        "stars": stars(row["p"]),
    }


def validation_entry(folder: RunFolder, rows: Iterable[TableRow]) -> PageData:
    """Return the validation curves of a run, and the statistics of its looks' images over training.

    Args:
        rows: of the diagnostics, of which those of other runs are passed over.
    """
    manifest = folder.manifest
    read = read_validation(folder.validation_table) if folder.validation_table.exists() else {}
    own = [row for row in rows if row["run"] == manifest.run and row["step"] is not None]
    looks = []
    for name, (title, scale) in MEASURES.items():
        points = [
            [row["step"], *(scale * row[key] for key in ("value", "ci_low", "ci_high"))]
            for row in own
            if row["measure"] == name
        ]
        if points:
            looks.append({"title": title, "points": points})
    return {
        "validation": [
            {"evaluator": name, "isTrained": name in manifest.trained_on, "points": points}
            for name, points in read.items()
        ],
        "looks": looks,
        "kept": manifest.selected_step if manifest.selected_by else None,
    }
