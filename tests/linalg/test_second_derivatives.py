"""Property: an implicit solve may be differentiated as often, and in any mode, as dense algebra."""

import pytest
import torch
from mpi4py import MPI
from systems import dominant, sparse
from torch.autograd.functional import hessian, hvp, jacobian

from prdp_hpc import FunctionOperator, Grid, Heat, Poisson, Solver, solve
from prdp_hpc.errors import InputError
from prdp_hpc.physics import Burgers

N = 5
MATRIX = dominant(N, density=0.6)
WHERE = MATRIX.nonzero(as_tuple=True)
KINDS = ["one", "vector", "batch", "functions", "functions of a vector"]
MODES = {"check_forward_ad": True, "check_batched_grad": True, "check_batched_forward_grad": True}


def draw(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def dense(values, b):
    """The same solve by dense algebra: one matrix, or M with R right-hand sides each."""
    each = values.reshape(-1, values.shape[-1])
    matrices = torch.stack(
        [torch.zeros(N, N, dtype=values.dtype).index_put(WHERE, own) for own in each]
    )
    right = b.reshape(len(each), -1, N)
    return torch.linalg.solve(matrices, right.mT).mT.reshape(b.shape)


def of_functions():
    """`A(p) = MATRIX + p₀ · (ring shift) + diag(p₁²)`: not linear in the values."""
    return FunctionOperator(
        lambda p, x: MATRIX @ x + p[0] * torch.roll(x, 1) + p[1] ** 2 * x, N, MPI.COMM_SELF
    )


def case(kind):
    operator, values = sparse(MATRIX)
    if kind == "one":
        return operator, values, draw(2, N)
    if kind == "batch":
        return operator, torch.stack([values, 1.5 * values]), draw(4, N)
    if kind == "vector":
        return operator, values, draw(N)
    b = draw(N) if kind == "functions of a vector" else draw(2, N)
    return of_functions(), torch.tensor([0.3, 0.7], dtype=torch.float64), b


@pytest.fixture
def solver():
    return Solver("gmres", "none", 1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_derivatives_of_first_and_second_order_in_every_mode(kind, solver):
    operator, values, b = case(kind)
    inputs = (values.requires_grad_(), b.requires_grad_())
    assert torch.autograd.gradcheck(lambda v, r: solve(operator, v, r, solver), inputs, **MODES)
    assert torch.autograd.gradgradcheck(
        lambda v, r: solve(operator, v, r, solver),
        inputs,
        check_batched_grad=True,
        check_fwd_over_rev=True,
    )


def test_functions_without_values(solver):
    operator = FunctionOperator(lambda _, x: 4.0 * x + torch.roll(x, 1), N, MPI.COMM_SELF)
    b = draw(2, N).requires_grad_()

    def cubes(r):
        return solve(operator, None, r, solver) ** 3

    assert torch.autograd.gradcheck(cubes, (b,), **MODES)
    assert torch.autograd.gradgradcheck(cubes, (b,), check_fwd_over_rev=True)


@pytest.mark.parametrize("boundary", ["periodic", "neumann"])
def test_singular_systems(boundary):
    poisson = Poisson(Grid((4, 3), boundary, MPI.COMM_SELF), Solver("cg", "jacobi", 1e-13))

    def solution(kappa, source):
        poisson.diffusivity = kappa
        return poisson(source)

    kappa = (1.0 + torch.rand(4, 3, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradgradcheck(solution, (kappa, draw(4, 3).requires_grad_()))


def test_third_derivatives(solver):
    operator, values, _ = case("one")
    b = draw(N).requires_grad_()
    found = []
    for way in (lambda v: solve(operator, v, b, solver), lambda v: dense(v, b)):
        own = values.clone().requires_grad_()
        total = (way(own) ** 3).sum()
        for _ in range(3):
            (gradient,) = torch.autograd.grad(total, own, create_graph=True)
            total = (gradient**2).sum()
        found.append(gradient)
    torch.testing.assert_close(found[0], found[1], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("kind", ["one", "batch"])
@pytest.mark.parametrize("vectorize", [False, True])
def test_the_tools_of_torch(kind, vectorize, solver):
    operator, values, b = case(kind)

    def ours(v, r):
        return (solve(operator, v, r, solver) ** 3).sum() + (r**2).sum()

    def theirs(v, r):
        return (dense(v, r) ** 3).sum() + (r**2).sum()

    direction = (draw(*values.shape), draw(*b.shape))
    pairs = [
        (hvp(ours, (values, b), direction), hvp(theirs, (values, b), direction)),
        (
            hessian(ours, (values, b), vectorize=vectorize),
            hessian(theirs, (values, b), vectorize=vectorize),
        ),
    ]
    for strategy in ("reverse-mode", "forward-mode"):
        if vectorize or strategy == "reverse-mode":
            how = {"vectorize": vectorize, "strategy": strategy}
            pairs.append(
                (
                    jacobian(lambda v, r: solve(operator, v, r, solver), (values, b), **how),
                    jacobian(dense, (values, b), **how),
                )
            )
    for own, reference in pairs:
        torch.testing.assert_close(own, reference, rtol=1e-7, atol=1e-9)


def test_transforms_of_torch_func(solver):
    func = torch.func
    operator, values, _ = case("one")
    b, batch = draw(N), draw(3, N)
    several = torch.stack([values, 1.3 * values, 2.0 * values])
    matrices, right = torch.stack([several, 1.5 * several]), draw(2, 6, N)

    def cubes(way):
        return lambda v, r: (way(v, r) ** 3).sum()

    def by_solve(v, r):
        return solve(operator, v, r, solver)

    transforms = [
        lambda way: func.grad(cubes(way), (0, 1))(values, b),
        lambda way: func.jacrev(way, 0)(values, b),
        lambda way: func.jacfwd(way, (0, 1))(values, b),
        lambda way: func.hessian(cubes(way), (0, 1))(values, b),
        lambda way: func.jvp(way, (values, b), (2 * values, b + 1)),
        lambda way: func.vmap(way, (None, 0))(values, batch),
        lambda way: func.vmap(way, (None, 1), 1)(values, batch.T),
        lambda way: func.vmap(way, (0, None))(several, b),
        lambda way: func.vmap(way)(several, batch),
        lambda way: func.vmap(way)(matrices, right),
        lambda way: func.vmap(way, (None, 0))(several, right),
        lambda way: func.vmap(func.grad(cubes(way), (0, 1)))(several, batch),
        lambda way: func.vmap(func.jacrev(way))(several, batch),
        lambda way: func.grad(lambda v: (func.vmap(way)(v, batch) ** 2).sum())(several),
    ]
    for transform in transforms:
        torch.testing.assert_close(transform(by_solve), transform(dense), rtol=1e-8, atol=1e-10)
    # torch's own solve has the wrong derivative here.
    mixed = func.grad(lambda v: func.jvp(lambda r: cubes(by_solve)(v, r), (b,), (b + 1,))[1])
    reference = func.grad(lambda v: (func.grad(cubes(dense), 1)(v, b) * (b + 1)).sum())
    torch.testing.assert_close(mixed(values), reference(values), rtol=1e-8, atol=1e-10)


def test_a_batch_of_gradients_is_one_solve_with_more_right_hand_sides(solver):
    operator, values, b = case("batch")
    x = solve(operator, values.requires_grad_(), b.requires_grad_(), solver)
    set_ups, systems = solver.report.forward.set_ups, len(solver._systems)
    cotangents = draw(7, 4, N)
    together = torch.autograd.grad(
        x, (values, b), cotangents, is_grads_batched=True, retain_graph=True
    )
    assert (solver.report.adjoint.solves, solver.report.adjoint.set_ups) == (28, 0)
    assert (solver.report.forward.set_ups, len(solver._systems)) == (set_ups, systems)
    for index, cotangent in enumerate(cotangents):
        alone = torch.autograd.grad(x, (values, b), cotangent, retain_graph=True)
        torch.testing.assert_close([t[index] for t in together], list(alone))


def test_directions_keep_their_levels():
    operator, values, b = case("one")
    solver = Solver("richardson", "jacobi", 5, adjoint=3)
    x = solve(operator, values, b.requires_grad_(), solver)
    (gradient,) = torch.autograd.grad((x**2).sum(), b, create_graph=True)
    solver.refine(50, 40)
    counts = solver.report.forward.iterations, solver.report.adjoint.iterations
    assert counts == (10, 6)
    # x depends on b through A, and the adjoint through Aᵀ on x; their adjoints have the other one.
    gradient.sum().backward()
    counts = solver.report.forward.iterations, solver.report.adjoint.iterations
    assert counts == (20, 12)


def test_newton_cg_on_the_values(solver):
    """Fit the diagonal of a matrix to a solution by Newton's method with Hessian-vector
    products.
    """
    operator, values, b = case("one")
    target = solve(operator, values, b, solver)
    on_diagonal = WHERE[0] == WHERE[1]
    other = values + 0.2 * on_diagonal

    def misfit(shift):
        own = other.index_add(0, on_diagonal.nonzero()[:, 0], shift)
        return (solve(operator, own, b, solver) - target).square().sum()

    shift = torch.zeros(N, dtype=torch.float64)
    for _ in range(8):
        gradient = torch.autograd.functional.jacobian(misfit, shift)
        columns = [hvp(misfit, shift, e)[1] for e in torch.eye(N, dtype=torch.float64)]
        shift = shift - torch.linalg.solve(torch.stack(columns), gradient)
    torch.testing.assert_close(shift, torch.full_like(shift, -0.2), rtol=1e-6, atol=1e-8)


def test_single_precision(solver):
    operator, values, b = case("one")
    found = []
    for kind in (torch.float32, torch.float64):
        v, r = values.to(kind).requires_grad_(), b.to(kind).requires_grad_()
        first = torch.autograd.grad(
            (solve(operator, v, r, solver) ** 3).sum(), (v, r), create_graph=True
        )
        second = torch.autograd.grad(sum((g**2).sum() for g in first), (v, r))
        assert all(t.dtype is kind for t in (*first, *second))
        found.append([t.double() for t in second])
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["heat", "burgers"])
def test_chains_of_steps_on_a_grid(name):
    torch.manual_seed(1)
    if name == "heat":
        kappa = (0.5 + torch.rand(4, 3, dtype=torch.float64)).requires_grad_()
        stepper = Heat(
            Grid((4, 3), "neumann", MPI.COMM_SELF), kappa, 0.1, Solver("cg", "jacobi", 1e-13)
        )
        state = draw(1, 1, 4, 3)
    else:
        grid = Grid((4, 3), "periodic", MPI.COMM_SELF)
        stepper = Burgers(grid, 0.05, 0.1, Solver("gmres", "jacobi", 1e-13))
        # Away from winds of 0, where the upwind differences have a kink.
        state = 1.0 + 0.2 * draw(1, 2, 4, 3)

    def loss(u):
        for _ in range(3):
            u = stepper(u)
        return (u**3).sum()

    assert torch.autograd.gradgradcheck(loss, (state.requires_grad_(),))
    if name == "heat":

        def of_kappa(k):
            stepper.diffusivity = k
            return loss(state.detach())

        assert torch.autograd.gradgradcheck(of_kappa, (kappa,))


def test_what_is_not_offered_says_so_at_once():
    operator, values, b = case("one")
    unrolled = Solver("richardson", "jacobi", 5, differentiation="unrolled")
    x = solve(operator, values, b.requires_grad_(), unrolled)
    with pytest.raises(InputError, match=r"does not support second derivatives.*implicit"):
        torch.autograd.grad((x**3).sum() + (b**2).sum(), b, create_graph=True)
    with pytest.raises(InputError, match=r"does not support batched gradients"):
        torch.autograd.grad(x, b, draw(3, 2, N), is_grads_batched=True)
    forward = torch.autograd.forward_ad
    with forward.dual_level(), pytest.raises(InputError, match=r"does not support forward-mode"):
        solve(operator, values, forward.make_dual(b.detach(), b.detach()), unrolled)
    for transform in (torch.func.vmap, torch.func.grad):
        with pytest.raises(InputError, match=r"does not support torch.func"):
            transform(lambda r: solve(operator, values, r, unrolled).sum())(b.detach())
    with pytest.raises(InputError, match=r"vmap over the values of a FunctionOperator"):
        torch.func.vmap(lambda p: solve(of_functions(), p, b[0].detach(), Solver()))(draw(3, 2))
