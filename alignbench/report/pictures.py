"""Draw what a run did: its images beside base's, its win rates, its training curves."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageDraw, ImageFont

from alignbench.files import replacing, write_png
from alignbench.report.columns import TableRow
from alignbench.report.curves.read import read_curves, read_validation
from alignbench.report.curves.turning_points import ValidationCurve
from alignbench.report.figures import significance
from alignbench.report.tables import Tables
from alignbench.store.image_records import PromptRecord, read_prompts
from alignbench.store.manifest import BASE, ResultsError
from alignbench.text import shortened
from alignbench.videos import read_still

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TILE = 256  # pixels a side of a shown image
GAP = 8
FONT_SIZE = 14
NUM_LINES = 3  # of a prompt; longer ones are cut
MAX_PANELS = 9
MAX_LABEL = 24  # characters of a method's name
MAX_TITLE = 60
LETTER = 0.075  # inches, of a method's name at most
SHORT_LABEL = 12  # characters, that the margins have always had room for


def side_by_side(images: Mapping[str, Path], path: Path, num_prompts: int = 8, columns: int = 2) -> None:
    """Write one picture of the first image of evenly spaced prompts, the same noise for every run; of videos a frame.

    Args:
        images: what stands above each run's images, and the folder that holds them; base first.
        path: PNG to write.
        num_prompts: how many prompts, spread evenly over those that all runs have, so that nobody picks.
        columns: prompts side by side.

    Raises:
        ResultsError: when the folders share no prompt.
    """
    folders = list(images.values())
    records = [{record.prompt_id: record for record in read_prompts(folder)} for folder in folders]
    shared = [record for record in records[0].values() if all(record.prompt_id in other for other in records)]
    if not shared:
        raise ResultsError(f"{', '.join(map(str, folders))} share no prompt; generate them alike")
    num_prompts = min(num_prompts, len(shared))
    chosen = [shared[i * len(shared) // num_prompts] for i in range(num_prompts)]
    titles = [shortened(title, MAX_LABEL) for title in images]
    blocks = [
        _block([folder / of[one.prompt_id].images[0] for folder, of in zip(folders, records, strict=True)], titles, one)
        for one in chosen
    ]
    write_png(path, _tiled(blocks, columns))


def _block(files: Sequence[Path], titles: Sequence[str], record: PromptRecord) -> Image.Image:
    """One prompt: the runs' images side by side, their methods above, the prompt below."""
    font = _font()
    line = FONT_SIZE + 4
    width = len(files) * (TILE + GAP) - GAP
    block = Image.new("RGB", (width, line + TILE + NUM_LINES * line + GAP), "white")
    draw = ImageDraw.Draw(block)
    for index, (file, title) in enumerate(zip(files, titles, strict=True)):
        left = index * (TILE + GAP)
        draw.text((left, 0), title, fill="gray", font=font)
        if not file.exists():
            draw.text((left, line), "the image is gone", fill="gray", font=font)
            continue
        tile = fitted(read_still(file), TILE)
        block.paste(tile, (left + (TILE - tile.width) // 2, line + (TILE - tile.height) // 2))
    letters = max(int(width / font.getlength("n")), 10)
    lines = textwrap.wrap(record.prompt, letters, max_lines=NUM_LINES, placeholder=" ...") or [""]
    for number, text in enumerate(lines):
        draw.text((0, line + TILE + 4 + number * line), text, fill="black", font=font)
    return block


def fitted(image: Image.Image, side: int) -> Image.Image:
    """Enlarge small images by a whole factor, pixels kept as squares; shrink large ones smoothly to `side` pixels."""
    longest = max(image.size)
    if longest > side:
        width, height = (max(round(length * side / longest), 1) for length in image.size)
        return image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)
    factor = side // longest
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def _font() -> ImageFont.FreeTypeFont:
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", FONT_SIZE)


def _tiled(blocks: Sequence[Image.Image], columns: int) -> Image.Image:
    columns = min(columns, len(blocks))
    rows = -(-len(blocks) // columns)
    width, height = blocks[0].width + 3 * GAP, blocks[0].height + 2 * GAP
    sheet = Image.new("RGB", (columns * width + GAP, rows * height + GAP), "white")
    for number, block in enumerate(blocks):
        row, column = divmod(number, columns)
        sheet.paste(block, (GAP + column * width, GAP + row * height))
    return sheet


def forest(tables: Tables, model: str, prompt_set: str, path: Path) -> None:
    """Write a forest plot of all win rates over base: a panel an evaluator, a line a method.

    Filled where significant after Holm's correction; grey where the method trained on the evaluator.
    """
    rows = [
        row
        for row in tables.leaderboard
        if (row["model"], row["prompt_set"], row["group"]) == (model, prompt_set, "all") and row["method"] != BASE
    ]
    evaluators = sorted({(row["evaluator"], row["version"]) for row in rows})
    methods = sorted({row["method"] for row in rows}, reverse=True)
    if not rows:
        raise ResultsError(f"no run of {model} was scored on {prompt_set}; train one before drawing its win rates")
    figure = new_figure(1.4 + _room(methods) + 2.4 * len(evaluators), 1.3 + 0.35 * len(methods))
    panels = figure.subplots(1, len(evaluators), sharey=True, squeeze=False)[0]
    for panel, (evaluator, version) in zip(panels, evaluators, strict=True):
        for row in rows:
            if (row["evaluator"], row["version"]) == (evaluator, version):
                _forest_line(panel, methods.index(row["method"]), row)
        panel.axvline(50, color="black", linewidth=0.8, linestyle=":")
        panel.set(
            title=evaluator_title((evaluator, version), evaluators), xlim=(0, 100), ylim=(-0.6, len(methods) - 0.4)
        )
        panel.set_yticks(range(len(methods)), _short(methods))
        panel.title.set_fontsize(9)
    figure.supxlabel(
        f"win rate over base in %, 95 % interval; {tables.where(model, prompt_set)}; filled: significant", fontsize=9
    )
    save_figure(figure, path)


def _forest_line(panel: "Axes", height: int, row: dict[str, Any]) -> None:
    value, low, high = (100 * row[name] for name in ("win_rate_vs_base", "win_ci_low", "win_ci_high"))
    colour = "gray" if row["trained_on"] else "tab:blue"
    filled = significance(row).startswith("*")
    panel.plot([low, high], [height, height], color=colour, linewidth=1.5)
    panel.plot(
        [value], [height], marker="o", color=colour, markerfacecolor=colour if filled else "white", clip_on=False
    )


def win_matrix(tables: Tables, model: str, prompt_set: str, path: Path) -> None:
    """Write every method's win rate over every other: a panel an evaluator, the winner's row, the loser's column.

    Starred where it is significant after Holm's correction; in parentheses for these weights alone.
    """
    key = (model, prompt_set, "all")
    rows = [row for row in tables.win_rates if (row["model"], row["prompt_set"], row["group"]) == key]
    evaluators = sorted({(row["evaluator"], row["version"]) for row in rows})
    methods = sorted({row[side] for row in rows for side in ("method_a", "method_b")}, key=lambda m: (m != BASE, m))
    if not rows:
        raise ResultsError(f"no run of {model} was scored on {prompt_set}; train one before drawing its win rates")
    columns = min(len(evaluators), 3)
    lines = -(-len(evaluators) // columns)
    side = 1.1 + _room(methods) + 0.5 * len(methods)
    figure = new_figure(columns * side, lines * side)
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for panel, evaluator in zip(panels, evaluators, strict=False):
        wins = [[50.0] * len(methods) for _ in methods]
        for row in rows:
            if (row["evaluator"], row["version"]) == evaluator:
                a, b = methods.index(row["method_a"]), methods.index(row["method_b"])
                wins[a][b], wins[b][a] = 100 * row["win_rate"], 100 - 100 * row["win_rate"]
                star = significance(row).replace("n.s.", "").replace("***", "*").replace("**", "*")
                for y, x in ((a, b), (b, a)):
                    colour = "white" if abs(wins[y][x] - 50) > 35 else "black"
                    text = panel.text(
                        x, y, f"{wins[y][x]:.0f}{star}", ha="center", va="center", fontsize=7, color=colour
                    )
                    text.set_in_layout(False)  # it lies within its panel, and there are hundreds
        panel.imshow(wins, cmap="RdBu", vmin=0, vmax=100)
        panel.set_title(evaluator_title(evaluator, evaluators), fontsize=9)
        panel.set_xticks(range(len(methods)), _short(methods), rotation=90, fontsize=8)
        panel.set_yticks(range(len(methods)), _short(methods), fontsize=8)
    for panel in panels[len(evaluators) :]:
        panel.set_axis_off()
    figure.suptitle(
        f"win rate of row over column in %; {tables.where(model, prompt_set)}; *: significant, (*) for these weights",
        fontsize=10,
    )
    save_figure(figure, path)


def _short(methods: Sequence[str]) -> list[str]:
    return [shortened(method, MAX_LABEL) for method in methods]


def _room(methods: Sequence[str]) -> float:
    """Return the inches that names need beyond those of short names, or panels would vanish beside them."""
    return LETTER * max(0, max(map(len, _short(methods))) - SHORT_LABEL)


def evaluator_title(evaluator: tuple[str, str], shown: Sequence[tuple[str, str]]) -> str:
    """Name an evaluator, with its version where two of them are shown."""
    name, version = evaluator
    return name if sum(other == name for other, _ in shown) == 1 else f"{name}@{version}"


def training_curve(train_log: Path, path: Path, title: str = "") -> None:
    """Write a panel for each figure logged in `train.jsonl` over the optimizer step, the loss first, nine at most.

    Raises:
        ResultsError: when nothing was logged.
    """
    curves = read_curves(train_log)
    names = list(curves)[:MAX_PANELS]
    if not names:
        raise ResultsError(f"{train_log} logs no figures; train for at least one log step")
    columns = min(len(names), 3)
    lines = -(-len(names) // columns)
    figure = new_figure(3.2 * columns, 0.5 + 2.1 * lines)
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for panel, name in zip(panels, names, strict=False):
        marker = "." if len(curves[name]) < 30 else None
        panel.plot(*zip(*curves[name], strict=True), color="tab:blue", linewidth=1, marker=marker)
        panel.set_title(name, fontsize=9)
        panel.tick_params(labelsize=8)
    for panel in panels[len(names) :]:
        panel.set_axis_off()
    figure.suptitle(shortened(title, MAX_TITLE), fontsize=10)
    figure.supxlabel("optimizer step", fontsize=9)
    save_figure(figure, path)


def validation_curves(table: Path, path: Path, title: str = "", kept: int | None = None) -> None:
    """Write a panel for each evaluator of `validation.csv`: its win rate over the start, with intervals, by step.

    Args:
        kept: the step whose weights were kept, marked by a line.
    """
    curves = read_validation(table)
    names = list(curves)
    columns = min(len(names), 3)
    lines = -(-len(names) // columns)
    figure = new_figure(3.2 * columns, 0.5 + 2.1 * lines)
    panels = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for panel, name in zip(panels, names, strict=False):
        steps, rates, low, high = zip(*curves[name], strict=True)
        panel.fill_between(steps, low, high, color="tab:blue", alpha=0.2, linewidth=0)
        panel.plot(steps, rates, color="tab:blue", linewidth=1, marker=".")
        panel.axhline(50, color="gray", linewidth=0.5)
        if kept is not None:
            panel.axvline(kept, color="tab:orange", linewidth=1, linestyle="--")
        panel.set(title=name, ylim=(0, 100))
        panel.title.set_fontsize(9)
        panel.tick_params(labelsize=8)
    for panel in panels[len(names) :]:
        panel.set_axis_off()
    figure.suptitle(shortened(title, MAX_TITLE), fontsize=10)
    figure.supxlabel("optimizer step", fontsize=9)
    figure.supylabel("% won over the start", fontsize=9)
    save_figure(figure, path)


def turning_curves(curves: Sequence[tuple[ValidationCurve, TableRow]], path: Path, title: str = "") -> None:
    """Write a panel for each method: the win rates over the start that evaluators give it, by network passes.

    Evaluators that training followed are dashed. Points mark the peaks of the others, with their intervals; they are
    filled where the curve falls afterwards.

    Args:
        curves: with their rows of `turning_points.csv`.
    """
    methods = list(dict.fromkeys(curve.method for curve, _ in curves))
    evaluators = list(dict.fromkeys((curve.evaluator, curve.version) for curve, _ in curves))
    colours = {name: f"C{number % 10}" for number, name in enumerate(evaluators)}
    columns = min(len(methods), 3)
    lines = -(-len(methods) // columns)
    figure = new_figure(3.2 * columns, 1.1 + 2.3 * lines)
    panels = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for panel, method in zip(panels, methods, strict=False):
        panel.axhline(50, color="gray", linewidth=0.5)
        for curve, row in curves:
            if curve.method != method:
                continue
            colour = colours[curve.evaluator, curve.version]
            passes, rates = curve.network_passes / 1000, 100 * curve.rates
            panel.plot(passes, rates, color=colour, linewidth=1.2, linestyle="--" if curve.trained_on else "-")
            if not curve.trained_on:
                peak, low, high = (row[name] / 1000 for name in ("peak_passes", "peak_passes_low", "peak_passes_high"))
                height = 100 * row["peak_win_rate"]
                panel.hlines(height, low, high, color=colour, linewidth=0.8)
                panel.plot(
                    [peak], [height], "o", color=colour, markersize=4, fillstyle="full" if row["turned"] else "none"
                )
        panel.set_title(shortened(method, MAX_TITLE), fontsize=9)
        panel.set_ylim(0, 100)
        panel.set_xlabel("thousand network passes", fontsize=8)
        panel.tick_params(labelsize=8)
    for panel in panels[len(methods) :]:
        panel.set_axis_off()
    for one in evaluators:
        panels[0].plot([], [], color=colours[one], label=evaluator_title(one, evaluators))
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8)
    figure.suptitle(shortened(title, MAX_TITLE), fontsize=10)
    figure.supylabel("% won over the start", fontsize=9)
    save_figure(figure, path)


def guidance_curves(rows: Sequence[TableRow], path: Path, title: str = "") -> None:
    """Write a panel for each evaluator: how often base wins over itself by its guidance, and how often methods do.

    Args:
        rows: of `guidance.csv`, of one model and prompt set.
    """
    evaluators = sorted({(row["evaluator"], row["version"]) for row in rows})
    methods = sorted({row["method"] for row in rows} - {BASE})
    columns = min(len(evaluators), 3)
    lines = -(-len(evaluators) // columns)
    figure = new_figure(3.2 * columns, 1.3 + 2.3 * lines)
    panels = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for panel, evaluator in zip(panels, evaluators, strict=False):
        own = [row for row in rows if (row["evaluator"], row["version"]) == evaluator]
        scale = own[0]["guidance_scale"]
        # the table has what base wins at its own scale over another one
        of_base = {row["base_guidance_scale"]: 100 * (1 - row["win_rate"]) for row in own if row["method"] == BASE}
        scales, rates = zip(*sorted({**of_base, scale: 50.0}.items()), strict=True)
        panel.plot(scales, rates, color="black", linewidth=1.2, marker=".", label=BASE)
        over_own = {row["method"]: row for row in own if row["base_guidance_scale"] == scale}
        for number, method in enumerate(methods):
            if method in over_own:
                marker = "os^vDP*"[number // 10 % 7]
                height = 100 * over_own[method]["win_rate"]
                panel.plot([scale], [height], marker, color=f"C{number % 10}", markersize=4, alpha=0.8, label=method)
        panel.axhline(50, color="gray", linewidth=0.5)
        panel.set_title(evaluator_title(evaluator, evaluators), fontsize=9)
        panel.set_ylim(0, 100)
        panel.set_xlabel("guidance scale", fontsize=8)
        panel.tick_params(labelsize=8)
    for panel in panels[len(evaluators) :]:
        panel.set_axis_off()
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    figure.suptitle(shortened(title, MAX_TITLE), fontsize=10)
    figure.supylabel("% won over base", fontsize=9)
    save_figure(figure, path)


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure of a size in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", dpi=120)


def save_figure(figure: "Figure", path: Path) -> Path:
    """Write a figure as PNG, atomically; equal figures give equal bytes. Return its file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with replacing(path) as temporary:
        # as figure.savefig, which draws everything twice
        FigureCanvasAgg(figure).print_png(temporary, metadata={"Software": None})
    return path
