"""Property: a solve always uses the numbers that its values have now, and its derivatives those
that it was made with.
"""

import numpy as np
import pytest
import torch
from mpi4py import MPI
from systems import dominant, sparse

from prdp_hpc import FunctionOperator, Grid, Heat, Poisson, Solver, solve
from prdp_hpc.errors import InputError

MATRIX = dominant(density=1.0)
ONES = torch.ones(7, dtype=torch.float64)


def times_two_by_numpy(v):
    v.detach().numpy()[:] *= 2.0


def times_two_by_a_vector(v):
    with torch.no_grad():
        vector = torch.nn.utils.parameters_to_vector([v])
        torch.nn.utils.vector_to_parameters(2.0 * vector, [v])


def one_entry_by_data(v):
    v.data.view(-1)[3] = 5.0


CHANGES = {
    "data": lambda v: v.data.mul_(2.0),
    "projection": lambda v: v.data.clamp_(min=0.01),
    "numpy": times_two_by_numpy,
    "vector": times_two_by_a_vector,
    "entry": one_entry_by_data,
    "set": lambda v: setattr(v, "data", 3.0 * v.data),
    "swap": lambda v: v.data.copy_(v.data.flip(-1)),
}


@pytest.fixture(params=["implicit", "unrolled"])
def solver(request):
    return Solver("gmres", "none", 1e-13, differentiation=request.param)


def case(kind):
    """An operator, its values, and the dense matrices that these stand for."""
    operator, values = sparse(MATRIX)
    if kind == "functions":
        functions = FunctionOperator(lambda p, x: p.view(7, 7) @ x, 7, MPI.COMM_SELF)
        return functions, values, lambda v: v.detach().double().view(7, 7)
    values = torch.stack([values, values + 1.0]) if kind == "batch" else values
    return operator, values, lambda v: v.detach().double().view(*v.shape[:-1], 7, 7)


@pytest.mark.parametrize("kind", ["one", "single", "batch", "functions"])
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("grad", [False, True])
def test_every_change_is_seen(kind, change, grad, solver):
    operator, values, dense = case(kind)
    values = torch.nn.Parameter(values.float() if kind == "single" else values, requires_grad=grad)
    b = ONES.expand(2, 7)
    solve(operator, values, b, solver)
    before = dense(values).clone()
    CHANGES[change](values)
    assert not torch.equal(dense(values), before)
    x = solve(operator, values, b, solver)
    torch.testing.assert_close((dense(values) @ x.detach().unsqueeze(-1))[..., 0], b)


def test_gradcheck_without_a_copy(solver):
    operator, values, _ = case("one")
    inputs = (values.requires_grad_(), torch.randn(7, dtype=torch.float64, requires_grad=True))
    assert torch.autograd.gradcheck(lambda v, b: solve(operator, v, b, solver), inputs)


@pytest.mark.parametrize("kind", ["one", "batch", "functions"])
@pytest.mark.parametrize("reloaded", [False, True])
def test_derivatives_use_the_numbers_of_their_solve_or_say_why_not(kind, reloaded, solver):
    operator, values, dense = case(kind)
    if kind == "batch":
        operator.matrix_sets = 1
    b = ONES.repeat(2, 1).requires_grad_()
    wanted = torch.linalg.solve(dense(values).mT, ONES).expand(2, 7)
    x = solve(operator, values, b, solver)
    if reloaded:
        # Others need the matrices in between.
        for factor in range(2, 12):
            solve(operator, factor * values, b, solver).sum().backward()
        b.grad = None
    values.data.mul_(2.0)
    # An unrolled derivative reads the values again, as does that of function operators.
    if reloaded or kind == "functions" or solver.differentiation == "unrolled":
        with pytest.raises(InputError, match="changed between the solve"):
            x.sum().backward()
    else:
        x.sum().backward()
        torch.testing.assert_close(b.grad, wanted)


def test_the_same_numbers_elsewhere_need_no_set_up(solver):
    operator, values, _ = case("one")
    for own in (values, values.clone(), values.detach(), values.repeat(2).view(2, -1)[0]):
        solve(operator, own, ONES, solver)
    assert solver.report.forward.set_ups == 1
    solve(operator, values.float(), ONES, solver)
    assert solver.report.forward.set_ups == 2


@pytest.mark.parametrize("kappa", [torch.tensor(0.5), 0.5 * torch.ones(4, 3)])
@pytest.mark.parametrize("change", ["data", "set", "inference"])
@pytest.mark.parametrize(
    "make", [lambda g, k, s: Heat(g, k, 0.1, s), lambda g, k, s: Poisson(g, s, k)]
)
def test_a_diffusivity_changed_behind_autograd(kappa, change, make):
    kappa, solver = kappa.double().clone(), Solver("cg", "jacobi", 1e-13)
    if change == "inference":
        with torch.inference_mode():
            kappa = kappa.clone()
    grid, field = Grid((4, 3), comm=MPI.COMM_SELF), torch.randn(4, 3, dtype=torch.float64)
    stepper = make(grid, kappa, solver)
    with torch.inference_mode():
        first = stepper(field)
        assert torch.equal(stepper(field), first)
        assert solver.report.forward.set_ups == 1
        if change == "inference":
            kappa.mul_(2.0)
    if change != "inference":
        CHANGES[change](kappa)
    fresh = make(grid, kappa.detach().clone(), Solver("cg", "jacobi", 1e-13))
    torch.testing.assert_close(stepper(field), fresh(field))
    assert not torch.allclose(stepper(field), first.clone())


def test_what_a_stepper_was_made_for_cannot_be_changed_unnoticed():
    heat = Heat(Grid((4, 3), comm=MPI.COMM_SELF), 1.0, 0.1, Solver())
    with pytest.raises(AttributeError):
        heat.dt = 0.2


def test_an_array_behind_the_tensor(solver):
    array = MATRIX.flatten().numpy().copy()
    operator, _, _ = case("one")
    values = torch.from_numpy(array)
    for factor in (1.0, 3.0, 0.5):
        np.multiply(array, factor, out=array)
        x = solve(operator, values, ONES, solver)
        np.testing.assert_allclose(array.reshape(7, 7) @ x.numpy(), 1.0)
