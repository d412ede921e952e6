"""Optimisers and learning-rate schedules of torch by their names.

The names are listed here, so that a config is validated without loading torch. Only a config that
sets keys of such a class loads torch, since the keys are the arguments of its constructor.
"""

from __future__ import annotations

import importlib
import inspect
from functools import cache, partial
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, create_model

from prdp_hpc.config.models import as_number
from prdp_hpc.config.torch_bounds import bounded

OPTIMIZERS = (
    "ASGD",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "LBFGS",
    "Muon",
    "NAdam",
    "RAdam",
    "RMSprop",
    "Rprop",
    "SGD",
)
"""Classes of torch.optim; all but those for sparse gradients."""
RATES = (
    "ConstantLR",
    "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts",
    "CyclicLR",
    "ExponentialLR",
    "LinearLR",
    "MultiStepLR",
    "OneCycleLR",
    "PolynomialLR",
    "ReduceLROnPlateau",
    "StepLR",
)
"""Classes of torch.optim.lr_scheduler; all but those that are made from functions or schedules."""

_MODULES = dict.fromkeys(OPTIMIZERS, "torch.optim") | dict.fromkeys(
    RATES, "torch.optim.lr_scheduler"
)
# Arguments that the task gives, that a checkpoint restores, or that are functions.
_OTHERS = {"self", "params", "lr", "optimizer", "last_epoch", "scale_fn"}
_Number = Annotated[float, BeforeValidator(as_number)]
_TYPES: dict[type, Any] = {
    bool: bool,
    int: Annotated[int | float, BeforeValidator(as_number)],
    float: _Number,
    str: str,
    tuple: tuple[Annotated[float | None, BeforeValidator(as_number)], ...],
}


def __getattr__(name: str) -> type[BaseModel]:
    """The model of the keys of a class; its attribute `component` locates the class."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _model(name)


@cache
def _model(name: str) -> type[BaseModel]:
    kind = getattr(importlib.import_module(_MODULES[name]), name)
    fields: dict[str, Any] = {}
    for key, argument in inspect.signature(kind.__init__).parameters.items():
        if key in _OTHERS:
            continue
        if argument.default is inspect.Parameter.empty:
            fields[key] = (_bounded(key, _ANY), ...)
        else:
            fields[key] = (_bounded(key, _type(argument.default)), argument.default)
    made: type[BaseModel] = create_model(
        name,
        __base__=BaseModel,
        __config__=ConfigDict(extra="forbid", frozen=True),
        __module__=__name__,
        __doc__=f"The arguments of `{_MODULES[name]}.{name}`.",
        **fields,
    )
    setattr(made, "component", f"{_MODULES[name]}:{name}")  # noqa: B010 - no field of the model
    return made


def _type(default: Any) -> Any:
    """The type of an argument, from its default."""
    return _TYPES.get(type(default), _ANY)


def _bounded(key: str, kind: Any) -> Any:
    """The type of an argument, whose numbers must be within its bounds."""
    return Annotated[kind, AfterValidator(partial(bounded, key))]


def _plain(value: Any) -> Any:
    """Accept `1e-3`, which YAML 1.1 reads as text, also in lists."""
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value if isinstance(value, bool) else as_number(value)


_ANY = Annotated[Any, BeforeValidator(_plain)]
