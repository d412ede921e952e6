"""What all tests share: fixed seeds, and parallel tests that end even when a rank fails or hangs."""

import os
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from mpi4py import MPI

settings.register_profile("repository", deadline=None, max_examples=25)
settings.load_profile("repository")

# mpi-pytest starts `mpiexec` by name: that of this environment, with one thread a rank.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
os.environ.setdefault("OMP_NUM_THREADS", "1")

_UNDER_MPIEXEC = MPI.COMM_WORLD.size > 1


def pytest_collection_modifyitems(items):
    # A hanging rank sits in C, where only a thread can end it; in the parent the same would end the whole session.
    limit = pytest.mark.timeout(60, method="thread") if _UNDER_MPIEXEC else pytest.mark.timeout(100, method="signal")
    for item in items:
        if item.get_closest_marker("parallel"):
            item.add_marker(limit)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if _UNDER_MPIEXEC and report.failed:
        # The other ranks may wait in a collective call that this rank has left.
        print(f"rank {MPI.COMM_WORLD.rank}, {item.name}:", file=sys.stderr)
        print(report.longreprtext, file=sys.stderr)
        sys.stderr.flush()
        MPI.COMM_WORLD.Abort(1)
    return report


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)
