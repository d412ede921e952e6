"""Arguments of a wrong kind are errors of the package."""

import numpy as np
import pytest
import torch
from mpi4py import MPI

from prdp_hpc import (
    AllenCahn,
    Burgers,
    Dirichlet,
    ElementOperator,
    FunctionOperator,
    Grid,
    Heat,
    Neumann,
    NonlinearDiffusion,
    NonlinearSolver,
    Poisson,
    Robin,
    Solver,
    SparseOperator,
    ThetaScheme,
    solve,
    solve_nonlinear,
)
from prdp_hpc.errors import InputError

GRID = Grid((6,), "neumann", MPI.COMM_SELF)
LINEAR, NONLINEAR = Solver("gmres", "jacobi", 1e-8), NonlinearSolver(Solver("gmres", "jacobi"))
FIELD = torch.full((1, 1, 6), 0.5, dtype=torch.float64)
ONE = torch.ones(2, dtype=torch.float64)
AT_REST = Heat(GRID, 1.0, 0.1, LINEAR)
OPERATOR = SparseOperator([0, 1], [0, 1], (2, 2), MPI.COMM_SELF)
TRUTH = (True, np.True_, torch.tensor(True))  # no numbers, although Python adds them
WRONG = (
    *(None, 1j, "x", np.ones(3), [0.1], torch.ones(6), torch.ones((), dtype=torch.complex64)),
    *TRUTH,
)


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: type(wrong).__name__)
@pytest.mark.parametrize(
    "make",
    [
        lambda it: Heat(GRID, 1.0, it, LINEAR),
        lambda it: Heat(GRID, 1.0, 0.1, LINEAR, theta=it),
        lambda it: NonlinearDiffusion(GRID, it, 0.1, NONLINEAR),
        lambda it: NonlinearDiffusion(GRID, 0.1, it, NONLINEAR),
        lambda it: NonlinearDiffusion(GRID, 0.1, 0.1, NONLINEAR, "power", it),
        lambda it: AllenCahn(GRID, it, 0.1, NONLINEAR),
        lambda it: AllenCahn(GRID, 0.1, it, NONLINEAR),
        lambda it: Burgers(GRID, it, 0.1, LINEAR),
        lambda it: Burgers(GRID, 0.1, it, LINEAR),
        lambda it: ThetaScheme(lambda dt: Heat(GRID, 1.0, dt, LINEAR), it),
        lambda it: ThetaScheme(lambda dt: Heat(GRID, 1.0, dt, LINEAR), 0.1, it),
        lambda it: solve(it, ONE, ONE, LINEAR),
        lambda it: solve(OPERATOR, ONE, ONE, it),
        lambda it: solve_nonlinear(lambda u: u, ONE, (), [it]),
        lambda it: SparseOperator([0], [0], it, MPI.COMM_SELF),
        lambda it: SparseOperator([0], [0], (it, it), MPI.COMM_SELF),
        lambda it: GRID.halo(FIELD, it),
        lambda it: AT_REST(FIELD, time=[] if it is None else it),
        lambda it: ThetaScheme(lambda dt: AT_REST, 0.1)(FIELD, time=[] if it is None else it),
        lambda it: ElementOperator(it, 3, MPI.COMM_SELF),
    ],
)
def test_scalars_operators_and_solvers(make, wrong):
    with pytest.raises(InputError, match=r"must (be|have)|needs a width"):
        make(wrong)


@pytest.mark.parametrize(
    "use",
    [
        GRID.gather,
        GRID.scatter,
        GRID.halo,
        Heat(GRID, 1.0, 0.1, LINEAR),
        Heat(GRID, 1.0, 0.1, LINEAR, source=torch.ones(6)),
        Poisson(GRID, LINEAR),
        NonlinearDiffusion(GRID, 0.1, 0.1, NONLINEAR),
        Burgers(GRID, 0.1, 0.1, LINEAR),
    ],
)
def test_fields_are_tensors(use):
    with pytest.raises(InputError, match="must be a tensor, not a ndarray"):
        use(np.ones((1, 1, 6)))


@pytest.mark.parametrize("wrong", [1, 1.5, "x", True, [("ksp_monitor", "")], {1: 2}, np.ones(2)])
@pytest.mark.parametrize("kind", [Solver, NonlinearSolver])
def test_petsc_options_are_a_dict_of_names(kind, wrong):
    with pytest.raises(InputError, match="must be a dict"):
        kind(petsc_options=wrong)


@pytest.mark.parametrize("wrong", [None, 1j, "x", [0.1], np.ones(1), *TRUTH], ids=repr)
@pytest.mark.parametrize("kind", [Dirichlet, Neumann, Robin])
@pytest.mark.parametrize("is_function", [False, True])
def test_values_of_sides(kind, wrong, is_function):
    value = (lambda x: wrong) if is_function else wrong
    with pytest.raises(InputError, match=r"the low side of axis 0.* must be a real number"):
        Heat(GRID, 1.0, 0.1, LINEAR, [(kind(value), None)])(FIELD)


def test_numbers_of_numpy_are_numbers():
    sides = [[(Robin(kind(2.0), kind(3.0)), None)] for kind in (float, np.float32, np.int64)]
    first, *others = (Heat(GRID, 1.0, 0.1, LINEAR, side)(FIELD) for side in sides)
    assert all(torch.equal(first, other) for other in others)
    assert not torch.equal(first, FIELD)


@pytest.mark.parametrize(
    "wrong", [None, 1.0, "x", [1.0, 1.0], torch.ones(3), torch.ones(2, dtype=torch.int64)], ids=repr
)
def test_results_of_functions(wrong):
    def use(operator, pc="none"):
        b = ONE.clone().requires_grad_()
        solve(operator, None, b, Solver("gmres", pc)).sum().backward()

    def same(values, x):
        return x

    functions = (
        ({"apply": lambda values, x: wrong}, "none"),
        ({"apply": same, "apply_transpose": lambda values, x: wrong}, "none"),
        ({"apply": same, "diagonal": lambda values: wrong}, "jacobi"),
    )
    for given, pc in functions:
        operator = FunctionOperator(n_local=2, comm=MPI.COMM_SELF, **given)
        with pytest.raises(InputError, match=f"{list(given)[-1]} of a function operator must"):
            use(operator, pc)


@pytest.mark.parametrize("source", ["x", [1.0], torch.ones(5), *TRUTH], ids=repr)
def test_sources_have_a_shape_of_the_field(source):
    with pytest.raises(InputError, match="source must be"):
        Heat(GRID, 1.0, 0.1, LINEAR)(FIELD, source)


@pytest.mark.parametrize(
    "length", [None, 1j, "1", b"1", [None], np.ones(2), torch.ones(1) * 1j, *TRUTH], ids=repr
)
def test_lengths_are_numbers(length):
    with pytest.raises(InputError, match="length must be positive"):
        Grid((6,), "neumann", MPI.COMM_SELF, length=length)


@pytest.mark.parametrize("name", [["cg"], np.ones(2), None, 1])
def test_names_are_words(name):
    for make in (lambda: Solver(name), lambda: Solver("cg", name)):
        with pytest.raises(InputError, match="must be the name"):
            make()
    with pytest.raises(InputError, match="must be one of"):
        Solver(differentiation=name)


@pytest.mark.filterwarnings("error")
@pytest.mark.filterwarnings("default::ResourceWarning")  # what other tests left is collected here
def test_a_number_with_a_gradient_is_read_without_a_warning():
    for make in (
        lambda it: NonlinearDiffusion(GRID, it, 0.1, NONLINEAR),
        lambda it: AllenCahn(GRID, it, 0.1, NONLINEAR),
    ):
        number = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
        make(number)(torch.full((1, 1, 6), 0.5, dtype=torch.float64)).sum().backward()
        assert torch.isfinite(number.grad)
