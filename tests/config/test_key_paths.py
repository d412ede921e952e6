"""Usability: a wrong value is named by its key as it stands in the YAML, whatever unions, lists and
dictionaries it lies in.
"""

import itertools
import sys

import pytest

from prdp_hpc.config import ConfigError, Paper, validate
from prdp_hpc.config.experiment import validated
from prdp_hpc.config.models import Section

LADDERS = [
    {"kind": "iterations", "start": 1, "step": 2, "stop": 9},
    {"kind": "tolerances", "start": 0.1, "factor": 0.5, "stop": 1e-9},
    {"kind": "levels", "levels": [1, 5]},
]
NETWORKS = [
    {"kind": "mlp", "hidden": [8, 8], "activation": "relu"},
    {"kind": "resnet", "channels": 8, "blocks": 2, "activation": "relu"},
    {"kind": "unet", "channels": 8, "depth": 2, "activation": "relu"},
]
FLOW = {"viscosity": 1e-2, "dt": 0.1, "picard_iterations": 1, "gradient": "full"}
SIDES = {
    "axis_0": {
        "low": {"kind": "dirichlet", "value": 1.0},
        "high": {"kind": "robin", "coefficient": 2.0, "value": 1.0},
    },
    "axis_1": {"low": {"kind": "neumann", "flux": 1.0}},
}
DIFFUSION = {"diffusivity": 1.0, "boundaries": SIDES, "face_mean": "harmonic"}
PHYSICS = [
    {"pde": "heat", **DIFFUSION, "dt": 0.1, "source": 1.0, "theta": 0.5},
    {"pde": "burgers", **FLOW},
    {"pde": "navier_stokes", **FLOW},
]
# Names that are also words of pydantic's for a union's members.
NAMES = ["mlp", "levels", "int", "heat", "iterations"]
SOLVER = {"ksp": "cg", "pc": "none", "petsc_options": dict.fromkeys([*NAMES, "str"], 1)}


def sections(ladder):
    return {
        "grid": {"shape": [8, 8], "boundary": ["periodic"] * 2, "length": [1.0, 2.0]},
        "solver": SOLVER | {"differentiation": "implicit"},
        "refinement": {
            "schedule": "manual",
            "ladder": ladder,
            "adjoint_ladder": ladder,
            "adjoint_factor": 1.0,
            "step_threshold": 0.9,
            "stop_threshold": 0.9,
            "ema_window": 2,
            "error_window": 2,
            "level": 3,
            "manual": {0: 1, 5: 0.1},
        },
        "comparison": {
            "seeds": 2,
            "constant_levels": [2, 0.1],
            "baselines": {name: {"solver": SOLVER, "level": 2} for name in NAMES},
            "targets": {
                name: {"inner_iterations": 0.5, "solver_seconds": 0.5, "total_seconds": 0.5}
                for name in NAMES
            },
        },
        "parallel": {"grid_ranks": 1},
    }


def contents():
    """Configs in which every key of every section is given, in each kind of network, PDE and
    ladder.
    """
    for ladder, network, physics in itertools.product(LADDERS, NETWORKS, PHYSICS):
        data = {
            "file": "a.h5",
            "format": "hdf5",
            "train": 2,
            "validation": 2,
            "modes": 2,
            "seed": 1,
        }
        training = {
            "epochs": 2, "batch_size": 2, "learning_rate": 0.1, "schedule": "cosine", "decay": 0.5,
            "optimizer": "adam", "loss": "squared",
            "decay_steps": 3, "precision": "float64", "checkpoint_every": 1, "keep_checkpoints": 1,
        }  # fmt: skip
        common = {"name": "a", "seed": 1, "output": "runs", **sections(ladder)}
        if physics["pde"] == "heat":
            common["grid"] = common["grid"] | {"boundary": ["neumann"] * 2}
        supervised = common | {"network": network, "physics": physics, "training": training}
        yield supervised | {
            "task": "corrector",
            "corrector": {"unroll": 2, "validation_steps": [1, 2], "measure": "u"},
            "data": data | {"reference_factor": 1},
        }
        yield supervised | {"task": "emulator", "data": data, "network_inputs": ["coordinates"]}
        yield supervised | {"task": "own_components:Residual", "data": data}
    for ladder in LADDERS:
        inverse = {"modes": 2, "reference": [1.0, 2.0], "start": [1.0, 2.0]}
        yield {"task": "inverse", "name": "a", "seed": 1, "output": "runs"} | sections(ladder) | {
            "grid": {"shape": [8], "boundary": "neumann", "length": 1.0},
            "physics": {
                "pde": "poisson", **DIFFUSION, "boundaries": {"axis_0": SIDES["axis_0"]}
            },
            "training": {
                "epochs": 2, "learning_rate": 0.1, "checkpoint_every": 1, "keep_checkpoints": 1,
            },
            "inverse": inverse,
        }  # fmt: skip


def copied(value):
    """A copy whose parts are all its own; `deepcopy` keeps what two keys share."""
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    return [copied(item) for item in value] if isinstance(value, list) else value


def places(value, keys=()):
    """The path of every value in a nested structure."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in inner:
        yield (*keys, key)
        if isinstance(item, dict | list):
            yield from places(item, (*keys, key))


def spoiled(content, keys):
    """A copy with one value of a type that none of the keys takes; and with a key too many."""
    *outer, last = keys
    copies = copied(content), copied(content)
    for wrong, changed in zip(copies, (True, False), strict=True):
        inner = wrong
        for key in outer:
            inner = inner[key]
        if changed:
            inner[last] = 3.5 if isinstance(inner[last], dict) else {"no": {"such": "value"}}
        elif isinstance(inner[last], dict) and not open_ended(keys):
            inner[last]["channel"] = 1
        else:
            wrong.clear()
    return copies


def open_ended(keys):
    """Whether the user names the keys there."""
    return keys[-1] in ("petsc_options", "manual", "baselines", "targets", "experiments")


def message(check, content):
    with pytest.raises(ConfigError) as caught:
        check(content)
    return str(caught.value)


def given_fields(model):
    """The keys of the models that take a part in a validated config."""
    kinds = [kind for kind in type(model).__mro__ if issubclass(kind, Section)]
    for name in type(model).model_fields:
        yield from ((kind, name) for kind in kinds if name in kind.model_fields)
        value = getattr(model, name)
        for inner in value.values() if isinstance(value, dict) else [value]:
            if isinstance(inner, Section):
                yield from given_fields(inner)


def subclasses(kind):
    return {kind}.union(*(subclasses(inner) for inner in kind.__subclasses__()))


def test_each_key_of_each_model_is_named_by_its_path():
    seen, tried = set(), set()
    listed = {"experiments": {name: {"config": "a.yaml", "quick": ["a=1"]} for name in NAMES}}
    cases = [(lambda content: validate(content, "here"), content) for content in contents()]
    cases.append((lambda content: validated(Paper, content, "here"), listed))
    for check, content in cases:
        seen.update(given_fields(check(content)))
        for keys in places(content):
            wrong, extra = spoiled(content, keys)
            # The same part of another config says nothing new.
            if repr((keys, wrong, extra)) in tried:
                continue
            tried.add(repr((keys, wrong, extra)))
            dotted = ".".join(map(str, keys))
            assert message(check, wrong).startswith(f"here: {dotted}: ")
            if extra:
                told = message(check, extra)
                assert told.startswith(f"here: {dotted}.channel: unknown key; "), told
    # Copies of models with those of components in them are nobody's to name.
    defined = {
        model
        for model in subclasses(Section)
        if getattr(sys.modules[model.__module__], model.__name__, None) is model
        and not model.__name__.startswith("_")
    }
    assert seen >= {(model, name) for model in defined for name in model.model_fields}
