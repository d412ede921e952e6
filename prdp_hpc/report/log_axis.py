"""Labels of logarithmic axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axis import Axis


def tidy(axis: Axis) -> None:
    """Label a logarithmic axis of less than two decades by plain numbers, longer ones by powers of
    ten only.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    if axis.get_scale() != "log":
        return
    low, high = sorted(axis.get_view_interval())
    decades = np.log10(high / low)
    if decades >= 2:
        axis.set_minor_formatter(NullFormatter())
        return
    subs = (1.0, 2.0, 5.0) if decades > 0.9 else (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
    axis.set_major_locator(LogLocator(subs=subs))
    if sum(low <= one <= high for one in axis.get_majorticklocs()) < 2:
        axis.set_major_locator(MaxNLocator(4))
    digits = _digits([one for one in axis.get_majorticklocs() if low <= one <= high])
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.{digits}g}"))
    axis.set_minor_formatter(NullFormatter())


def _digits(ticks: Sequence[float]) -> int:
    """The number of digits with which the labels of ticks differ, at least 3."""
    return next(
        (n for n in range(3, 16) if len({f"{one:.{n}g}" for one in ticks}) == len(set(ticks))), 16
    )
