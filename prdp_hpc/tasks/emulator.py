"""The emulator: a network that learns one time step of a PDE, trained through the PDE's solver.

In all of its training chains `û^0 = u^0` is the first state of a sample, `û^s = net(û^{s−1})`, and
P is a time step of the solver at its level. `l` is the loss of the recipe.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from prdp_hpc.console import note
from prdp_hpc.data import TrajectoryDataset
from prdp_hpc.distributed.process_mesh import ProcessMesh
from prdp_hpc.errors import InputError
from prdp_hpc.physics.stepper import Stepper
from prdp_hpc.tasks.recipe import Recipe
from prdp_hpc.tasks.supervised import SupervisedTask
from prdp_hpc.tasks.task import Parts
from prdp_hpc.tasks.validation import relative


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


class Emulator(SupervisedTask):
    """Train a network that replaces one time step of a PDE.

    By default the chain is `û¹ = net(u⁰)`, `û² = P(û¹)`, and the loss is `mean((û² − u²)²)`. `P`
    is a time step at the solver's level; the mean is over the batch, the channels and the whole
    grid. `Recipe` selects another loss and `chain` another chain. Validation applies the network
    alone for two steps. The error of step s is the mean over samples of
    `‖û^s − u^s‖² / ‖u^{s−1}‖²`; the schedule receives that of step 2.

    Parameters
    ----------
    stepper : Stepper
        Time step of the PDE, with the solver that the schedule refines.
    network : torch.nn.Module
        Network on whole fields or on parts, see `Network`. It is moved to the mesh's device.
    data : TrajectoryDataset
        Trajectories of the groups "train" and "validation" with at least 2 steps. Without "train"
        the task can only validate.
    mesh : ProcessMesh
        The ranks: replicas × grid ranks.
    recipe : Recipe, optional
        Optimiser, learning rate, loss, batch size and precision. Default: `Recipe()`.
    inputs : Tensor, optional
        Further input fields of the network of shape `(E, *local_shape)`, after the channels of the
        state. Default: none.
    chain : Chain, optional
        Network and solver steps of the loss, see `Chain`. Default: `MixedChain()`.

    Attributes
    ----------
    steps : int
        Number of time steps of a sample: 2.

    Raises
    ------
    DataError
        If trajectories have too few steps or other channels than the PDE, or if a state is zero
        everywhere.
    InputError
        If the network returns another number of channels.

    References
    ----------
    Progressively Refined Differentiable Physics (PRDP), ICLR 2025, section on the heat emulator.

    Examples
    --------
    >>> import numpy
    >>> from prdp_hpc import Emulator, Grid, Heat, MLP, ProcessMesh, Solver, TrajectoryFile
    >>> from prdp_hpc.data import TrajectoryAttributes, write_trajectories
    >>> groups = {"train": numpy.ones((4, 3, 1, 16)), "validation": numpy.ones((2, 3, 1, 16))}
    >>> about = TrajectoryAttributes("mine", (16,), "dirichlet", 1.0, {}, ("u",), "Euler")
    >>> write_trajectories("ones.h5", groups, about)
    >>> mesh = ProcessMesh.from_world()
    >>> heat = Heat(Grid((16,), comm=mesh.grid_comm), 0.1, 0.01, Solver("cg", "jacobi"))
    >>> task = Emulator(heat, MLP(16, 16, (8,)), TrajectoryFile("ones.h5"), mesh)
    >>> task.solver.refine(2)
    >>> loss = task.train_epoch(1)
    >>> sorted(task.validate())
    ['error', 'error_1', 'error_2']
    >>> mesh.close()
    """

    steps = 2

    def __init__(
        self,
        stepper: Stepper,
        network: nn.Module,
        data: TrajectoryDataset,
        mesh: ProcessMesh,
        recipe: Recipe | None = None,
        inputs: Tensor | None = None,
        *,
        chain: Chain | None = None,
    ) -> None:
        self._chain = MixedChain() if chain is None else chain
        self.window = self._chain.window
        super().__init__(stepper, network, data, mesh, recipe, inputs)

    @classmethod
    def from_config(cls, section: Any, parts: Parts) -> Emulator:
        """Create the emulator of a config; collective.

        Parameters
        ----------
        section : None
            Not used.
        parts : Parts
            Grid, stepper, network, data and the other components of the config.

        Returns
        -------
        Emulator
            The task.
        """
        keys = parts.config.emulator
        chain, refinement = chain_of(keys.chain, keys.unroll, keys.every), parts.config.refinement
        if (
            chain.solver_steps == 0
            and refinement.schedule_name != "constant"
            and parts.mesh.is_root
        ):
            note(
                f"emulator.chain: {keys.chain} trains without solver steps, so refinement.schedule "
                "has nothing to refine and saves nothing"
            )
        # First: data may have to be generated, which needs memory for reference solutions.
        data = parts.data
        return cls(
            parts.stepper(),
            parts.network,
            data,
            parts.mesh,
            parts.recipe,
            parts.inputs,
            chain=chain,
        )

    def sample_errors(self, trajectories: Tensor) -> dict[str, NDArray[np.float64]]:
        """Compute the normalised squared errors of each sample; collective.

        Parameters
        ----------
        trajectories : Tensor
            States of shape `(b, steps + 1, C, *local_shape)`.

        Returns
        -------
        dict
            Arrays of shape `(b,)`: `error_1` and `error_2` after 1 and 2 steps of the network
            alone, and `error`, which is `error_2`.
        """
        return self._errors_after(trajectories, range(1, self.steps + 1))

    def zero_reference(self, trajectories: Tensor) -> tuple[int, str] | None:
        """Find a sample with a state that is zero everywhere, see `SupervisedTask`."""
        for step, squares in enumerate(self._scales(trajectories)):
            if not squares.all():
                return int(np.argmin(squares)), f"step {step}"
        return None

    def advance(self, state: Tensor) -> Tensor:
        """Return `net(u)`; collective.

        Parameters
        ----------
        state : Tensor
            This rank's part of the states, of shape `(b, C, *local_shape)`; b may be 0.

        Returns
        -------
        Tensor
            The next states, of the same shape.
        """
        # A replica may have no samples, but all ranks have to call a sharded network.
        return self.network_on(state) if state.shape[0] or self._parallel.sharded else state

    def step_errors(
        self, step: int, prediction: Tensor, truth: Tensor, before: Tensor
    ) -> dict[str, NDArray[np.float64]]:
        """Compute `‖û^s − u^s‖² / ‖u^{s−1}‖²` of predicted states; collective.

        Parameters
        ----------
        step : int
            Number s of the time step, from 1.
        prediction, truth : Tensor
            The predicted and the true state after this step, `(b, C, *local_shape)`.
        before : Tensor
            The true state before this step, of the same shape.

        Returns
        -------
        dict
            The array `error_<step>` of shape `(b,)`.
        """
        difference = self.squares(prediction - truth).sum(axis=1)
        return {f"error_{step}": relative(difference, self.squares(before).sum(axis=1))}

    def local_loss(self, trajectories: Tensor) -> Tensor:
        """Compute the loss of a batch by the chain.

        Parameters
        ----------
        trajectories : Tensor
            States of shape `(b, window, C, *local_shape)`.

        Returns
        -------
        Tensor
            Sum over samples, channels and this rank's points, of shape `()`.
        """
        return self._chain.loss(self, trajectories)

    def _scales(self, trajectories: Tensor) -> list[NDArray[np.float64]]:
        """The scales of the errors of each step: the squared norms of the previous state."""
        return [self.squares(trajectories[:, step]).sum(axis=1) for step in range(self.steps)]
