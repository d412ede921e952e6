"""The content id of a data set: which data they are, wherever they are stored."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prdp_hpc.data.dataset import TrajectoryDataset
from prdp_hpc.data.layout import GROUPS, TEST
from prdp_hpc.data.windowed import dataset_name, windowed
from prdp_hpc.errors import returned

ALL = 2**24
"""Number of grid points, over all states of a group, up to which all of them are read."""
STATES = 32
"""Number of states of a larger group that are read."""
POINTS = 2**20
"""Number of grid points of each of them that are read."""


def content_id(data: TrajectoryDataset, shape: Sequence[int]) -> str:
    """A SHA-256 that is equal for equal data and independent of path, file layout and settings.

    It is that of the method `content_id()` of the data set, if it has one. Otherwise it is
    computed from the groups, their sizes, the attributes, the types, and the numbers: of all
    states of a group with up to `ALL` grid points, or of `STATES` states, evenly distributed from
    the first to the last one, with up to `POINTS` points each. So at most a few hundred megabytes
    are read, of data of any size.

    Parameters
    ----------
    data : the data set.
    shape : points of the grid per axis.

    Examples
    --------
    >>> import numpy
    >>> from prdp_hpc import TrajectoryFile
    >>> from prdp_hpc.data import TrajectoryAttributes, content_id, write_trajectories
    >>> groups = {"train": numpy.ones((4, 3, 1, 16)), "validation": numpy.ones((2, 3, 1, 16))}
    >>> about = TrajectoryAttributes("mine", (16,), "dirichlet", 1.0, {}, ("u",), "Euler")
    >>> for name in ("one.h5", "two.h5"):
    ...     write_trajectories(name, groups, about)
    >>> content_id(TrajectoryFile("one.h5"), (16,)) == content_id(TrajectoryFile("two.h5"), (16,))
    True
    """
    inner = windowed(data).data
    own: Any = getattr(inner, "content_id", None)
    if own is not None:
        found = own()
        if not isinstance(found, str):
            raise returned(f"{dataset_name(inner)}: content_id()", "a text", found)
        return found
    groups = [group for group in (*GROUPS, TEST) if inner.count(group)]
    header = {
        "groups": {group: inner.count(group) for group in groups},
        "states": inner.steps + 1,
        "shape": list(shape),
        "attributes": {str(k): _plain(v) for k, v in getattr(inner, "attributes", {}).items()},
    }
    digest = hashlib.sha256(json.dumps(header, sort_keys=True, default=str).encode())
    for group in groups:
        for array in _arrays(inner, group, tuple(shape)):
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).view(np.uint8).data)
    return digest.hexdigest()


def _arrays(data: TrajectoryDataset, group: str, shape: tuple[int, ...]) -> Iterator[NDArray[Any]]:
    """The numbers of a group from which the content id is computed."""
    trajectories, states = data.count(group), data.steps + 1
    if trajectories * states * math.prod(shape) <= ALL:
        for sample in range(trajectories):
            yield data.read(group, [sample], [slice(0, n) for n in shape])
        return
    last = trajectories * states - 1
    read = windowed(data).read_states
    for number in range(STATES):
        sample, state = divmod(round(last * number / (STATES - 1)), states)
        yield read(group, sample, slice(state, state + 1, 1), _part(number, shape))


def _part(number: int, shape: tuple[int, ...]) -> list[slice]:
    """Up to `POINTS` points as whole rows of the first axis, other ones for each number."""
    rows = max(1, min(shape[0], POINTS // math.prod(shape[1:])))
    first = round((shape[0] - rows) * number / (STATES - 1))
    return [slice(first, first + rows), *(slice(0, n) for n in shape[1:])]


def _plain(value: Any) -> Any:
    """An attribute as JSON; HDF5 gives NumPy's scalars and arrays."""
    return value.decode() if isinstance(value, bytes) else np.asarray(value).tolist()
