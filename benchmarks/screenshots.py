"""Make the README's pictures of the report from the results of a sweep.

    python -m alignbench -m method=sft,dpo,kto model=sd15_mini train.max_train_steps=30 prompts.limit=48 \
        sampling.num_inference_steps=8 results=RESULTS
    python benchmarks/screenshots.py RESULTS

Needs Chromium. Each picture is a view of `RESULTS/index.html` in a window of its own, in 256 colours.
"""

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path

from PIL import Image

from alignbench.files import write_png

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
VIEWS = {  # picture -> what the address says, and the size of the window
    "report_wins": ("view=wins&model=sd15_mini&evaluator=shapes_clip@1", (1400, 470)),
    "report_images": ("view=images&model=sd15_mini&evaluator=shapes_annotators@2&order=losses&method=sft", (1400, 800)),
}
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("results", type=Path, help="results root with index.html")
    parser.add_argument("--to", type=Path, default=IMAGES, help="folder of the pictures")
    arguments = parser.parse_args()
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    page = arguments.results.resolve() / "index.html"
    if program is None or not page.exists():
        parser.error(f"{page} is missing" if program else f"none of {', '.join(PROGRAMS)} is on the path")
    for name, (view, size) in VIEWS.items():
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
