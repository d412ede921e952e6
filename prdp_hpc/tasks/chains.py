"""Training chains of an emulator: which network and solver steps its loss consists of.

In all of them `û^0 = u^0` is the first state of a sample, `û^s = net(û^{s−1})`, and P is a time
step of the solver at its level. `l` is the loss of the recipe.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from prdp_hpc.errors import InputError


class Steps(Protocol):
    """What a chain consists of; `SupervisedTask` has these methods."""

    def network_on(self, state: Tensor) -> Tensor:
        """Apply the network."""
        ...

    def step(self, state: Tensor) -> Tensor:
        """Compute a time step of the solver."""
        ...

    def pointwise_loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Compute the loss."""
        ...


class Chain(Protocol):
    """Interface of a chain.

    Attributes
    ----------
    window : number of states that a sample needs.
    solver_steps : number of time steps of the solver per sample.
    """

    @property
    def window(self) -> int:
        """Number of states that a sample needs."""
        ...

    @property
    def solver_steps(self) -> int:
        """Number of time steps of the solver per sample."""
        ...

    def loss(self, task: Steps, trajectories: Tensor) -> Tensor:
        """Return this rank's sum of the loss of samples `(b, ≥ window, C, *local_shape)`."""
        ...


@dataclass(frozen=True)
class MixedChain:
    """The solver's step after n network steps: `l(P(û^n), u^{n+1})`.

    `unroll`: n; default 1, the chain of the PRDP paper.
    """

    unroll: int = 1
    solver_steps: int = 1

    @property
    def window(self) -> int:
        """Number of states that a sample needs."""
        return self.unroll + 2

    def loss(self, task: Steps, trajectories: Tensor) -> Tensor:
        """Return this rank's sum of the loss."""
        state = trajectories[:, 0]
        for _ in range(self.unroll):
            state = task.network_on(state)
        return task.pointwise_loss(task.step(state), trajectories[:, self.unroll + 1])


@dataclass(frozen=True)
class RolloutChain:
    """The network alone against the data: `Σ_{s=1..n} l(û^s, u^s)`; no solver steps.

    `unroll`: n; with the default 1 it is one-step training.
    """

    unroll: int = 1
    solver_steps: int = 0

    @property
    def window(self) -> int:
        """Number of states that a sample needs."""
        return self.unroll + 1

    def loss(self, task: Steps, trajectories: Tensor) -> Tensor:
        """Return this rank's sum of the loss."""
        state, losses = trajectories[:, 0], []
        for step in range(1, self.unroll + 1):
            state = task.network_on(state)
            losses.append(task.pointwise_loss(state, trajectories[:, step]))
        return sum(losses[1:], losses[0])


@dataclass(frozen=True)
class DivertedChain:
    """The network against the solver from the network's own states,
    `Σ_{s=0,k,2k,…<n} l(û^{s+1}, P(û^s))`.

    It needs only initial states, and is differentiated through network and solver.

    `unroll`: n, default 1; `every`: k, default 1.

    Source: Koehler et al., APEBench, NeurIPS 2024, where it is called diverted chain.
    """

    unroll: int = 1
    every: int = 1
    window: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.every <= self.unroll:
            raise InputError(
                f"a diverted chain needs 1 ≤ every ≤ unroll, not every={self.every} and "
                f"unroll={self.unroll}"
            )

    @property
    def solver_steps(self) -> int:
        """Number of time steps of the solver per sample."""
        return -(-self.unroll // self.every)

    def loss(self, task: Steps, trajectories: Tensor) -> Tensor:
        """Return this rank's sum of the loss."""
        state, losses = trajectories[:, 0], []
        for step in range(self.unroll):
            following = task.network_on(state)
            if step % self.every == 0:
                losses.append(task.pointwise_loss(following, task.step(state)))
            state = following
        return sum(losses[1:], losses[0])


def chain_of(kind: str, unroll: int, every: int) -> Chain:
    """The chain that the section `emulator` of a config names."""
    if kind == "mixed":
        return MixedChain(unroll)
    return DivertedChain(unroll, every) if kind == "diverted" else RolloutChain(unroll)
