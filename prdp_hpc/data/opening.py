"""Opening the data of a config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prdp_hpc.data.dataset import TrajectoryDataset
from prdp_hpc.data.formats.files import DataFiles, listed
from prdp_hpc.data.joined import JoinedTrajectories


def open_dataset(
    kind: Any,
    path: DataFiles,
    shape: Sequence[int] | None,
    groups: Sequence[str],
    keys: Mapping[str, Any],
) -> TrajectoryDataset:
    """Open the data that `data.file` names; several files of a class that does not read them itself
    (attribute `several`) one by one.

    Parameters
    ----------
    kind : the class that the format names, see `TrajectoryDataset`.
    path : the file or files.
    shape : points of the grid per axis.
    groups : groups that are needed.
    keys : keys of the format.
    """
    files = listed(path)
    if len(files) > 1 and not getattr(kind, "several", False):
        return JoinedTrajectories([open_dataset(kind, one, shape, groups, keys) for one in files])
    given = files if len(files) > 1 else files[0]
    found: TrajectoryDataset = (
        kind.open(given, shape, groups, **keys) if hasattr(kind, "open") else kind(given, **keys)
    )
    return found
