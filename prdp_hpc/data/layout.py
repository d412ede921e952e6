"""The HDF5 layout of trajectories.

    /train/trajectories        (samples, steps + 1, [channels,] *grid shape), float32 or float64
    /validation/trajectories   the same layout, other samples
    /test/trajectories         the same layout, other samples; optional
    attributes of the file     pde, grid_shape, boundary, length, dt, diffusivity or viscosity,
    channels, scheme, axes, format

Step 0 is the initial state. Without a channel axis there is one channel. The last axis is x, the
one before it y. Files from other programs need no attributes. If a file has the time step and the
coefficient, they must equal those of the config.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from prdp_hpc.errors import InputError

GROUPS = ("train", "validation")
TEST = "test"
"""The group that is only used for the evaluation at the end of a run; optional."""
DATASET = "trajectories"
FORMAT = "prdp-hpc trajectories 1"


class DataError(InputError):
    """An invalid data file; the message contains the file, the data set and what was expected."""


class BadTrajectoryError(DataError):
    """A trajectory that cannot be used.

    Attributes
    ----------
    key : the key that leaves it out; "" if there is none.
    number : its number for that key.
    """

    def __init__(self, message: str, key: str = "", number: int = 0) -> None:
        super().__init__(message)
        self.key, self.number = key, number


def reason_of(error: OSError) -> str:
    """The reason why HDF5 could not open, read or write a file; for a lock also what to do."""
    text = error.strerror or str(error)
    if "unable to lock" not in str(error):
        return text
    return (
        f"{text}: HDF5 locks the files that it opens, so either another process is writing to this "
        "one: close it there, or wait; or its file system does not support locks: set "
        "HDF5_USE_FILE_LOCKING=FALSE"
    )


@dataclass(frozen=True)
class TrajectoryAttributes:
    """Metadata of the trajectories in a file.

    Attributes
    ----------
    pde : name of the PDE.
    shape : points of the grid per axis.
    boundary : boundary type, for all axes or per axis.
    length : length of the domain, for all axes or per axis.
    numbers : coefficients by name, e.g. `dt` in units of time and `diffusivity` or `viscosity` in
        length² / time.
    channels : names of the channels.
    scheme : name of the time scheme.
    """

    pde: str
    shape: tuple[int, ...]
    boundary: str | tuple[str, ...]
    length: float | tuple[float, ...]
    numbers: Mapping[str, float]
    channels: tuple[str, ...]
    scheme: str

    def as_hdf5(self) -> dict[str, object]:
        """The metadata as attributes of types that HDF5 supports."""
        boundary = self.boundary if isinstance(self.boundary, str) else ",".join(self.boundary)
        return {
            "format": FORMAT,
            "pde": self.pde,
            "grid_shape": list(self.shape),
            "boundary": boundary,
            "length": self.length,
            **self.numbers,
            "channels": ",".join(self.channels),
            "scheme": self.scheme,
            "axes": "sample, step, channel, " + ", ".join(reversed("xyz"[: len(self.shape)])),
        }
