"""Creation of an optimiser, and steps of optimisers that evaluate the loss themselves."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from mpi4py import MPI
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector
from torch.optim import Optimizer

from prdp_hpc.distributed.shards import is_shard, part_like
from prdp_hpc.errors import InputError, returned
from prdp_hpc.tasks.recipe import Recipe


def make_optimiser(network: nn.Module, recipe: Recipe) -> Optimizer:
    """Create the optimiser of a recipe for the parameters of a network.

    Raises
    ------
    InputError
        For arguments that the optimiser does not accept.
    """
    parameters: Any = network.parameters()
    if recipe.weight_decay_on == "weights":
        parameters = _groups(network)
    try:
        optimiser = recipe.optimizer(parameters, lr=recipe.learning_rate)
    except (TypeError, ValueError) as problem:
        raise InputError(f"training.optimizer: {problem}") from None
    if not isinstance(optimiser, Optimizer):
        name = "training.optimizer: the class or function"
        raise returned(name, "a torch.optim.Optimizer", optimiser)
    _check_numbers(optimiser)
    if recipe.weight_decay_on == "weights" and "weight_decay" not in optimiser.defaults:
        raise InputError(
            f"training.weight_decay_on: {type(optimiser).__name__} has no weight decay: leave the "
            "key out"
        )
    if recipe.clip_norm is not None and needs_closure(optimiser):
        raise InputError(
            f"training.clip_norm: {type(optimiser).__name__} compares losses along the gradient, "
            "which must therefore not be clipped: leave the key out"
        )
    if needs_closure(optimiser) and any(is_shard(p) for p in network.parameters()):
        raise InputError(
            f"training.optimizer: {type(optimiser).__name__} evaluates the loss itself and needs "
            "all parameters on one rank, which a sharded network does not have: choose another "
            "optimiser, e.g. AdamW, or leave parallel.shard_network out"
        )
    if needs_closure(optimiser):
        # It computes with one vector of all parameters, of which each must be a view.
        for parameter in network.parameters():
            parameter.data = parameter.data.contiguous()
    return optimiser


def _check_numbers(optimiser: Optimizer) -> None:
    """Raise `InputError` for an argument that is NaN, which classes of torch may accept."""
    for key, value in optimiser.defaults.items():
        numbers = value if isinstance(value, list | tuple) else [value]
        if any(isinstance(number, float) and math.isnan(number) for number in numbers):
            raise InputError(f"training.optimizer: {key} must be a number, not {value!r}")


def _groups(network: nn.Module) -> list[dict[str, Any]]:
    """Parameters with two or more axes, and the others (biases and normalisations) without decay.

    A group without parameters is left out.
    """
    parameters = list(network.parameters())
    weights = [p for p in parameters if p.dim() > 1]
    others = [p for p in parameters if p.dim() <= 1]
    groups: list[dict[str, Any]] = [
        {"params": weights},
        {"params": others, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def load_optimiser(optimiser: Optimizer, state: dict[str, Any]) -> None:
    """Load `optimiser.state_dict()` with the types of its numbers and the memory format of the
    parameters.

    torch casts them to the type of the parameters, after which e.g. a counter that was stored in
    float32 is rounded differently than in an uninterrupted run. Fused optimisers pair the numbers
    of a parameter and of its state by their places in memory, which differ after a broadcast for
    parameters in another memory format. Of the whole tensors for parameters of a sharded network,
    the parts of this rank are loaded.
    """
    order = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    state = {**state, "state": _parts(state["state"], state["param_groups"], order)}
    optimiser.load_state_dict(state)
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    for number, parameter in zip(numbers, order, strict=True):
        for key, value in state["state"].get(number, {}).items():
            loaded = optimiser.state[parameter][key]
            if isinstance(value, Tensor) and loaded.dtype != value.dtype:
                loaded = value.to(loaded.device, copy=True)
            optimiser.state[parameter][key] = _placed_as(parameter, loaded)


def _placed_as(parameter: Tensor, loaded: Any) -> Any:
    """A state of the shape of a parameter, in the same memory format."""
    is_alike = isinstance(loaded, Tensor) and loaded.shape == parameter.shape
    if not is_alike or is_shard(parameter) or loaded.stride() == parameter.stride():
        return loaded
    return torch.empty_like(parameter, dtype=loaded.dtype, device=loaded.device).copy_(loaded)


def _parts(
    states: dict[int, dict[str, Any]], groups: Sequence[dict[str, Any]], order: Sequence[Tensor]
) -> dict[int, dict[str, Any]]:
    """The states of parameters, divided as the parameters are."""
    numbers = [number for group in groups for number in group["params"]]
    found = dict(states)
    for number, parameter in zip(numbers, order, strict=True):
        if number in states and is_shard(parameter):
            found[number] = {
                key: part_like(value, parameter)
                if isinstance(value, Tensor) and value.shape == parameter.shape
                else value
                for key, value in states[number].items()
            }
    return found


def do_step(optimiser: Optimizer) -> None:
    """Do a step of an optimiser that does not evaluate the loss.

    Raises
    ------
    InputError
        If the optimiser cannot compute with the parts of a sharded network.
    """
    try:
        optimiser.step()
    except (RuntimeError, NotImplementedError) as error:
        if not any(is_shard(p) for group in optimiser.param_groups for p in group["params"]):
            raise
        raise InputError(
            f"training.optimizer: {type(optimiser).__name__} cannot compute with the parts of a "
            f"sharded network: choose another one, e.g. AdamW ({str(error).splitlines()[0]})"
        ) from error


def needs_closure(optimiser: Optimizer) -> bool:
    """Whether a step of the optimiser evaluates the loss itself, as that of L-BFGS does."""
    closure = inspect.signature(optimiser.step).parameters.get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty


class ClosureSteps:
    """Steps of an optimiser that evaluates the loss several times, e.g. `torch.optim.LBFGS`.

    Only rank 0 runs the optimiser: how often it evaluates the loss depends on the numbers, and
    rounding may differ between ranks. For each evaluation the other ranks receive its parameters,
    so that all ranks evaluate the same loss, which is collective.

    Parameters
    ----------
    optimiser : the optimiser, whose state changes on rank 0 only.
    parameters : the parameters of the network.
    comm : all ranks.

    Attributes
    ----------
    evaluations : number of evaluations since the start of the process.
    """

    def __init__(
        self, optimiser: Optimizer, parameters: Sequence[nn.Parameter], comm: MPI.Comm
    ) -> None:
        self._optimiser, self._parameters, self._comm = optimiser, parameters, comm
        self.evaluations = 0

    def step(self, evaluate: Callable[[], float]) -> None:
        """Do a step; collective. `evaluate` sets the gradients and returns the loss of the batch,
        equal on all ranks.
        """
        if self._comm.rank == 0:
            self._optimiser.step(lambda: self._evaluated(evaluate))
        else:
            while self._comm.bcast(None):
                self._receive()
                self._count(evaluate)
            # The learning rate's schedule counts the steps of the optimiser.
            self._optimiser._opt_called = True  # type: ignore[attr-defined]
        if self._comm.rank == 0:
            self._comm.bcast(False)
        self._receive()

    def _evaluated(self, evaluate: Callable[[], float]) -> float:
        self._comm.bcast(True)
        self._receive()
        # The line search of torch switches recording off.
        with torch.enable_grad():
            return self._count(evaluate)

    def _count(self, evaluate: Callable[[], float]) -> float:
        self.evaluations += 1
        return evaluate()

    def _receive(self) -> None:
        """Set the parameters to those of rank 0; collective."""
        if self._comm.size == 1:
            return
        with torch.no_grad():
            vector = parameters_to_vector(self._parameters)
            host = vector.cpu().numpy()
            self._comm.Bcast(host)
            start = 0
            for parameter in self._parameters:
                part = torch.from_numpy(host[start : start + parameter.numel()])
                parameter.copy_(part.view_as(parameter))
                start += parameter.numel()
