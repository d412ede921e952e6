"""HDF5 trajectories: layout, writing, reading, random initial states, and the order of training."""

from prdp_hpc.data.initial_conditions import normalised_fourier, truncated_fourier
from prdp_hpc.data.layout import GROUPS, DataError, TrajectoryAttributes
from prdp_hpc.data.reader import TrajectoryFile
from prdp_hpc.data.sampler import EpochSampler, share
from prdp_hpc.data.writer import TrajectoryWriter, write_trajectories

__all__ = [
    "GROUPS",
    "DataError",
    "EpochSampler",
    "TrajectoryAttributes",
    "TrajectoryFile",
    "TrajectoryWriter",
    "normalised_fourier",
    "share",
    "truncated_fourier",
    "write_trajectories",
]
