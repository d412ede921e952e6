"""Where tests run their solves: with the lines for devices on the host, and on a GPU if any."""

import contextlib
from unittest import mock

import pytest
import torch

from prdp_hpc.linalg import sparse_operator, torch_petsc

TENSORS = torch_petsc.Memory(torch.device("cpu"), uses_tensors=True)
"""What solves on a device do, with PETSc's types of the host."""

MEMORIES = [
    "tensors",
    pytest.param(
        "cuda",
        marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is visible"),
    ),
]


@contextlib.contextmanager
def solves_in(name):
    """The device of a memory, in which solves for its tensors run while the block does."""
    if name != "tensors":
        yield torch.device(name)
        return
    with mock.patch.object(sparse_operator, "memory_of", return_value=TENSORS):
        yield torch.device("cpu")
