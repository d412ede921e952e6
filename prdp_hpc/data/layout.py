"""The HDF5 layout of trajectories.

    /train/trajectories        (samples, steps + 1, [channels,] *grid shape), float32 or float64
    /validation/trajectories   the same, other samples
    /test/trajectories         the same, other samples again; may be missing
    attributes of the file     pde, grid_shape, boundary, length, dt, diffusivity or viscosity,
    channels, scheme, axes, format

Step 0 is the initial state. Without a channel axis there is one channel. The last axis is x, the
one before it y. Files made elsewhere need no attributes; the time step and the coefficient must be
the config's where a file has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from prdp_hpc.errors import InputError

GROUPS = ("train", "validation")
TEST = "test"
"""The group that nothing sees but the evaluation at the end of a run; a data set may lack it."""
DATASET = "trajectories"
FORMAT = "prdp-hpc trajectories 1"


class DataError(InputError):
    """A data file that does not do; the message names the file, the data set, and what was
    expected.
    """


def reason_of(error: OSError) -> str:
    """Why HDF5 could not open, read or write a file; of a lock, what to do about it."""
    text = error.strerror or str(error)
    if "unable to lock" not in str(error):
        return text
    return (
        f"{text}: HDF5 locks the files that it opens, so either another process is writing to this "
        "one: close it there, or wait; or its file system has no locks: set "
        "HDF5_USE_FILE_LOCKING=FALSE"
    )


@dataclass(frozen=True)
class TrajectoryAttributes:
    """What a file says about its trajectories.

    `numbers` by name, such as `dt` in time and `diffusivity` or `viscosity` in length² / time;
    `length` of the domain (one for all axes, or one per axis), `channels` by name.
    """

    pde: str
    shape: tuple[int, ...]
    boundary: str | tuple[str, ...]
    length: float | tuple[float, ...]
    numbers: Mapping[str, float]
    channels: tuple[str, ...]
    scheme: str

    def as_hdf5(self) -> dict[str, object]:
        """Attributes that HDF5 can store."""
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
