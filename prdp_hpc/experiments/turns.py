"""Several runs that train in turns, so that their times can be compared on a busy machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing

from prdp_hpc.distributed.preemption import Preempted, PreemptionWatch
from prdp_hpc.experiments.run import PreparedRun, run_log
from prdp_hpc.tasks.random_states import random_state, restore_random_state


def train_in_turns(runs: Sequence[PreparedRun], finish: Callable[[PreparedRun], object]) -> None:
    """Train runs of the same ranks, each from one validation to the next in its turn. Collective.

    Other load on the machine then affects all runs equally. Each run computes the same numbers as
    alone; its time includes its own turns only. The peak memory is that of all runs together.

    `finish` is called with each run at the end of its training. After a signal every run writes a
    checkpoint, before `Preempted` is raised.
    """
    stopped: Preempted | None = None
    with PreemptionWatch(runs[0].mesh.world) as watch, ExitStack() as stack:
        left = [_Turns(run, watch, stack) for run in runs]
        while left:
            for turns in tuple(left):
                try:
                    if turns.next():
                        continue
                    finish(turns.run)
                except Preempted as end:
                    stopped = end
                left.remove(turns)
        if stopped is not None:
            raise stopped


class _Turns:
    """The turns of one run."""

    def __init__(self, run: PreparedRun, watch: PreemptionWatch, stack: ExitStack) -> None:
        self.run, self._random = run, run.random
        self._parts = stack.enter_context(closing(run.trainer.in_parts(watch)))

    def next(self) -> bool:
        """Train until the next validation; False if the run had ended. Collective."""
        with run_log(self.run.config, self.run.mesh, self.run.folder):
            restore_random_state(self._random)
            try:
                next(self._parts)
            except StopIteration:
                return False
            self._random = random_state()
            return True
