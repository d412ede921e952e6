"""Solves of whole batches in torch tensors, on the device of the right-hand sides."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from numpy.linalg import LinAlgError
from torch import Tensor

from prdp_hpc.errors import InputError
from prdp_hpc.linalg import errors
from prdp_hpc.linalg.arrays import has_bad_numbers, times_power_of_two
from prdp_hpc.linalg.batched.csr import CsrPattern
from prdp_hpc.linalg.batched.dia import DiaPattern
from prdp_hpc.linalg.batched.entries import OwnedEntries
from prdp_hpc.linalg.batched.graphs import Graphs
from prdp_hpc.linalg.batched.matrix import BatchedMatrix, BatchedPattern
from prdp_hpc.linalg.batched.preconditioners import BatchedPreconditioner
from prdp_hpc.linalg.batched.promises import BatchedPromises
from prdp_hpc.linalg.batched.set_up import preconditioner_of
from prdp_hpc.linalg.batched.settings import Settings, settings_of
from prdp_hpc.linalg.batched.single import SingleSolve
from prdp_hpc.linalg.batched.stencil import stencil_of
from prdp_hpc.linalg.batched.system import BatchedSystem
from prdp_hpc.linalg.operator import Operator
from prdp_hpc.linalg.reductions import anywhere
from prdp_hpc.linalg.refinement_level import Refinement
from prdp_hpc.linalg.residual_checks import NOTHING_SOLVED
from prdp_hpc.linalg.scaling import exponents_of, exponents_with_guess
from prdp_hpc.linalg.solver import Solver
from prdp_hpc.linalg.sparse_operator import SparseOperator
from prdp_hpc.linalg.unrolled.convergence import DefaultTest
from prdp_hpc.linalg.unrolled.iterations import Criteria, judge
from prdp_hpc.linalg.unrolled.reductions import dots

INVERSE_DIAGONAL = frozenset({"jacobi", "chebyshev"})
"""Preconditioners that put a 1 where the diagonal has a 0."""


@dataclass(eq=False)
class Held:
    """The matrices of one set of values, and the systems of solves with them.

    Attributes
    ----------
    operator, pattern : the operator of the values, and its pattern.
    values : `(M, nnz_local)`, a copy in double precision.
    matrix : the matrices in double precision.
    """

    operator: SparseOperator
    pattern: BatchedPattern
    values: Tensor
    matrix: BatchedMatrix
    systems: dict[Any, BatchedSystem] = field(default_factory=dict)

    @cached_property
    def has_zero_diagonal(self) -> bool:
        """Whether a diagonal entry is 0 on any rank; collective on first use."""
        return anywhere(self.operator.comm, bool((self.matrix.diagonal() == 0.0).any()))

    def bad_row(self) -> str:
        """A description of a row of zeros on this rank, "" if there is none."""
        zero = (self.matrix.row_sizes() == 0.0).nonzero()
        if not len(zero):
            return ""
        row = int(zero[0, 1]) + self.operator.row_range[0]
        return f"row {row} is zero, which makes the matrix singular"


class BatchedEngine:
    """The batched solves of one `Solver`.

    For each operator it stores the index tensors of the pattern, and the matrices and
    preconditioner of the last values.
    """

    def __init__(self, solver: Solver) -> None:
        # A weak reference, because the solver owns the engine.
        self._solver = weakref.ref(solver)
        self._ksp, self._pc, self._name = str(solver.batched), solver.pc, solver.ksp
        self._report, self._single = solver.report, solver.precision == "float32"
        self._patterns: weakref.WeakKeyDictionary[Operator, BatchedPattern] = (
            weakref.WeakKeyDictionary()
        )
        self._graphs: weakref.WeakKeyDictionary[Operator, Graphs] = weakref.WeakKeyDictionary()
        self._last: weakref.WeakKeyDictionary[Operator, Held] = weakref.WeakKeyDictionary()

    @cached_property
    def _settings(self) -> dict[str, Settings]:
        solver = self._solver()
        assert solver is not None
        return {direction: settings_of(solver, direction) for direction in ("forward", "adjoint")}

    @property
    def _level(self) -> Refinement:
        solver = self._solver()
        assert solver is not None
        return solver.refinement

    @property
    def method(self) -> str:
        """Names of KSP and PC, for messages."""
        return f"ksp={self._name!r}, pc={self._pc!r}"

    def pattern(self, operator: SparseOperator) -> BatchedPattern:
        """A stencil if the operator has one, else compressed rows; the first call is collective."""
        found = self._patterns.get(operator)
        if found is None:
            entries = OwnedEntries(operator)
            stencil = stencil_of(operator, entries)
            found = (
                CsrPattern(operator, entries)
                if stencil is None
                else DiaPattern(operator, entries, stencil)
            )
            self._patterns[operator] = found
        return found

    def differ(self, operator: Operator, values: Tensor) -> bool:
        """Whether values `(M, nnz_local)` differ from the last ones, on this rank."""
        last = self._last.get(operator)
        if last is None:
            return True
        same = last.values.shape == values.shape and last.values.device == values.device
        return not (same and torch.equal(last.values, values))

    def last(self, operator: Operator) -> Held:
        """The matrices of the last values."""
        return self._last[operator]

    def load(self, operator: SparseOperator, values: Tensor, direction: str) -> Held:
        """Make the matrices of new values `(M, nnz_local)`, in double precision; collective.

        Raises
        ------
        ValueError
            For values that violate a promise of the operator.
        """
        with self._report.part(direction, "set_up"), torch.no_grad():
            pattern = self.pattern(operator)
            held = Held(operator, pattern, values.clone(), pattern.matrix(values))
            needs_symmetry = self._ksp == "cg"
            BatchedPromises(operator, held.matrix, held.values).require(self._name, needs_symmetry)
            self._last[operator] = held
        self._report.counters(direction).set_ups += 1
        return held

    def _system(self, held: Held, direction: str, dtype: torch.dtype) -> BatchedSystem:
        """The system of a direction."""
        key = direction, dtype
        if key in held.systems:
            return held.systems[key]
        if dtype != torch.float64:
            double = self._system(held, direction, torch.float64)
            made = double.map(lambda tensor: tensor.to(dtype))
        elif direction == "forward":
            made = self._forward_system(held)
        else:
            forward = self._system(held, "forward", dtype)
            if held.operator.symmetric or self._ksp == "cg":
                made = forward
            else:
                # As for PETSc's KSPs, see `AdjointSystem`.
                right = self._settings[direction].right_side or self._ksp == "gmres"
                made = forward.transposed(right)
        held.systems[key] = made
        return made

    def _forward_system(self, held: Held) -> BatchedSystem:
        operator, device = held.operator, held.values.device
        bases = operator.nullspace_basis, operator.left_nullspace_basis
        return BatchedSystem(
            operator.comm,
            held.matrix,
            self._preconditioner(held),
            self._settings["forward"].right_side,
            (
                None if bases[0] is None else bases[0].to(device),
                None if bases[1] is None else bases[1].to(device),
            ),
        )

    def _preconditioner(self, held: Held) -> BatchedPreconditioner:
        own = self._settings["forward"]
        try:
            return preconditioner_of(self._pc, held.pattern, held.values, held.matrix, own)
        except LinAlgError as error:
            reason, level = errors.SET_UP_FAILED, self._level
            raise errors.failed_solve("forward", self.method, reason, 0, level) from error

    def solve(
        self,
        held: Held,
        direction: str,
        b: Tensor,
        level: Refinement,
        guess: Tensor | None = None,
        is_guarded: bool = False,
    ) -> Tensor:
        """Solve for `b (B, n_local)`, in double precision; collective.

        `guess (B, n_local)`: where to start; a guarded guess is not used where its residual is
        larger than that of zero.

        Raises
        ------
        SolveError
            With the reason, the iteration, the level and what to try.
        """
        with self._report.part(direction, "solve"), torch.no_grad():
            system = self._system(held, direction, torch.float64)
            start = rest = exponents = None
            if guess is not None:
                start = system.without_nullspace(guess)
                rest = b - system.product(start)
            if self._is_to_be_scaled(held, direction, level):
                if start is None or rest is None:
                    exponents = exponents_of(system.comm, b)
                else:
                    exponents, start, rest = exponents_with_guess(system.comm, b, start, rest)
            if exponents is None:
                return self._solve_from(held, direction, b, start, rest, level, is_guarded)
            b = times_power_of_two(b, exponents, -1)
            if start is not None and rest is not None:
                start = times_power_of_two(start, exponents, -1)
                rest = times_power_of_two(rest, exponents, -1)
            x = self._solve_from(held, direction, b, start, rest, level, is_guarded)
            unscaled: Tensor = times_power_of_two(x, exponents)
            if anywhere(held.operator.comm, has_bad_numbers(unscaled)):
                raise errors.bad_numbers(direction, self.method, 0, level, in_input=False)
            return unscaled

    def _is_to_be_scaled(self, held: Held, direction: str, level: Refinement) -> bool:
        """Whether right-hand sides of extreme size are scaled, because inner products would
        overflow; not if the user set an absolute tolerance.
        """
        is_plain = self._ksp == "richardson" and level.is_fixed
        products = not is_plain or held.operator.nullspaces is not None
        return products and self._settings[direction].absolute == 0.0

    def _solve_from(
        self,
        held: Held,
        direction: str,
        b: Tensor,
        start: Tensor | None,
        rest: Tensor | None,
        level: Refinement,
        is_guarded: bool,
    ) -> Tensor:
        """`x = g + A⁻¹ (b − A g)`, with the guess g and its residual; a tolerance refers to b."""
        system = self._system(held, direction, torch.float64)
        if start is None or rest is None:
            return self._solve(held, direction, system, b, None, level)
        # The squares of small numbers are 0.
        nonzero = (b != 0.0).to(b.dtype)
        count, bb, rr = dots(system.comm, (nonzero, nonzero), (b, b), (rest, rest))
        # The solution for a right-hand side of 0 is 0.
        unused = count == 0.0
        if is_guarded:
            unused |= ~(rr < bb)
        start, rest = torch.where(unused, 0.0, start), torch.where(unused, b, rest)
        return start + self._solve(held, direction, system, rest, b, level)

    def _solve(
        self,
        held: Held,
        direction: str,
        system: BatchedSystem,
        b: Tensor,
        whole: Tensor | None,
        level: Refinement,
    ) -> Tensor:
        own = self._settings[direction]
        criteria = Criteria(level, own.absolute, own.divergence)
        if self._single:
            return self._solve_in_single(held, direction, system, b, whole, criteria)
        x, test = self._iterate(held, direction, system, b, whole, criteria)
        self._count(direction, level, len(b), test.counts)
        judge(direction, self.method, system, level, test, b, x, where=held.bad_row)
        if not level.is_fixed:
            right = b if whole is None else whole
            if own.absolute == 0.0:
                self._check_vanished(direction, system, test, right, level)
            if self._pc in INVERSE_DIAGONAL and held.has_zero_diagonal:
                rest = system.without_left_nullspace(b) - system.product(x)
                # Those that are active ended at the level's iterations.
                rest = torch.where(test.active > 0.0, 0.0, rest)
                self._check_residual(direction, system, rest, right, level)
        return x

    def _iterate(
        self,
        held: Held,
        direction: str,
        system: BatchedSystem,
        b: Tensor,
        whole: Tensor | None,
        criteria: Criteria,
    ) -> tuple[Tensor, DefaultTest]:
        graphs = self._graphs.setdefault(held.operator, Graphs())
        key = (direction, b.shape, held.matrix.count, b.dtype, b.device)
        method = self._settings[direction].method()
        return graphs.iterate(key, method, system, b, criteria, whole)

    def _solve_in_single(
        self,
        held: Held,
        direction: str,
        system: BatchedSystem,
        b: Tensor,
        whole: Tensor | None,
        criteria: Criteria,
    ) -> Tensor:
        method, single = self._settings[direction].method(), torch.float32
        systems = system, self._system(held, direction, single)
        solve = SingleSolve(direction, self.method, method, criteria, *systems)

        def run(own: BatchedSystem, b: Tensor, level: Criteria) -> tuple[Tensor, DefaultTest]:
            return self._iterate(held, direction, own, b, None, level)

        if not criteria.level.is_fixed:
            x = solve.refined(b, b if whole is None else whole, run)
            assert solve.counts is not None
            self._count(direction, criteria.level, len(b), solve.counts)
            return x
        x, test = solve.fixed(b, run)
        self._count(direction, criteria.level, len(b), test.counts)
        return x

    def _check_vanished(
        self, direction: str, system: BatchedSystem, test: DefaultTest, b: Tensor, level: Refinement
    ) -> None:
        """Raise SolveError if the preconditioned residual of a non-zero right-hand side is 0."""
        zero = test.reference == 0.0
        if zero.any() and (zero & (dots(system.comm, (b, b))[0] > 0.0)).any():
            raise errors.vanished(direction, self.method, level)

    def _check_residual(
        self, direction: str, system: BatchedSystem, rest: Tensor, b: Tensor, level: Refinement
    ) -> None:
        """Raise SolveError if a residual is not small, where the preconditioner ignores rows."""
        rr, bb = dots(system.comm, (rest, rest), (b, b))
        ratios = torch.where(rr > 0.0, (rr / bb).sqrt(), 0.0)
        worst = float(ratios.max()) if len(ratios) else 0.0
        if not worst <= max(NOTHING_SOLVED, 2.0 * float(level.rtol or 0.0)):
            raise errors.not_the_solution(direction, self.method, worst, None, level)

    def _count(self, direction: str, level: Refinement, solves: int, counts: Tensor) -> None:
        counters = self._report.counters(direction)
        counters.solves += solves
        # A right-hand side that is solved waits for the others, whereas PETSc's KSP would iterate
        # on rounding errors.
        counters.iterations += (level.max_it or 0) * solves if level.is_fixed else int(counts.sum())


def engine_of(solver: Solver) -> BatchedEngine:
    """The engine of a solver, made on first use."""
    if solver.engine is None:
        solver.engine = BatchedEngine(solver)
    engine: BatchedEngine = solver.engine
    return engine


def validate_operator(operator: Operator, ksp: str) -> InputError | None:
    """The error for an operator whose entries are not tensors, or None."""
    if not isinstance(operator, SparseOperator):
        return InputError(
            f"ksp={ksp!r} needs the matrix's entries as tensors, which a "
            f"{type(operator).__name__} does not have: use a SparseOperator or ElementOperator, or "
            f"ksp={ksp.removeprefix('batched_')!r}"
        )
    if operator.preconditioner is not None:
        return InputError(
            f"ksp={ksp!r} makes its preconditioner from the matrix itself, but this operator has "
            f"a separate one for it: use ksp={ksp.removeprefix('batched_')!r}, or "
            "operator.preconditioner = None"
        )
    return None
