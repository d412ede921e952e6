"""The sides of a grid: the two ends of each axis that is not periodic."""

from typing import Literal

End = Literal["low", "high"]
ENDS: tuple[End, End] = ("low", "high")
