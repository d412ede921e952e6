"""Property: the kernels for GPUs compute what torch's operations do.

Without a GPU they are compiled for one where Triton is installed, and run in its interpreter where
TRITON_INTERPRET=1 is set.
"""

import os

import pytest
import torch
from mpi4py import MPI

from prdp_hpc import Grid, SparseOperator
from prdp_hpc.linalg.batched.csr import CsrPattern
from prdp_hpc.linalg.batched.dia import DiaPattern
from prdp_hpc.linalg.batched.entries import OwnedEntries
from prdp_hpc.linalg.batched.stencil import stencil_of

pytest.importorskip("triton")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

RUNS = pytest.mark.skipif(
    DEVICE == "cpu" and not INTERPRETED, reason="neither a GPU nor Triton's interpreter"
)
TYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32])


def kernels():
    from prdp_hpc.linalg.batched import triton_kernels

    return triton_kernels


def close(dtype):
    return (
        {"rtol": 1e-12, "atol": 1e-12} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-4}
    )


@RUNS
@TYPES
@pytest.mark.parametrize("boundary", ["dirichlet", "periodic"])
@pytest.mark.parametrize("shape", [(2100,), (5, 7), (3, 4, 5)])
@pytest.mark.parametrize(("matrices", "each"), [(1, 1), (1, 6), (2, 3)])
def test_products_with_stencils(shape, boundary, matrices, each, dtype):
    grid = Grid(shape, boundary, MPI.COMM_SELF)
    n = grid.size
    numbers = torch.arange(n).view(shape)
    pairs = [(numbers, numbers)]
    for axis in range(grid.dim):
        near = numbers.roll(-1, axis)
        keep = slice(None) if boundary == "periodic" else slice(0, shape[axis] - 1)
        index = (*(slice(None),) * axis, keep)
        pairs += [(numbers[index], near[index]), (near[index], numbers[index])]
    rows, cols = (torch.cat([pair[i].flatten() for pair in pairs]).numpy() for i in (0, 1))
    operator = SparseOperator(rows, cols, (n, n), MPI.COMM_SELF, grid=grid)
    entries = OwnedEntries(operator)
    patterns = (
        DiaPattern(operator, entries, stencil_of(operator, entries)),
        CsrPattern(operator, entries),
    )
    values = torch.randn(matrices, len(rows), dtype=dtype)
    x = torch.randn(matrices * each, n, dtype=dtype)
    found = patterns[0].matrix(values.to(DEVICE))
    wanted = patterns[1].matrix(values)
    for _ in range(2):
        y, dot = found._by_kernel(kernels(), x.to(DEVICE), with_dot=True)
        expected = wanted.product(x)
        torch.testing.assert_close(y.cpu(), expected, **close(dtype))
        sums = torch.linalg.vecdot(x, expected)[:, None]
        torch.testing.assert_close(
            dot.cpu(),
            sums,
            rtol=close(dtype)["rtol"],
            atol=1e-3 if dtype == torch.float32 else 1e-10,
        )
        found, wanted = found.transposed(), wanted.transposed()


@RUNS
@TYPES
@pytest.mark.parametrize(("matrices", "each"), [(0, 3), (1, 3), (3, 2)])
def test_updates_of_conjugate_gradients(matrices, each, dtype):
    rows, n = max(1, matrices) * each, 2500
    x, r, p, ap = torch.randn(4, rows, n, dtype=dtype, device=DEVICE)
    alpha, beta = torch.randn(2, rows, 1, dtype=dtype, device=DEVICE)
    inverse = torch.rand(matrices, n, dtype=dtype, device=DEVICE) if matrices else None
    spread = 1.0 if inverse is None else inverse.repeat_interleave(each, dim=0)
    x_new, r_new, sums = kernels().descend(x, r, alpha, p, ap, inverse)
    torch.testing.assert_close(x_new, x + alpha * p, **close(dtype))
    torch.testing.assert_close(r_new, r - alpha * ap, **close(dtype))
    z = spread * r_new
    wanted = torch.stack([(z * r_new).sum(1), (z * z).sum(1)], dim=1)
    torch.testing.assert_close(
        sums, wanted, rtol=1e-5 if dtype == torch.float32 else 1e-12, atol=0.0
    )
    turned = kernels().turn(r_new, beta, p, inverse)
    torch.testing.assert_close(turned, z + beta * p, **close(dtype))


@pytest.mark.skipif(INTERPRETED, reason="the interpreter compiles nothing")
def test_kernels_compile_for_a_gpu_that_is_not_there():
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    fixed = {"fields": 2, "group": 4, "with_dot": True, "block": 1024, "has_inverse": True}
    fixed |= {"is_padded": False, "wrap0": False, "wrap1": True, "wrap2": False}
    integers = ["n", "each", "terms", "blocks", "n0", "n1", "n2"]
    integers += ["stride0", "stride1", "row_stride", "shift"]
    for kind in ("fp64", "fp32"):
        types = {"sums": "*fp64", "table": "*i32", "bounds": "*i32"}
        types |= dict.fromkeys(integers, "i32") | dict.fromkeys(fixed, "constexpr")
        for name in ("_stencil", "_descend", "_turn"):
            kernel = getattr(kernels(), name)
            signature = {one: types.get(one, f"*{kind}") for one in kernel.arg_names}
            constants = {one: fixed[one] for one in kernel.arg_names if one in fixed}
            made = compile(
                ASTSource(kernel, signature, constants), target=GPUTarget("cuda", 90, 32)
            )
            assert len(made.asm["cubin"]) > 0
