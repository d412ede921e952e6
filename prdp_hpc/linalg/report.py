"""Counters and times of a solver."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from prdp_hpc.metric_names import SOLVER_PARTS


class PartTimer:
    """Wall-clock seconds by part of the work, each second counted once.

    Parts nest: the seconds of an inner part do not count for the outer one, so the sum of the parts
    is the time in which any of them was open. The seconds of a part are added to the attribute
    `<name>_seconds` of its owner.

    Attributes
    ----------
    synchronise : called before the clock is read, if given: waits for the work of a GPU.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.synchronise: Callable[[], None] | None = None
        self._clock = clock
        self._open: list[tuple[object, str]] = []
        self._since = 0.0

    def part(self, owner: object, name: str) -> AbstractContextManager[None]:
        """Count the time of a block; also closes parts that are still open inside."""
        return _Part(self, owner, name)

    def begin(self, owner: object, name: str) -> None:
        """Open a part where a `with` block is not possible, e.g. inside a backward pass."""
        self._charge()
        self._open.append((owner, f"{name}_seconds"))

    def end(self, owner: object, name: str) -> None:
        """Close this part if it is the one that was opened last."""
        opened, attribute = self._open[-1] if self._open else (None, "")
        if opened is owner and attribute == f"{name}_seconds":
            self._charge()
            self._open.pop()

    def open(self, owner: object, attribute: str) -> int:
        """Open a part whose seconds are added to an attribute, where a `with` block takes longer
        than the work in it; returns the argument of `close`.
        """
        depth = len(self._open)
        self._charge()
        self._open.append((owner, attribute))
        return depth

    def change(self, attribute: str) -> None:
        """Add the following seconds of the part that was opened last to another attribute."""
        self._charge()
        self._open[-1] = (self._open[-1][0], attribute)

    def close(self, depth: int) -> None:
        """Close the part that `open` returned this number for, and those inside it."""
        self._charge()
        del self._open[depth:]

    def _charge(self) -> None:
        if self.synchronise is not None:
            self.synchronise()
        now = self._clock()
        if self._open:
            owner, attribute = self._open[-1]
            setattr(owner, attribute, getattr(owner, attribute) + now - self._since)
        self._since = now


class _Part:
    """A block whose time a `PartTimer` counts; a class, because a generator takes longer."""

    __slots__ = ("_attribute", "_depth", "_owner", "_timer")

    def __init__(self, timer: PartTimer, owner: object, name: str) -> None:
        self._timer, self._owner, self._attribute = timer, owner, f"{name}_seconds"

    def __enter__(self) -> None:
        self._depth = self._timer.open(self._owner, self._attribute)

    def __exit__(self, *raised: object) -> None:
        self._timer.close(self._depth)


@dataclass
class Counters:
    """Work of one direction.

    Attributes
    ----------
    solves : right-hand sides solved (a batch of B counts B).
    iterations : KSP iterations of all solves together.
    set_ups : preconditioner set-ups.
    set_ups_skipped : new values for which a lagged preconditioner was kept.
    nonlinear_solves : nonlinear systems solved (a batch of B counts B).
    newton_iterations : Newton iterations of all nonlinear solves; each is one of `solves`.
    function_evaluations : evaluations of their residuals.
    line_search_evaluations : evaluations by the line search, besides one at the start and one per
        Newton iteration.
    assembly_seconds : wall-clock seconds of checking and loading matrix values; in training, also
        of the rest of a physics step (its matrices and right-hand sides, conversions).
    set_up_seconds, solve_seconds : seconds of preconditioner set-ups, and of the iterations.
    gradient_seconds : seconds of the gradient of the matrix values.
    """

    solves: int = 0
    iterations: int = 0
    set_ups: int = 0
    set_ups_skipped: int = 0
    nonlinear_solves: int = 0
    newton_iterations: int = 0
    function_evaluations: int = 0
    line_search_evaluations: int = 0
    assembly_seconds: float = 0.0
    set_up_seconds: float = 0.0
    solve_seconds: float = 0.0
    gradient_seconds: float = 0.0

    @property
    def seconds(self) -> float:
        """Wall-clock seconds of all parts together."""
        return sum(self.seconds_of(part) for part in SOLVER_PARTS)

    def seconds_of(self, part: str) -> float:
        """Wall-clock seconds of one of `SOLVER_PARTS`."""
        return float(getattr(self, f"{part}_seconds"))


@dataclass
class SolveReport:
    """Work of a `Solver` since it was made or reset, separately for forward and adjoint solves.

    The counters are plain numbers on this rank; iterations and set-ups are equal on all ranks that
    solve together.

    Parameters
    ----------
    forward : Counters, optional
        Solves, iterations, set-ups and seconds of forward solves. Default: all 0.
    adjoint : Counters, optional
        The same for adjoint solves.
    recomputed : Counters, optional
        The part of `forward` that was computed again in a backward pass. Default: all 0.
    timer : PartTimer, optional
        The clock that measures the seconds.

    Examples
    --------
    >>> import torch
    >>> from prdp_hpc import Solver, SparseOperator, solve
    >>> operator, solver = SparseOperator([0, 1], [0, 1], (2, 2)), Solver("cg", "none", 1e-8)
    >>> values, b = torch.tensor([2.0, 4.0]).double(), torch.ones(3, 2).double()
    >>> x = solve(operator, values, b, solver)
    >>> solver.report.forward.solves, solver.report.forward.iterations
    (3, 6)
    >>> solver.report.reset()
    >>> solver.report.forward.solves
    0
    """

    forward: Counters = field(default_factory=Counters)
    adjoint: Counters = field(default_factory=Counters)
    recomputed: Counters = field(default_factory=Counters)
    timer: PartTimer = field(default_factory=PartTimer, compare=False, repr=False)

    def part(self, direction: str, name: str) -> Any:
        """Measure a block as one part (`SOLVER_PARTS`) of a direction, "forward" or "adjoint"."""
        return _Part(self.timer, self.counters(direction), name)

    def counters(self, direction: str) -> Counters:
        """Return the counters of a direction, "forward" or "adjoint"."""
        return self.adjoint if direction == "adjoint" else self.forward

    @contextmanager
    def recomputation(self) -> Iterator[None]:
        """Count the forward solves of a block, which were done before, also in `recomputed`."""
        before = replace(self.forward)
        yield
        for name, earlier in vars(before).items():
            done = getattr(self.forward, name) - earlier
            setattr(self.recomputed, name, getattr(self.recomputed, name) + done)

    def reset(self) -> None:
        """Set all counters to zero."""
        self.forward, self.adjoint, self.recomputed = Counters(), Counters(), Counters()

    def state_dict(self) -> dict[str, Any]:
        """Return the counters as plain numbers."""
        names = ("forward", "adjoint", "recomputed")
        return {name: asdict(getattr(self, name)) for name in names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the counters of `state_dict()`."""
        self.forward, self.adjoint = Counters(**state["forward"]), Counters(**state["adjoint"])
        self.recomputed = Counters(**state.get("recomputed", {}))
