"""Property: options change what they say and nothing else; what a solver did before leaves no trace
in what it gives.
"""

import copy
import gc
import pickle
import subprocess
import sys

import numpy as np
import pytest
import scipy.sparse
import torch
from mpi4py import MPI
from petsc4py import PETSc
from systems import dominant, sparse

from prdp_hpc import FunctionOperator, Grid, Poisson, Refinement, Solver, SparseOperator, solve

ONES = torch.ones(7, dtype=torch.float64)


@pytest.fixture
def database():
    """PETSc's options, as they were before afterwards."""
    options = PETSc.Options()
    before = options.getAll()
    yield options
    for key in set(options.getAll()) - set(before):
        options.delValue(key)


def test_options_without_a_prefix_are_not_read(database):
    operator, values = sparse(dominant())
    wanted = solve(operator, values, ONES, Solver("gmres", "ilu", 3))
    database["ksp_type"] = "richardson"
    database["pc_type"] = "jacobi"
    database["ksp_max_it"] = 1
    torch.testing.assert_close(
        solve(operator, values, ONES, Solver("gmres", "ilu", 3)), wanted, rtol=0, atol=0
    )


def test_the_users_prefix_chooses_the_method_and_everything_follows(database):
    matrix = dominant()
    operator, values = sparse(matrix)
    database["heat_ksp_type"] = "bcgs"
    database["heat_pc_type"] = "ilu"
    solver = Solver("cg", "jacobi", 1e-12, options_prefix="heat_")
    assert repr(solver).startswith("Solver(ksp='bcgs', pc='ilu'")
    assert repr(Solver("cg", "jacobi")).startswith("Solver(ksp='cg', pc='jacobi'")
    b = ONES.clone().requires_grad_()
    solve(operator, values, b, solver).sum().backward()
    torch.testing.assert_close(b.grad, torch.linalg.solve(matrix.T, ONES))
    # Not for a symmetric method any more; and the other way round.
    database["heat_ksp_type"] = "minres"
    with pytest.raises(ValueError, match=r"ksp='minres' relies on A = Aᵀ"):
        solve(operator, values, ONES, Solver("gmres", options_prefix="heat_"))
    with pytest.raises(ValueError, match=r"unrolled.*not 'minres'"):
        Solver("gmres", options_prefix="heat_", differentiation="unrolled")


def test_the_adjoint_has_options_of_its_own(database):
    operator, values = sparse(dominant(12))
    b = torch.ones(12, dtype=torch.float64, requires_grad=True)
    options = {"ksp_gmres_restart": 2}
    both, apart = (
        Solver("gmres", "none", 6, petsc_options=options | more)
        for more in ({}, {"adjoint_ksp_gmres_restart": 6})
    )
    results = []
    for solver in (both, apart):
        x = solve(operator, values, b, solver)
        results.append((x.detach(), torch.autograd.grad(x.sum(), b)[0]))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=0, atol=0)
    assert not torch.allclose(results[0][1], results[1][1], rtol=1e-12)
    database["heat_adjoint_ksp_gmres_restart"] = 6
    named = Solver("gmres", "none", 6, petsc_options=options, options_prefix="heat_")
    (grad,) = torch.autograd.grad(solve(operator, values, b, named).sum(), b)
    torch.testing.assert_close(grad, results[1][1], rtol=0, atol=0)


OWNED = ["ksp_type", "pc_type", "ksp_rtol", "ksp_max_it", "ksp_convergence_test"]
OWNED += ["ksp_initial_guess_nonzero", "ksp_guess_type", "ksp_diagonal_scale", "adjoint_ksp_max_it"]


@pytest.mark.parametrize("key", OWNED)
def test_what_arguments_are_there_for_is_refused_with_a_pointer(key, database):
    for name in (key, f"-{key}"):
        with pytest.raises(ValueError, match=rf"'{name}' cannot be set in a Solver: \w+"):
            Solver(petsc_options={name: 3})
    if key not in ("ksp_type", "pc_type"):
        database[f"heat_{key}"] = 3
        with pytest.raises(ValueError, match=rf"-heat_{key} cannot be set in a Solver: \w+"):
            Solver(options_prefix="heat_")


def test_the_norm_is_the_users_but_there_must_be_one():
    matrix = dominant()
    operator, values = sparse(matrix)
    for norm in ("preconditioned", "unpreconditioned"):
        solver = Solver("gmres", "jacobi", 1e-12, petsc_options={"ksp_norm_type": norm})
        torch.testing.assert_close(matrix @ solve(operator, values, ONES, solver), ONES)
    with pytest.raises(ValueError, match="without a norm no rtol is reached"):
        Solver(petsc_options={"ksp_norm_type": "none"})


def test_options_leave_the_database_with_their_solver():
    operator, values = sparse(dominant(30))
    before = PETSc.Options().getAll()
    for pc in ("gamg", "ilu"):
        for _ in range(3):
            solver = Solver("gmres", pc, petsc_options={"ksp_gmres_restart": 5})
            solve(operator, values, torch.ones(30, dtype=torch.float64), solver)
            with pytest.raises(ValueError, match="PETSC_OPTIONS"):
                solve(
                    operator,
                    values,
                    torch.ones(30, dtype=torch.float64),
                    Solver("gmres", pc, petsc_options={"log_view": ""}),
                )
    del solver
    gc.collect()
    # Solvers of other tests may have taken theirs along meanwhile.
    assert PETSc.Options().getAll().items() <= before.items()


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
def test_a_copy_has_the_levels_of_later_refinements(way):
    for own in (None, 50):
        solver = Solver("cg", "none", 5, adjoint=own)
        solver.set_levels(Refinement(max_it=7), Refinement(max_it=9))
        twin = way(solver)
        assert twin.own_levels == solver.own_levels
        for one in (solver, twin):
            one.refine(2)
        assert twin.own_levels == solver.own_levels


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
def test_a_copied_solver_has_the_settings_and_no_past(way):
    operator, values = sparse(dominant())
    solver = Solver("gmres", "ilu", 1e-3, adjoint=4, petsc_options={"ksp_gmres_restart": 2})
    x = solve(operator, values, ONES, solver)
    twin = way(solver)
    assert repr(twin) == repr(solver)
    assert twin.petsc_options == solver.petsc_options
    assert twin.report.forward.solves == 0
    twin.refine(1)
    torch.testing.assert_close(solve(operator, values, ONES, solver), x, rtol=0, atol=0)


def test_operators_and_grids_are_shared_by_deep_copies_and_not_pickled():
    grid = Grid((4, 4), comm=MPI.COMM_SELF)
    function = FunctionOperator(lambda _, x: x, 3, MPI.COMM_SELF)
    for thing in (sparse(dominant())[0], function, grid, Poisson(grid, Solver()).operator):
        assert copy.deepcopy([thing])[0] is thing
        with pytest.raises(ValueError, match="cannot be pickled: pickle"):
            pickle.dumps(thing)


METHODS = [(ksp, "jacobi", {}) for ksp in ("gmres", "lgmres", "chebyshev", "bcgs")]
# Since PETSc 3.26.
METHODS += [("idr", "jacobi", {})] if hasattr(PETSc.KSP.Type, "IDR") else []
METHODS += [
    ("gmres", pc, {}) for pc in ("gamg", "mg", "lu", "ilu", "asm", "gasm", "sor", "bjacobi")
]
METHODS += [
    ("gmres", "gamg", {"mg_levels_ksp_type": "chebyshev"}),
    ("gmres", "mg", {"mg_levels_ksp_type": "chebyshev"}),
    ("gmres", "mg", {"mg_coarse_pc_type": "gamg"}),
    ("gmres", "bjacobi", {"sub_pc_type": "gamg"}),
    ("gmres", "ksp", {"ksp_pc_type": "gamg", "ksp_ksp_max_it": 2}),
]


@pytest.mark.parametrize(("ksp", "pc", "options"), METHODS)
def test_what_came_before_leaves_no_trace(ksp, pc, options):
    grid = Grid((16, 16), comm=MPI.COMM_SELF)
    kappas = 0.01 + 100.0 * torch.rand(3, 16, 16, dtype=torch.float64) ** 4
    source = torch.randn(2, 16, 16, dtype=torch.float64)

    def last_of(*history):
        solver = Solver(ksp, pc, 2, petsc_options=options)
        poisson = Poisson(grid, solver, kappas[0])
        for which in history:
            poisson.diffusivity = kappas[which]
            b = source.clone().requires_grad_()
            x = poisson(b)
            x.backward(source.flip(0))
        return torch.stack([x.detach(), b.grad])

    fresh = last_of(1)
    for other in (last_of(0, 2, 1), last_of(1, 1)):
        torch.testing.assert_close(other, fresh, rtol=1e-14, atol=1e-14 * float(fresh.abs().max()))


def test_matrices_of_many_kinds():
    dense = np.array([[2.0, 0.0, 1.0], [0.0, 3.0, 0.0], [1.0, 0.0, 4.0]])
    kinds = [dense, dense.tolist(), torch.from_numpy(dense), torch.from_numpy(dense).to_sparse()]
    kinds += [torch.from_numpy(dense).float().requires_grad_(), scipy.sparse.coo_array(dense)]
    kinds += [scipy.sparse.csr_matrix(dense).astype(t) for t in (int, np.longdouble, np.float32)]
    kinds += [scipy.sparse.dia_matrix(dense), dense.astype(int)]
    b = torch.ones(3, dtype=torch.float64)
    for kind in kinds:
        operator, values = SparseOperator.from_scipy(kind, MPI.COMM_SELF)
        assert values.dtype == torch.float64
        x = solve(operator, values, b, Solver("preonly", "lu"))
        torch.testing.assert_close(torch.from_numpy(dense) @ x, b)
    for wrong, words in (
        (scipy.sparse.csr_matrix(dense * 1j), "complex numbers"),
        (dense + 1j, "complex numbers"),
        (torch.from_numpy(dense).to_sparse() * 1j, "complex numbers"),
        (np.array([["a"]]), "real numbers"),
        (np.array([[None]]), "real numbers"),
        (None, "real numbers"),
        (dense[0], "2 dimensions"),
        (dense[:2], "square"),
    ):
        with pytest.raises(ValueError, match=words):
            SparseOperator.from_scipy(wrong, MPI.COMM_SELF)


@pytest.mark.parametrize("scalar", [np.complex128, np.float32])
def test_a_petsc_with_other_numbers_is_refused(monkeypatch, scalar):
    monkeypatch.setattr(PETSc, "ScalarType", scalar)
    with pytest.raises(ValueError, match="real scalars in double precision"):
        sparse(dominant())
    with pytest.raises(ValueError, match="real scalars in double precision"):
        FunctionOperator(lambda _, x: x, 3, MPI.COMM_SELF)


def test_too_many_rows_for_the_integers_of_petsc():
    with pytest.raises(ValueError, match="64-bit indices"):
        SparseOperator([0], [0], (2**31 + 1, 2**31 + 1), MPI.COMM_SELF)


@pytest.mark.parametrize("pc", ["ilu", "sor", "lu", "bjacobi", "asm"])
@pytest.mark.parametrize("stored", [True, False])
def test_a_zero_row_is_named(pc, stored):
    matrix = dominant()
    matrix[4] = 0.0
    rows, cols = (torch.ones(7, 7) if stored else matrix).nonzero(as_tuple=True)
    operator = SparseOperator(rows.numpy(), cols.numpy(), (7, 7), MPI.COMM_SELF)
    with pytest.raises(RuntimeError, match="row 4 "):
        solve(operator, matrix[rows, cols], ONES, Solver("gmres", pc))


@pytest.mark.parametrize("name", ["ksp", "none"])
def test_one_application_is_right_or_says_so(name):
    ksp = "preonly" if name == "ksp" else name
    matrix = dominant()
    operator, values = sparse(matrix)
    solver = Solver(ksp, "jacobi", 1e-8)
    with pytest.raises(RuntimeError, match="one application of the preconditioner leaves"):
        solve(operator, values, ONES, solver)
    solver.refine(5)
    with pytest.raises(ValueError, match="once and cannot do 5 iterations"):
        solve(operator, values, ONES, solver)
    solver.refine(1)
    torch.testing.assert_close(solve(operator, values, ONES, solver), ONES / matrix.diagonal())
    torch.testing.assert_close(
        matrix @ solve(operator, values, ONES, Solver(ksp, "lu", 1e-12)), ONES
    )


def test_petsc_takes_no_word_of_python_for_an_option():
    code = "from prdp_hpc.petsc import PETSc; print(PETSc.Options().getAll())"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.startswith("{'")
    assert "'c'" not in ended.stdout
    assert "left" not in ended.stdout + ended.stderr


def test_a_tiny_right_hand_side_is_solved_for():
    matrix = dominant(symmetric=True)
    operator, values = sparse(matrix)
    for ksp in ("cg", "gmres", "bcgs", "minres", "richardson"):
        x = solve(operator, values, 1e-60 * ONES, Solver(ksp, "jacobi", 1e-10))
        torch.testing.assert_close(matrix @ x * 1e60, ONES)


@pytest.mark.parametrize(
    ("ksp", "given", "wanted"),
    [
        ("cg", {}, ("richardson", "sor", 1)),
        ("cg", {"mg_levels_ksp_max_it": 3}, ("chebyshev", "jacobi", 3)),
        ("gmres", {}, ("chebyshev", "jacobi", 2)),
    ],
)
def test_gamg_smooths_by_a_sweep_under_conjugate_gradients(ksp, given, wanted):
    poisson = Poisson(Grid((40, 40)), Solver(ksp, "gamg", 1e-10, petsc_options=given))
    u = poisson(torch.ones(40, 40, dtype=torch.float64))
    smoother = poisson.solver.system(poisson.operator).preconditioner.getMGSmoother(1)
    found = smoother.getType(), smoother.getPC().getType(), smoother.getTolerances()[3]
    assert found == wanted
    exact = Poisson(Grid((40, 40)), Solver("cg", "jacobi", 1e-12))
    torch.testing.assert_close(u, exact(torch.ones_like(u)), rtol=1e-7, atol=1e-9)
