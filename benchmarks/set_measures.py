"""What measures of sets cost: the figures of docs/sets.md, in seconds of processor time on random features.

OMP_NUM_THREADS=1 python -m benchmarks.set_measures                  # a minute
OMP_NUM_THREADS=1 python -m benchmarks.set_measures --images 4       # some minutes
"""

import argparse
import time

import numpy as np

from alignbench.report.image_measures.figures import SET_MEASURES
from alignbench.statistics.resampling import Resampling


def main() -> None:
    """Print a line for each measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=1632, help="1632 by default, as in prompts=parti")
    parser.add_argument("--images", type=int, default=1, help="of a prompt")
    parser.add_argument("--dimensions", type=int, default=768, help="of the features")
    options = parser.parse_args()
    images = [(f"p{i:05d}", k) for i in range(options.prompts) for k in range(options.images)]
    resampling = Resampling([prompt_id for prompt_id, _ in images])
    assert resampling.counts.size  # drawn once for a whole report
    rng = np.random.default_rng(0)
    of_prompts = rng.normal(size=(options.prompts, options.dimensions)).repeat(options.images, axis=0)
    methods = [_unit(of_prompts + rng.normal(size=of_prompts.shape))[None] for _ in range(2)]
    for make in SET_MEASURES:
        start = time.process_time()
        measure = make(methods, images, resampling)
        if measure.is_defined:
            value, (difference, p_value) = measure.value(1), measure.over_base(1)
            seconds = time.process_time() - start
            print(f"{measure.name:<18}{seconds:8.2f} s   {value.value:.4f}, {difference.value:+.4f}, p {p_value:.4f}")


def _unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


if __name__ == "__main__":
    main()
