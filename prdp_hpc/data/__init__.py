"""Trajectories: HDF5 layout, writing, reading, and the order of training samples."""

from prdp_hpc.data.agreement import check_agreement, check_numbers, check_spacing
from prdp_hpc.data.arrays import TrajectoryArrays
from prdp_hpc.data.content import content_id
from prdp_hpc.data.dataset import TrajectoryDataset
from prdp_hpc.data.joined import JoinedTrajectories
from prdp_hpc.data.layout import GROUPS, TEST, DataError, TrajectoryAttributes
from prdp_hpc.data.reader import TrajectoryFile
from prdp_hpc.data.sampler import EpochSampler, share
from prdp_hpc.data.windowed import WindowedDataset, windowed
from prdp_hpc.data.windows import Windows
from prdp_hpc.data.writer import TrajectoryWriter, write_trajectories

__all__ = [
    "GROUPS",
    "TEST",
    "DataError",
    "EpochSampler",
    "JoinedTrajectories",
    "TrajectoryArrays",
    "TrajectoryAttributes",
    "TrajectoryDataset",
    "TrajectoryFile",
    "TrajectoryWriter",
    "WindowedDataset",
    "Windows",
    "check_agreement",
    "check_numbers",
    "check_spacing",
    "content_id",
    "share",
    "windowed",
    "write_trajectories",
]
