"""Property: measuring a gradient changes nothing, so that two calls return the same vector, also
with dropout, batch statistics, and solves that start at the last solution.
"""

import pytest
import tiny
import torch
from torch.utils._pytree import tree_leaves

from prdp_hpc.tasks.random_states import random_state

NOISY = """
from torch import nn


class Noisy(nn.Sequential):
    def __init__(self, in_channels, out_channels, dim):
        kind, norm = (nn.Conv1d, nn.BatchNorm1d) if dim == 1 else (nn.Conv2d, nn.BatchNorm2d)
        super().__init__(
            kind(in_channels, 4, 3, padding=1),
            norm(4),
            nn.Dropout(0.3),
            kind(4, out_channels, 3, padding=1),
        )
"""


def state_of(task):
    """All that training changes but the count of set-ups, and the next random numbers."""
    trained = task.state_dict() | {"set_ups": None}
    leaves = tree_leaves([trained, random_state(), task.solver.state_dict()])
    return [leaf.tolist() if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]


@pytest.mark.parametrize(
    ("content", "dim"),
    [
        (tiny.emulator, 1),
        (tiny.amortised_inversion, 2),
        (tiny.field_inversion, None),
        (tiny.inverse, None),
    ],
)
def test_two_calls_return_the_same_vector_and_change_nothing(content, dim, make_task, tmp_path):
    (tmp_path / "noisy.py").write_text(NOISY)
    network = {"network": {"kind": f"{tmp_path / 'noisy.py'}:Noisy", "dim": dim}} if dim else {}
    task, _ = make_task(content, 2, solver={"initial_guess": "last"}, **network)
    task.train_epoch(1)
    before = state_of(task)
    first, second = task.gradient(), task.gradient()
    assert first.abs().max() > 0
    assert torch.equal(first, second)
    assert state_of(task) == before
