"""Notes in panels of lines about predictions beyond the limits of the truth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from prdp_hpc.report.panels import COLOURS, LABEL_SIZE

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def beyond(values: NDArray[np.float64], ends: tuple[float, float]) -> str:
    """The range of a prediction that is partly outside of a panel, which has the limits of the
    truth; empty if all of it is shown.
    """
    finite = values[np.isfinite(values)]
    if not finite.size:
        return "prediction is not finite"
    low, high = float(finite.min()), float(finite.max())
    inside = ends[0] <= low and high <= ends[1]
    return "" if inside else f"prediction: {low:.2g} to {high:.2g}".replace("-", "−")


def beyond_note(ax: Axes, text: str) -> Any:
    """Write the result of `beyond` at the top of a panel."""
    return ax.text(
        0.5,
        0.98,
        text,
        transform=ax.transAxes,
        ha="center",
        va="top",
        fontsize=LABEL_SIZE - 1,
        color=COLOURS[0],
        bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1.5},
    )
