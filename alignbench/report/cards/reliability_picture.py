"""The reliability diagram: how often people agree with a judge that is so and so sure."""

from io import BytesIO

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from alignbench.statistics.reliability import ProbabilityCalibration


def reliability(calibration: ProbabilityCalibration, name: str) -> bytes:
    """Return the diagram as PNG; equal figures give equal bytes."""
    figure = Figure(figsize=(4, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.plot([0.5, 1], [0.5, 1], color="gray", linewidth=1, label="as sure as right")
    confidence = [one.confidence for one in calibration.bins]
    agreement = [one.agreement for one in calibration.bins]
    axes.plot(confidence, agreement, marker="o", label=f"{len(calibration.bins)} bins of held-out pairs")
    axes.set(
        xlabel="probability given to the image it prefers", ylabel="share of judgements for that image",
        title=f"{name}: calibration error {calibration.error:.3f}", xlim=(0.5, 1), ylim=(min(0.5, *agreement), 1),
    )  # fmt: skip
    axes.legend(loc="upper left", frameon=False)
    content = BytesIO()
    figure.savefig(content, format="png", dpi=120, metadata={"Software": None})
    return content.getvalue()
