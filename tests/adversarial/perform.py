"""Runs a case through the package, on the ranks of a communicator."""

from __future__ import annotations

from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.sparse
import torch
from petsc4py import PETSc
from torch import Tensor

from prdp_hpc import FunctionOperator, Refinement, Solver, SparseOperator, solve
from prdp_hpc.errors import PrdpError

from .cases import Case

FLOWS = (
    "plain",
    "no gradient recorded",
    "inference mode",
    "other values before",
    "values changed through data",
    "values changed through numpy",
    "values changed in place",
    "refined before",
    "refined between",
    "solved between",
    "solved twice",
    "backward twice",
    "solver shared",
    "zero before",
)
WITHOUT_GRADIENT = ("no gradient recorded", "inference mode")


@dataclass
class Answer:
    """The result, gathered from all ranks: x and the gradient of b `(B, n)`, that of the values
    `(M, nnz)`; None if it was not computed. `system`: the operator and the solver.
    """

    x: Any
    system: Any = None
    b: Any = None
    values: Any = None
    iterations: int = 0
    again: Any = None
    remark: str = ""


class Parts:
    """The part of a case on this rank."""

    def __init__(self, case: Case, comm: Any) -> None:
        share, rest = divmod(case.n, comm.size)
        start = comm.rank * share + min(comm.rank, rest)
        self.own = slice(start, start + share + (comm.rank < rest))
        self.n_local = self.own.stop - self.own.start
        if case.operator == "coo":
            mine = [k for k, who in enumerate(case.holders) if who % comm.size == comm.rank]
        else:
            mine = [k for k, row in enumerate(case.rows) if start <= row < self.own.stop]
        self.entries = np.array(mine, dtype=np.int64)
        self.rows = np.array(case.rows, dtype=np.int64)[self.entries]
        self.cols = np.array(case.cols, dtype=np.int64)[self.entries]

    def of_values(self, values: Any) -> Any:
        return np.array(values, dtype=np.float64).reshape(len(values), -1)[:, self.entries]

    def of_vectors(self, vectors: Any) -> Any:
        return np.array(vectors, dtype=np.float64)[:, self.own]


def laid_out(rows: Any, layout: str, kind: str) -> Tensor:
    """Rows of numbers as a tensor that lies in memory as named."""
    plain = torch.from_numpy(np.array(rows, order="C")).to(getattr(torch, kind))
    if layout == "strided":
        wide = torch.full((plain.shape[0], 2 * plain.shape[1]), float("nan"), dtype=plain.dtype)
        wide[:, ::2] = plain
        return wide[:, ::2]
    if layout == "transposed":
        return plain.T.contiguous().T
    if layout == "expanded" and bool((plain == plain[:1]).all()):
        return plain[:1].expand(plain.shape)
    if layout == "negative" and kind in ("float32", "float64"):
        return torch.complex(plain, -plain).conj().imag
    return plain


def make_operator(case: Case, comm: Any, parts: Parts) -> Any:
    kernel: dict[str, Any] = {"constant_nullspace": True} if case.constant else {}
    if case.kernel:
        vectors = [np.array(z)[parts.own] for z in case.kernel]
        kernel["nullspace"] = vectors[0] if len(vectors) == 1 else vectors
    if case.operator == "function":
        return _function_operator(case, comm, parts)
    if case.operator == "scipy":
        entries = (np.zeros(len(case.rows)), (case.rows, case.cols))
        matrix = scipy.sparse.coo_matrix(entries, shape=(case.n, case.n))
        made, _ = SparseOperator.from_scipy(matrix, comm, symmetric=case.symmetric, **kernel)
        return made
    shape = (case.n, case.n)
    return SparseOperator(parts.rows, parts.cols, shape, comm, symmetric=case.symmetric, **kernel)


def _function_operator(case: Case, comm: Any, parts: Parts) -> FunctionOperator:
    rows = torch.from_numpy(parts.rows - parts.own.start)
    cols, n_local = torch.from_numpy(parts.cols), parts.n_local

    def apply(values: Any, x: Tensor) -> Tensor:
        whole = x
        if comm.size > 1:
            whole = torch.from_numpy(np.concatenate(comm.allgather(x.detach().numpy())))
        return torch.zeros(n_local, dtype=x.dtype).index_add(0, rows, values * whole[cols])

    def transpose(values: Any, y: Tensor) -> Tensor:
        part = torch.zeros(case.n, dtype=y.dtype).index_add(0, cols, values * y[rows])
        return torch.from_numpy(comm.allreduce(part.numpy()))[parts.own]

    def diagonal(values: Any) -> Tensor:
        kept = torch.where(rows + parts.own.start == cols, values, 0.0)
        return torch.zeros(n_local, dtype=torch.float64).index_add(0, rows, kept)

    return FunctionOperator(
        apply,
        n_local,
        comm,
        apply_transpose=transpose if comm.size > 1 else None,
        diagonal=diagonal,
        symmetric=case.symmetric,
    )


def make_solver(case: Case) -> Solver:
    return Solver(
        case.ksp,
        case.pc,
        Refinement(*case.level),
        None if case.adjoint is None else Refinement(*case.adjoint),
        dict(case.options),
        case.differentiation,
    )


def perform(case: Case, comm: Any) -> Answer:
    """The answer; raises what the package raises."""
    parts = Parts(case, comm)
    operator, solver = make_operator(case, comm, parts), make_solver(case)
    culprit = case.culprit < 0 or case.culprit % comm.size == comm.rank
    mistake = case.mistake if culprit else ""
    b = _right_hand_side(case, parts, mistake)
    values = _values(case, parts, operator, solver, b, mistake)
    inputs = _inputs(case, values, b, mistake)
    guess = _guess(case, parts, b)
    _before(case, comm, parts, operator, solver, b)
    done = solver.report.forward.iterations
    mode = {"no gradient recorded": torch.no_grad(), "inference mode": torch.inference_mode()}
    with mode.get(case.flow, nullcontext()):
        x = solve(operator, values, b, solver, guess)
    iterations = solver.report.forward.iterations - done
    answer = Answer(_gathered(x, comm), (operator, solver), iterations=iterations)
    if x.shape != b.shape or x.dtype is not b.dtype:
        answer.remark = f"x is {x.dtype} {tuple(x.shape)}, b {b.dtype} {tuple(b.shape)}"
    if case.flow == "solved twice":
        answer.again = _gathered(solve(operator, values, b, solver, guess), comm)
    if case.flow in WITHOUT_GRADIENT or not inputs:
        return answer
    if case.flow == "refined between":
        solver.refine(2, 1)
    if case.flow == "solved between":
        _other_solve(case, parts, operator, solver, b)
    back = laid_out(parts.of_vectors(case.grad), case.grad_layout, case.b_type)
    back = back if x.dim() == 2 else back[0]
    names, wanted = zip(*inputs.items(), strict=True)
    grads = torch.autograd.grad(x, wanted, back, retain_graph=case.flow == "backward twice")
    if case.flow == "backward twice":
        grads = torch.autograd.grad(x, wanted, back)
    for name, grad, given in zip(names, grads, wanted, strict=True):
        if grad.shape != given.shape or grad.dtype is not given.dtype:
            answer.remark = f"the gradient of {name} is {grad.dtype} {tuple(grad.shape)}"
        gather = _gathered_values if name == "values" else _gathered
        setattr(answer, name, gather(grad, comm, parts, len(case.rows)))
    return answer


def _right_hand_side(case: Case, parts: Parts, mistake: str) -> Tensor:
    rows = parts.of_vectors(case.b)
    if mistake == "batches differ":
        rows = np.concatenate([rows, rows])
    b = laid_out(rows, case.b_layout, case.b_type)
    if mistake == "b has a column too many":
        b = torch.cat([b, b.new_zeros(len(b), 1)], dim=1)
    if mistake == "b is an integer tensor":
        b = torch.ones(b.shape, dtype=torch.int64)
    return b if case.batched else b[0]


def _guess(case: Case, parts: Parts, b: Tensor) -> Tensor | None:
    if not case.guess:
        return None
    rows = torch.from_numpy(parts.of_vectors(case.guess)).to(b.dtype)
    return rows if case.batched else rows[0]


def _values(
    case: Case, parts: Parts, operator: Any, solver: Solver, b: Tensor, mistake: str
) -> Any:
    numbers = parts.of_values(case.values)
    values = laid_out(numbers, case.values_layout, case.values_type)
    if mistake == "values have an entry too many":
        values = torch.cat([values, values.new_ones(len(values), 1)], dim=1)
    if mistake == "values are complex":
        values = values.to(torch.complex128)
    if mistake == "values are None":
        return None
    values = values if case.several else values[0]
    # The mistake of one rank must not decide how often the others solve.
    is_changed = case.flow.startswith("values changed") and not case.several
    if is_changed and case.mistake != "values have an entry too many":
        other = torch.from_numpy(parts.of_values(case.other)[0].copy()).to(values.dtype)
        other.requires_grad_("values" in case.needs)
        array = other.detach().numpy() if other.dtype is torch.float64 else None
        _tolerant(operator, other, b, solver)
        if case.flow.endswith("in place"):
            with torch.no_grad():
                other.copy_(values)
        elif case.flow.endswith("data") or array is None:
            other.data.copy_(values)
        else:
            array[:] = values.resolve_neg().numpy()
        return other
    return values


def _inputs(case: Case, values: Any, b: Any, mistake: str) -> dict[str, Tensor]:
    needs = set(case.needs)
    if mistake == "only one rank needs gradients":
        needs ^= {"b"}
    found = {}
    for name, tensor in (("values", values), ("b", b)):
        real = isinstance(tensor, Tensor) and (tensor.is_floating_point() or tensor.is_complex())
        if name in needs and real:
            found[name] = tensor.requires_grad_()
    return found


def _before(case: Case, comm: Any, parts: Parts, operator: Any, solver: Solver, b: Tensor) -> None:
    if case.flow == "other values before":
        _other_solve(case, parts, operator, solver, b)
    if case.flow == "refined before":
        level, adjoint = solver.refinement, solver.adjoint
        solver.refine(1e-2)
        _other_solve(case, parts, operator, solver, b)
        solver.refine(level, adjoint)
    if case.flow == "zero before":
        _other_solve(case, parts, operator, solver, torch.zeros_like(b))
    if case.flow == "solver shared":
        index = np.arange(3) if comm.rank == 0 else np.zeros(0, dtype=np.int64)
        small = SparseOperator(index, index, (3, 3), comm, symmetric=True)
        _tolerant(
            small,
            torch.full((len(index),), 2.0, dtype=torch.float64),
            torch.ones(small.n_local, dtype=torch.float64),
            solver,
        )


def _other_solve(case: Case, parts: Parts, operator: Any, solver: Solver, b: Tensor) -> None:
    other = torch.from_numpy(parts.of_values(case.other))
    if not case.several:
        other = other[0]
    elif len(case.values) > 1:
        other = other[:1].expand(len(case.values), -1)
    _tolerant(operator, other, b, solver)


def _tolerant(operator: Any, values: Any, b: Tensor, solver: Solver) -> None:
    """A solve whose outcome is not judged; later ones must nevertheless be correct."""
    with suppress(PrdpError):
        solve(operator, values, b, solver)


def live_inverses(case: Case, answer: Answer, comm: Any) -> list[Any]:
    """For each matrix `M⁻¹` as the preconditioner of a solver applies it, a dense matrix; None
    where it cannot be applied; collective.

    The preconditioners of several matrices are those of solves with each of them alone.
    """
    if not case.several:
        return [live_inverse(case, answer, comm)]
    rights, found = len(case.b) // len(case.values), []
    for number, values in enumerate(case.values):
        rows = slice(number * rights, (number + 1) * rights)
        guess = case.guess[rows] if case.guess else ()
        own = replace(
            case,
            values=(values,),
            b=case.b[rows],
            guess=guess,
            several=False,
            batched=True,
            needs=(),
            flow="plain",
        )
        try:
            found.append(live_inverse(own, perform(own, comm), comm))
        except PrdpError:
            found.append(None)
    return found


def live_inverse(case: Case, answer: Answer, comm: Any) -> Any:
    """`M⁻¹` as the preconditioner of the solver applies it, a dense matrix; None where it cannot be
    applied; collective.
    """
    operator, solver = answer.system
    is_safe = comm.size == 1 or case.pc == "gamg"  # Others may fail on one rank.
    if solver.batched is not None or not is_safe:
        return None
    unit = torch.eye(case.n, dtype=torch.float64)[:, Parts(case, comm).own].contiguous().numpy()
    try:
        columns = solver.system(operator).inverse(unit, False)
    except (PETSc.Error, PrdpError):
        return None
    found = np.concatenate(comm.allgather(np.array(columns)), axis=1).T
    return found if np.isfinite(found).all() else None


def _gathered(x: Tensor, comm: Any, *_: Any) -> Any:
    rows = x.detach().to(torch.float64).reshape(-1, x.shape[-1]) if x.numel() else None
    if rows is None:
        rows = torch.zeros(x.shape[0] if x.dim() == 2 else 1, x.shape[-1], dtype=torch.float64)
    return np.concatenate(comm.allgather(rows.contiguous().numpy()), axis=1)


def _gathered_values(grad: Tensor, comm: Any, parts: Parts, nnz: int) -> Any:
    rows = grad.detach().to(torch.float64)
    rows = (rows if rows.dim() == 2 else rows[None]).contiguous().numpy()
    whole = np.zeros((len(rows), nnz))
    for entries, part in comm.allgather((parts.entries, rows)):
        whole[:, entries] = part
    return whole
