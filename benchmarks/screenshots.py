"""Make the pictures of the report in README and docs from the results of a sweep and of a run that hacks its reward.

    python -m alignbench -m method=sft,dpo,kto model=sd15_mini train.max_train_steps=30 prompts.limit=48 \
        sampling.num_inference_steps=8 results=RESULTS
    python -m alignbench method=direct_align model=sd15_mini reward=shapes_preference train.max_train_steps=12 \
        train.learning_rate=3e-4 train.total_batch_size=8 train.micro_batch_size=8 validation=shapes \
        validation.every=2 validation.prompts.limit=32 prompts.limit=48 sampling.num_inference_steps=8 results=RUINED
    python benchmarks/screenshots.py RESULTS RUINED

Needs Chromium. Each picture is a view of `index.html` in a window of its own, in 256 colours.
"""

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path

from PIL import Image

from alignbench.files import write_png

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
Views = dict[str, tuple[str, tuple[int, int]]]  # picture -> what the address says, and the size of the window
OF_RESULTS: Views = {
    "report_overview": ("model=sd15_mini", (1400, 1000)),
    "report_wins": ("view=wins&model=sd15_mini&evaluator=shapes_clip@1", (1400, 470)),
    "report_images": ("view=images&model=sd15_mini&evaluator=shapes_annotators@2&order=losses&method=sft", (1400, 800)),
}
OF_RUINED: Views = {"report_hacking": ("view=hacking&model=sd15_mini", (1400, 1260))}
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("results", type=Path, help="results root of the sweep, with index.html")
    parser.add_argument("ruined", type=Path, help="that of the run that hacks its reward")
    parser.add_argument("--to", type=Path, default=IMAGES, help="folder of the pictures")
    arguments = parser.parse_args()
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        parser.error(f"none of {', '.join(PROGRAMS)} is on the path")
    for root, views in ((arguments.results, OF_RESULTS), (arguments.ruined, OF_RUINED)):
        page = root.resolve() / "index.html"
        if not page.exists():
            parser.error(f"{page} is missing")
        for name, (view, size) in views.items():
            write_png(arguments.to / f"{name}.png", screenshot(program, f"{page.as_uri()}#{view}", size))


def screenshot(program: str, address: str, size: tuple[int, int]) -> Image.Image:
    """Return what a browser without a network shows, in few colours so that the file is small."""
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "picture.png"
        command = [
            program,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={folder}/profile",
            f"--window-size={size[0]},{size[1]}",
            "--virtual-time-budget=5000",
            f"--screenshot={picture}",
            address,
        ]
        subprocess.run(command, check=True, capture_output=True)
        with Image.open(picture) as image:
            return image.convert("RGB").quantize(256, dither=Image.Dither.NONE)


if __name__ == "__main__":
    main()
