"""Property: unrolled solves use the transpose of the preconditioner that they have, or refuse."""

import pytest
import torch
from mpi4py import MPI
from systems import dominant, sparse
from unrolled_preconditioners import check

from prdp_hpc import Solver, solve

SELF = MPI.COMM_SELF
DOUBLE = {"dtype": torch.float64}
PRECONDITIONERS = [
    ("none", {}),
    ("jacobi", {}),
    ("jacobi", {"pc_jacobi_type": "rowmax"}),
    ("pbjacobi", {}),
    ("bjacobi", {"pc_bjacobi_blocks": 3}),
    ("bjacobi", {"pc_bjacobi_blocks": 2, "sub_pc_type": "sor"}),
    ("bjacobi", {"pc_bjacobi_blocks": 2, "sub_pc_type": "sor", "sub_pc_sor_forward": None}),
    ("asm", {"pc_asm_blocks": 3}),
    ("asm", {"pc_asm_blocks": 3, "pc_asm_type": "basic"}),
    ("asm", {"pc_asm_blocks": 3, "sub_pc_type": "lu", "pc_asm_overlap": 2}),
    ("gasm", {"pc_gasm_total_subdomains": 3}),
    ("sor", {}),
    ("sor", {"pc_sor_forward": None}),
    ("sor", {"pc_sor_backward": None}),
    ("sor", {"pc_sor_symmetric": None, "pc_sor_omega": 1.3}),
    ("ilu", {}),
    ("ilu", {"pc_factor_levels": 1}),
    ("icc", {}),
    ("gamg", {"pc_gamg_coarse_eq_limit": 2}),
    ("gamg", {"pc_gamg_coarse_eq_limit": 2, "mg_levels_pc_type": "sor"}),
    ("composite", {"pc_composite_type": "multiplicative", "pc_composite_pcs": "jacobi,sor"}),
    ("composite", {"pc_composite_type": "additive", "pc_composite_pcs": "jacobi,ilu"}),
]
# A refusal is an answer only where PETSc has no other: SOR alone or inside, and several restricted
# blocks on a rank.
MAY_REFUSE = ("sor", "asm_blocks")


def named(case):
    pc, options = case
    return " ".join([pc, *map(str, options.values())])


@pytest.mark.parametrize("case", PRECONDITIONERS, ids=named)
@pytest.mark.parametrize("symmetric", [True, False])
def test_gradients_are_those_of_dense_iterations(case, symmetric):
    pc, options = case
    methods = ["richardson", "gmres", "bcgs"] + (["cg", "steepest_descent"] if symmetric else [])
    if pc == "icc" and not symmetric:
        pytest.skip("an incomplete Cholesky factorisation is for symmetric matrices")
    for ksp in methods:
        for promised in {symmetric, False}:
            own = {"ksp_richardson_scale": 1.0} if ksp == "richardson" else {}
            done = check(SELF, ksp, pc, symmetric, promised=promised, options=own | options)
            assert done or any(name in f"{pc} {options}" for name in MAY_REFUSE)
            assert done or "basic" not in options.values()


@pytest.mark.parametrize("ksp", ["cg", "gmres"])
@pytest.mark.parametrize(
    ("pc", "options"),
    [
        ("bjacobi", {"pc_bjacobi_blocks": 2, "sub_ksp_type": "gmres", "sub_ksp_max_it": 2}),
        ("gamg", {"pc_gamg_coarse_eq_limit": 2, "mg_levels_ksp_type": "cg"}),
    ],
)
def test_iterations_inside_are_refused(ksp, pc, options):
    operator, values = sparse(dominant(40, True, density=0.1), symmetric=True)
    b = torch.randn(40, **DOUBLE)
    solver = Solver(ksp, pc, 3, petsc_options=options, differentiation="unrolled")
    solve(operator, values, b, solver)
    with pytest.raises(ValueError, match="not linear"):
        solve(operator, values, b.requires_grad_(), solver)


@pytest.mark.parametrize("pc", ["lu", "cholesky"])
def test_an_ill_conditioned_matrix_is_no_reason_to_refuse(pc):
    vectors = torch.linalg.qr(torch.randn(12, 12, **DOUBLE)).Q
    matrix = vectors * torch.logspace(0, -11, 12, **DOUBLE) @ vectors.T
    matrix = (matrix + matrix.T) / 2
    operator, values = sparse(matrix, symmetric=True)
    b = torch.randn(12, **DOUBLE, requires_grad=True)
    solver = Solver("richardson", pc, 1, differentiation="unrolled")
    (gradient,) = torch.autograd.grad(solve(operator, values, b, solver)[0], b)
    assert torch.isfinite(gradient).all()
