"""Right-hand sides and values of every kind: what torch stores otherwise is refused by one of our
errors, and a batch without right-hand sides has a solution and gradients.
"""

import pytest
import torch
from mpi4py import MPI
from systems import dominant, sparse

from prdp_hpc import Solver, SparseOperator, solve
from prdp_hpc.errors import InputError

N = 6
OTHERS = {
    "torch.sparse_coo": lambda x: x.to_sparse(),
    "torch.sparse_csc": lambda x: x.to_sparse_csc(),
    "mkldnn": lambda x: x.float().to_mkldnn(),
    "device meta": lambda x: x.to("meta"),
}


@pytest.mark.parametrize("differentiation", ["implicit", "unrolled"])
@pytest.mark.parametrize("which", ["b", "values", "guess"])
@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.filterwarnings("ignore:Sparse")
def test_tensors_without_stored_numbers(name, which, differentiation):
    operator, values = sparse(dominant(N))
    given = {"b": torch.ones(2, N, dtype=torch.float64)}
    given |= {"values": values[None], "guess": given["b"]}
    given[which] = OTHERS[name](given[which])
    solver = Solver("gmres", "none", 3, differentiation=differentiation)
    with pytest.raises(InputError, match=f"{which} must be a tensor of real .*{name}"):
        solve(operator, given["values"], given["b"], solver, given["guess"])


def check_no_right_hand_side(comm):
    n = 3 * comm.size
    own = range(3 * comm.rank, 3 * comm.rank + 3)
    operator = SparseOperator(own, own, (n, n), comm)
    for ksp in ("gmres", "batched_gmres"):
        for level in (1e-8, 3):
            for matrices in (1, 2):
                values = torch.ones(matrices, 3, dtype=torch.float64, requires_grad=True)
                b = torch.zeros(0, 3, dtype=torch.float64, requires_grad=True)
                x = solve(operator, values, b, Solver(ksp, "none", level))
                x.sum().backward()
                assert x.shape == b.grad.shape == (0, 3)
                assert not values.grad.any()


def test_no_right_hand_side():
    check_no_right_hand_side(MPI.COMM_SELF)


@pytest.mark.parallel(nprocs=2)
def test_no_right_hand_side_on_two_ranks():
    check_no_right_hand_side(MPI.COMM_WORLD)
