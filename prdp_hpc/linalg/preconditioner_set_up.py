"""The set-up of the preconditioner of a linear system."""

from __future__ import annotations

import math
import weakref
from typing import Any

import torch

from prdp_hpc.distributed.collective import RemoteError, raise_together, share_or_end_job
from prdp_hpc.linalg import errors
from prdp_hpc.linalg.adopted_ksp import set_up
from prdp_hpc.linalg.arrays import Numbers, digest, has_bad_numbers, on_host
from prdp_hpc.linalg.bad_rows import bad_row, zero_diagonal
from prdp_hpc.linalg.ksp_pair import Direction, KspPair
from prdp_hpc.linalg.lag import FLOOR, LagRule
from prdp_hpc.linalg.method_types import (
    DIAGONAL_PCS,
    FACTORING_PCS,
    NATURAL_KSPS,
    NO_TRANSPOSE_KSPS,
    NO_TRANSPOSE_PCS,
    SOR_PCS,
    SYMMETRIC_KSPS,
    SYMMETRIC_OR_WHOLE_PCS,
    SYMMETRIC_PCS,
    UNPROJECTED_PCS,
    Lag,
)
from prdp_hpc.linalg.operator import Operator
from prdp_hpc.linalg.options import meaningless, unused_options
from prdp_hpc.linalg.promises import check_blocks
from prdp_hpc.linalg.reductions import anywhere
from prdp_hpc.linalg.report import SolveReport
from prdp_hpc.linalg.residual_checks import ResidualChecks
from prdp_hpc.linalg.shell_preconditioner import ShellPreconditioner, missing_transpose
from prdp_hpc.linalg.singular_values import relate_zero
from prdp_hpc.linalg.torch_petsc import is_aij, to_memory
from prdp_hpc.petsc import PETSc

# A reduction of the residual beyond which only rounding is left to measure.
SMALLEST = 1e-16
# How much of the residual, or times what was left after the set-up, shows divergence: some methods
# reduce another norm, and leave more than there was for some iterations.
DIVERGED = 10.0


class PreconditionerSetUp(ResidualChecks):
    """The part of a `LinearSystem` that keeps the preconditioner up to date; all of it collective.

    Attributes
    ----------
    broken : set when a solve failed: parts of a preconditioner keep the error of a factorisation
        (3.26), and after a PETSc error locks and counts inside the KSP may be wrong.
    """

    broken: bool
    _pair: KspPair
    _report: SolveReport
    _shell: ShellPreconditioner | None
    _operator: weakref.ref[Operator]
    # Whether the preconditioner is made from another operator's matrix, see `is_made_for`.
    _has_source: bool
    # PETSc's first Galerkin products on a GPU are wrong (3.26.1): pc="mg" is set up twice there.
    _needs_second_set_up = False

    def _prepare_lag(self, n: Lag) -> None:
        self._state: Any = None
        self._lag: LagRule | None = None
        if self._pair.lagged is not None:
            self._lag = LagRule(n if isinstance(n, int) else None)
            if self._lag.is_measured:
                for direction in (self._pair.forward, self._pair.adjoint):
                    direction.ksp.setConvergenceHistory(length=1, reset=True)
        # Directions whose solves with a fixed number of iterations are not checked yet for these
        # values; iterations and factors of ten of the rows of one solve with a tolerance.
        self._unmeasured: set[str] = set()
        self._costs: list[tuple[int, float]] = []
        # Residuals of solves with a fixed number of iterations after a set-up.
        self._left: dict[str, float] = {}
        # The state of the last set-up, and that of an earlier run which this run continues.
        self._set_up_values: Numbers | None = None
        self._earlier: dict[str, Any] | None = None

    @property
    def _source(self) -> Operator:
        """The operator whose matrix preconditioners are made from."""
        operator = self._used_operator()
        return operator.preconditioning_operator if self._has_source else operator

    def set_up(self, direction: str) -> None:
        """Set the preconditioner up if a matrix has changed or, with a lag, if a set-up is due;
        collective.
        """
        if self._has_source:
            preconditioner = self._used_operator().preconditioner
            assert preconditioner is not None
            preconditioner.load()
        if self._lag is not None:
            self._set_up_lagged(direction, self._lag)
            return
        state = self._matrix.stateGet(), self._pair.pmat.stateGet()
        if state != self._state:
            self._set_up_counted(direction)
            self._state = self._matrix.stateGet(), self._pair.pmat.stateGet()

    def _set_up_lagged(self, direction: str, lag: LagRule) -> None:
        if self._earlier is not None:
            self._set_up_earlier(direction, lag, self._earlier)
        # PETSc's count of changes is not used: it counts values that were loaded temporarily.
        state = self._used_operator().loads, self._source.loads
        changed = state != self._state
        if self._state is not None and state[1] != self._state[1]:
            lag.changed()
        if self._state is None or lag.is_due:
            self.set_up_anew(direction)
        elif changed:
            with self._report.part(direction, "set_up"):
                self._check_kept(self._pair.directions[direction])
            self._report.counters(direction).set_ups_skipped += 1
        if changed:
            # A norm with a preconditioner of other values leaves parts of the residual out.
            self._unmeasured, self._unchecked = {"forward", "adjoint"}, {"forward", "adjoint"}
        self._state = state

    def set_up_anew(self, direction: str) -> None:
        """Set a lagged preconditioner up for the values that the matrix holds; collective."""
        assert self._lag is not None
        assert self._pair.lagged is not None
        # Invalid until the set-up succeeds.
        state, self._state = self._state, None
        self._pair.lagged.copy_values()
        self._set_up_counted(direction)
        self._state = state
        self._set_up_values = self._source.loaded.copy
        self._lag.was_set_up()
        self._unmeasured = {"forward", "adjoint"}

    def _set_up_counted(self, direction: str) -> None:
        with self._report.part(direction, "set_up"):
            self._set_up(self._pair.directions[direction])
        self._unchecked = {"forward", "adjoint"}
        self._report.counters(direction).set_ups += 1
        if self._pair.options:
            self._check_options()

    def _note_cost(self, direction: Direction, iterations: int) -> None:
        """Store the cost of a solve with a tolerance, from the norms that it computed."""
        if self._lag is None or not self._lag.is_measured or direction.level.is_fixed:
            return
        first = direction.ksp.getConvergenceHistory()[:1]
        last = float(direction.ksp.getResidualNorm())
        if iterations and len(first) and last < first[0]:
            self._costs.append((iterations, math.log10(first[0] / max(last, SMALLEST * first[0]))))

    def _is_trusted(self, direction: Direction, b: Numbers, x: Numbers) -> bool:
        """Register the cost of the solves, and return whether the preconditioner may be kept: with
        a fixed number of iterations, whether all numbers are finite and the residual of the first
        right-hand side has not grown; collective.
        """
        lag, level = self._lag, direction.level
        assert lag is not None
        if not level.is_fixed:
            self._register_cost(direction, lag)
            return True
        if lag.is_stale and anywhere(self._comm, has_bad_numbers(x)):
            return False
        is_known = direction.name not in self._unmeasured or not (lag.is_stale or lag.is_measured)
        if is_known or len(b) == 0:
            return True
        residual, length, _ = self._lengths(direction, b[0], x[0])
        if length == 0.0:
            return True
        self._unmeasured.discard(direction.name)
        left = residual / length
        if lag.is_stale and not left <= DIVERGED * max(1.0, self._left.get(direction.name, 0.0)):
            return False
        if not lag.is_stale:
            self._left[direction.name] = left
        if lag.is_measured:
            lag.measured(direction.name, level, max(left, SMALLEST))
        return True

    def _register_cost(self, direction: Direction, lag: LagRule) -> None:
        costs, self._costs = self._costs, []
        if costs:
            iterations, decades = map(sum, zip(*costs, strict=True))
            slack = FLOOR * len(costs) / decades
            lag.measured(direction.name, direction.level, iterations / decades, slack)

    def lag_state(self) -> dict[str, Any] | None:
        """The data that the preconditioner depends on besides the values of the next solve: the
        values of the last set-up, on this rank, and when the next one is due. None without a lag.
        """
        if self._lag is None or self._state is None:
            return self._earlier
        values, loaded = self._set_up_values, self._source.loaded.copy
        return {
            "values": None if values is None else torch.from_numpy(on_host(values)),
            "loaded": digest(loaded),
            "rule": self._lag.state_dict(),
            "unmeasured": sorted(self._unmeasured),
            "left": dict(self._left),
        }

    def load_lag_state(self, state: dict[str, Any]) -> None:
        """Continue from `lag_state()` at the next solve."""
        self._earlier = state

    def _set_up_earlier(self, direction: str, lag: LagRule, earlier: dict[str, Any]) -> None:
        """Set up for the values of an earlier run's last set-up, so that this run continues with
        the same numbers; not if the rows are divided differently.
        """
        self._earlier = None
        source = self._source
        host = None
        if earlier["values"] is not None:
            host = to_memory(earlier["values"], source.memory)
        loaded = source.loaded.copy
        shapes = [None if values is None else values.shape for values in (host, loaded)]
        if anywhere(self._comm, shapes[0] != shapes[1]):
            return
        with source.holding(host):
            self.set_up_anew(direction)
        self._set_up_values = host
        lag.load_state_dict(earlier["rule"])
        self._unmeasured, self._left = set(earlier["unmeasured"]), dict(earlier["left"])
        # Whether the values of the next solve differ from those of the last.
        is_other = anywhere(self._comm, digest(loaded) != earlier["loaded"])
        self._state = self._used_operator().loads, source.loads - is_other

    def _check_transposed(self, direction: Direction) -> None:
        """Raise an error for a method without a transposed application."""
        if not self._lacks_transpose():
            return
        if self._shell is not None:
            raise missing_transpose()
        raise errors.no_transpose(self.method, direction.level)

    def _lacks_transpose(self) -> bool:
        """Whether the method has no transposed application."""
        if self._shell is not None and self._shell.apply_transpose is None:
            return True
        return self.ksp_name in NO_TRANSPOSE_KSPS or self.pc_name in NO_TRANSPOSE_PCS

    def _set_up(self, direction: Direction) -> None:
        ksp = direction.ksp
        try:
            self._check_promises()
            self._check_rows(direction)
            self._drop_failed_factors()
            self._set_up_ksp(ksp)
            if self._needs_second_set_up:
                self._needs_second_set_up = False
                self._pair.pmat.stateIncrease()
                self._set_up_ksp(ksp)
            if self._pair.preconditioner.getType() == PETSc.PC.Type.FIELDSPLIT:
                check_blocks(self._pair.preconditioner, self._source.has_single_values)
            ksp.setUpOnBlocks()
            # A part of the set-up that is local to one rank may have failed there.
            raise_together(self._comm, None)
            if self.ksp_name in NATURAL_KSPS and self.pc_name not in SYMMETRIC_OR_WHOLE_PCS:
                self.inverse.require_symmetric(self.method, self._source.has_single_values)
        except PETSc.Error as error:
            raise self.failure(direction.name, error) from error
        except RemoteError:
            # All ranks replace their KSPs before the next solve, which is collective.
            self._discard()
            raise

    def _drop_failed_factors(self) -> None:
        """Remove the state of a factorisation that failed for singular values, because PETSc keeps
        the error for all later values (3.26), or would not call MUMPS again (3.25).
        """
        if self.pc_name not in FACTORING_PCS:
            return
        preconditioner = self._pair.preconditioner
        if anywhere(self._comm, bool(preconditioner.getFailedReason())):
            preconditioner.reset()

    def _set_up_ksp(self, ksp: Any) -> None:
        # For both: before PETSc 3.26 Chebyshev's method keeps its bounds of the spectrum otherwise.
        pmat, is_copied = self._pair.pmat, self.pc_name == PETSc.PC.Type.PBJACOBI
        if is_copied:
            # A matrix keeps the inverses of its first diagonal blocks for all later values (3.26).
            pmat = pmat.duplicate(copy=True)
        for one in (self._pair.forward.ksp, self._pair.adjoint.ksp):
            one.setOperators(self._matrix, pmat)
        if is_copied:
            pmat.destroy()  # the KSPs hold it; without this it is freed at the next clean-up
        if self._pair.is_one_ksp:
            set_up(ksp, self._used_operator())
        else:
            relate_zero(self._pair.preconditioner, pmat)
            ksp.setUp()
        self._set_up_smoothers()

    def _set_up_smoothers(self) -> None:
        """Set the smoothers of multigrid up again: before PETSc 3.26 those with Chebyshev's method
        keep their bounds of the spectrum of earlier values.
        """
        pc = self._pair.preconditioner
        if PETSc.Sys.getVersion() >= (3, 26) or pc.getType() != PETSc.PC.Type.MG:
            return
        for level in range(1, pc.getMGLevels()):
            smoother = pc.getMGSmoother(level)
            smoother.setOperators(*smoother.getOperators())
            smoother.setUp()

    def _used_operator(self) -> Operator:
        operator = self._operator()
        assert operator is not None, "the operator was freed before its solver"
        return operator

    def _check_kept(self, direction: Direction) -> None:
        """Check new values for which the preconditioner is kept as a set-up would check them."""
        try:
            self._check_promises()
        except PETSc.Error as error:
            raise self.failure(direction.name, error) from error
        divides = self.pc_name in DIAGONAL_PCS
        if divides or self.pc_name in FACTORING_PCS:
            self._raise_bad_row(direction, self._source.matrix, in_set_up=divides)

    def _check_rows(self, direction: Direction) -> None:
        """Raise SolveError for a zero on the diagonal if the preconditioner would fail on one rank
        while the others wait, or would use an entry of the next row in its place.
        """
        is_to_be_checked = self._comm.size > 1 or self.pc_name in SOR_PCS
        if not is_to_be_checked or self.pc_name not in DIAGONAL_PCS:
            return
        self._raise_bad_row(direction, self._pair.pmat, in_set_up=True)

    def _raise_bad_row(self, direction: Direction, matrix: Any, in_set_up: bool) -> None:
        where = bad_row(matrix, self._residual, in_set_up)
        if where:
            reason = PETSc.KSP.ConvergedReason.DIVERGED_PCSETUP_FAILED
            raise errors.failed_solve(
                direction.name, self.method, reason, 0, direction.level, where
            )

    def _check_promises(self) -> None:
        """Raise InputError if the values violate the operator's promises or the method's needs."""
        if self._nullspaces is not None and self.pc_name in UNPROJECTED_PCS:
            raise errors.singular_coarse_matrix(self.pc_name)
        operator = self._used_operator()
        relying = [f"ksp={self.ksp_name!r}"] if self.ksp_name in SYMMETRIC_KSPS else []
        by_pc = [f"pc={self.pc_name!r}"] if self.pc_name in SYMMETRIC_PCS else []
        by_pc += self._pair.symmetric_parts
        if self._has_source:
            self._require_symmetric(self._source, by_pc)
        else:
            relying += by_pc
        relying += ["symmetric=True"] if operator.symmetric else []
        self._require_symmetric(operator, relying)
        if self._nullspaces is not None and not operator.promises_hold:
            operator.promises.require_nullspaces(self._nullspaces, operator.symmetric)

    def _require_symmetric(self, operator: Operator, relying: list[str]) -> None:
        if relying and not (operator.symmetric and operator.promises_hold):
            operator.promises.require_symmetric(" and ".join(relying))
            operator.failure = None  # A function without a transpose is not an error.

    def _check_options(self) -> None:
        """Raise InputError for options that are unused at the end of the first set-up."""
        unused = unused_options(self._pair.prefix, self._pair.options)
        self._pair.options = {}
        if unused:
            self._discard()
            raise meaningless(unused, self.method)

    def failure(self, direction: str, error: PETSc.Error) -> BaseException:
        """The exception for a PETSc call that failed: that of the operator's or preconditioner's
        code if it was the cause. Ends the job if other ranks wait inside the call.
        """
        self._discard()
        operator = self._operator()
        failure: BaseException | None = error.__cause__
        if operator is not None:
            failure, operator.failure = operator.failure or failure, None
        if failure is None:
            failure = self._petsc_failure(direction, error)
        if isinstance(failure, Exception):
            share_or_end_job(self._comm, failure)
        # Else the user's code called sys.exit, or was interrupted: this process ends, which ends
        # the job.
        return failure

    def _discard(self) -> None:
        """Mark these KSPs for replacement before the next solve; they are never freed."""
        if not self.broken:
            self.broken = True
            self._pair.keep()

    def _petsc_failure(self, direction: str, error: PETSc.Error) -> Exception:
        # Not collective: the other ranks may not have failed.
        matrix, level = self._pair.pmat, self._pair.directions[direction].level
        row = zero_diagonal(matrix, self._residual) if is_aij(matrix) else None
        return errors.petsc_failure(direction, self.method, error, level, row)
