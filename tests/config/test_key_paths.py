"""Usability: the message for a wrong value contains its key as in the YAML file, within any unions,
lists and dictionaries.
"""

import itertools
import sys

import pytest

from prdp_hpc.config import ConfigError, Paper, validate
from prdp_hpc.config.errors import validated
from prdp_hpc.config.models import Section
from prdp_hpc.config.site import Site

LADDERS = [
    {"kind": "iterations", "start": 1, "step": 2, "stop": 9},
    {"kind": "tolerances", "start": 0.1, "factor": 0.5, "stop": 1e-9},
    {"kind": "levels", "levels": [1, 5]},
]
LOSSES = [
    {"kind": "huber", "delta": 0.5},
    {"kind": "h1", "weight": 0.5},
    {"kind": "spectral", "order": -1.0},
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
NEWTON = {"refines": "inner", "level": 3, "inner": 0.1}
FLUXES = {"axis_0": {"low": {"kind": "neumann", "flux": 1.0}}}
DIFFUSION = {"diffusivity": 1.0, "boundaries": SIDES, "face_mean": "harmonic"}
PHYSICS = [
    {"pde": "heat", **DIFFUSION, "dt": 0.1, "source": 1.0, "theta": 0.5},
    {"pde": "allen_cahn", "interface": 0.1, "dt": 0.5, "boundaries": FLUXES, "newton": NEWTON},
    {
        "pde": "nonlinear_diffusion", "diffusivity": 1.0, "dt": 0.1, "law": "power",
        "exponent": 2.0, "boundaries": FLUXES, "newton": NEWTON,
    },
    {"pde": "burgers", **FLOW, "boundaries": FLUXES},
    {"pde": "burgers", **FLOW, "nonlinear": "newton", "newton": NEWTON},
    {"pde": "navier_stokes", **FLOW},
]  # fmt: skip
PARTS = {
    "exclude_validation": [1], "exclude_test": [2], "validation": 1, "test": 0.5,
    "channels": ["u"], "subsample": 2, "subsample_time": 2,
}  # fmt: skip
FORMATS = [
    {"kind": "pdebench", **PARTS, "exclude": [1], "axes": ["x", "y"]},
    {
        "kind": "the_well", **PARTS, "exclude": [1], "axes": ["x"],
        "parameters": {"a": 1.0},
    },
    {"kind": "apebench", **PARTS, "exclude": [1], "axes": ["x"]},
    {"kind": "numpy", **PARTS, "exclude": [1], "layout": ["sample", "time", "x"]},
    *[
        {
            "kind": kind, **PARTS, "exclude": [1], "variables": ["u"], "dims": {"x": "lon"},
            "group": "a",
        }
        for kind in ("netcdf", "zarr")
    ],
]  # fmt: skip
WELLS = [[{"position": [0.2, 0.3], "rate": 1.0}], [{"position": [0.5, 1.5], "rate": -1.0}]]
EXPERIMENTS = {
    "file": None, "count": 2, "noise": 0.1, "reference_factor": 2,
    "sides": [{"axis": 0, "end": "low", "values": [1.0, 2.0]}],
}  # fmt: skip
FIELDS = [
    {
        "experiments": {**EXPERIMENTS, "wells": WELLS, "points": [[0.1, 0.2], [0.5, 0.5]]},
        "unknown": {"kind": "field", "start": 1.0},
        "regularisation": {"kind": "h1", "weight": 2.0},
    },
    {
        "experiments": {**EXPERIMENTS, "wells": 3, "points": 4},
        "unknown": {"kind": "network", "features": 4, "bandwidth": 2.0, "hidden": [8, 8]},
        "regularisation": {"kind": "tv", "weight": 2.0, "smoothing": 0.2},
    },
]
# Names that pydantic also uses for members of unions.
NAMES = ["mlp", "levels", "int", "heat", "iterations"]
SOLVER = {"ksp": "cg", "pc": "none", "petsc_options": dict.fromkeys([*NAMES, "str"], 1)}


def sections(ladder):
    return {
        "grid": {"shape": [8, 8], "boundary": ["periodic"] * 2, "length": [1.0, 2.0]},
        "solver": SOLVER
        | {"differentiation": "implicit", "lag_preconditioner": "auto", "initial_guess": "last"},
        "refinement": {
            "schedule": "manual",
            "ladder": ladder,
            "adjoint_ladder": ladder,
            "adjoint_factor": 1.0,
            "step_threshold": 0.9,
            "stop_threshold": 0.9,
            "ema_window": 2,
            "error_window": 2,
            "theta": 0.2,
            "theta_noise": 1.5,
            "probe_share": 0.2,
            "level": 3,
            "manual": {0: 1, 5: 0.1},
        },
        "comparison": {
            "seeds": 2,
            "schedules": ["prdp", "gradient"],
            "constant_levels": [2, 0.1],
            "baselines": {name: {"solver": SOLVER, "level": 2} for name in NAMES},
            "targets": {
                name: {"inner_iterations": 0.5, "solver_seconds": 0.5, "total_seconds": 0.5}
                for name in NAMES
            },
        },
        "parallel": {"grid_ranks": 1, "gradients": "auto", "shard_network": False},
        "logging": {"level": "info", "per_rank": True},
        "tracking": [
            "tensorboard",
            {"kind": "tensorboard"},
            {
                "kind": "wandb",
                "project": "a",
                "entity": "b",
                "mode": "offline",
                "group": "c",
                "tags": ["d"],
            },
            {"kind": "mlflow", "uri": "file:a", "experiment": "b"},
        ],
    }


def contents():
    """Configs in which every key of every section is given, with each type of network, PDE and
    ladder.
    """
    losses = itertools.cycle(LOSSES)
    kinds = zip(itertools.cycle(LADDERS), itertools.cycle(NETWORKS), PHYSICS, strict=False)
    for ladder, network, physics in kinds:
        data = {
            "file": "a.h5",
            "format": "hdf5",
            "train": 2,
            "validation": 2,
            "test": 2,
            "modes": 2,
            "seed": 1,
        }
        training = {
            "epochs": 2, "batch_size": 2, "learning_rate": 0.1, "schedule": "cosine", "decay": 0.5,
            "optimizer": "adam", "loss": "squared",
            "decay_steps": 3, "precision": "float64", "checkpoint_every": 1, "keep_checkpoints": 1,
            "steps": 9, "validate_every": "5 steps", "log_every": 2, "keep_best": False,
            "early_stopping": {"patience": 2, "min_change": 0.1},
            "warmup_steps": 2, "clip_norm": 0.1, "accumulate": 2, "weight_decay_on": "weights",
            "ema": 0.9, "compile": False, "checkpoint_activations": True,
            "init_from": "runs/b",
        }  # fmt: skip
        common = {"name": "a", "seed": 1, "output": "runs", **sections(ladder)}
        if "boundaries" in physics:
            common["grid"] = common["grid"] | {"boundary": ["neumann"] * 2}
        supervised = common | {"network": network, "physics": physics, "training": training}
        yield supervised | {
            "task": "corrector",
            "corrector": {"unroll": 2, "validation_steps": [1, 2], "measure": "u"},
            "data": data | {"reference_factor": 1},
        }
        chain = {"chain": "diverted", "unroll": 3, "every": 2}
        yield supervised | {
            "task": "emulator",
            "emulator": chain,
            "data": data,
            "network_inputs": ["coordinates"],
            "training": training | {"loss": next(losses)},
        }
        yield supervised | {"task": "own_components:Residual", "data": data}
    for form in FORMATS:
        yield {
            "task": "emulator",
            "name": "a",
            "grid": {"shape": [8]},
            "physics": {"pde": "heat", "diffusivity": 1.0, "dt": 0.1},
            "data": {"file": "a.h5", "format": form},
        }
    for ladder in LADDERS[:1]:
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
        optimizers = ["adam", {"kind": "lbfgs", "history": 3, "evaluations": 5}]
        for kinds, optimizer in zip(FIELDS, optimizers, strict=True):
            yield {"task": "field_inversion", "name": "a", "seed": 1, "output": "runs"} | sections(
                ladder
            ) | {
                "grid": {"shape": [8, 8], "boundary": ["neumann"] * 2, "length": [1.0, 2.0]},
                "physics": {"pde": "poisson", **DIFFUSION},
                "truth": {"kind": "channels", "contrast": 10.0, "waves": 2.0, "modes": 3},
                "validation": {"experiments": 1, "points": None, "tolerance": 1e-3},
                **kinds,
                "training": {
                    "epochs": 2, "steps": 3, "learning_rate": 0.1, "optimizer": optimizer,
                    "schedule": "cosine", "decay": 0.5, "decay_steps": 3,
                    "checkpoint_every": 1, "keep_checkpoints": 1,
                },
            }  # fmt: skip
    yield {
        "name": "a",
        "grid": {"shape": [8, 8]},
        "physics": {"pde": "poisson", "diffusivity": 1.0},
        "truth": {"kind": "gaussian", "contrast": 10.0, "waves": 1.0, "modes": 2},
        "network_inputs": [],
        "task": "amortised_inversion",
        "experiments": {"wells": WELLS, "points": 2, "noise": 0.1, "reference_factor": 1},
        "data": {"train": 2, "validation": 2, "seed": 1},
    }


SITE = {
    "modules": ["gcc"],
    "launcher": "srun",
    "mpi": "pmix",
    "container_runtime": "pyxis",
    "container_options": ["--bind"],
    "defaults": {
        "account": "a", "partition": "b", "qos": "c", "constraint": "d", "time": "1:00:00",
        "mem": "1G", "cpus_per_task": 2, "gpus_per_node": 4, "exclusive": True,
        "sbatch": {"hint": "nomultithread"},
    },
}  # fmt: skip


OPTIONAL = ("solver", "refinement", "comparison", "parallel", "logging", "tracking")


def shortened(content, section):
    """The config without other sections that have defaults, since it is validated for each key."""
    return {key: part for key, part in content.items() if key == section or key not in OPTIONAL}


def copied(value):
    """A copy without shared parts; `deepcopy` preserves sharing between keys."""
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
    """A copy with one value of a type that no key accepts, and a copy with an additional key."""
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
    """Whether the keys of this section are chosen by the user."""
    return keys[-1] in (
        "sbatch", "petsc_options", "manual", "baselines", "targets", "experiments", "dims",
        "parameters",
    )  # fmt: skip


def message(check, content):
    with pytest.raises(ConfigError) as caught:
        check(content)
    return str(caught.value)


def given_fields(model):
    """The keys of the models in a validated config."""
    kinds = [kind for kind in type(model).__mro__ if issubclass(kind, Section)]
    for name in type(model).model_fields:
        yield from ((kind, name) for kind in kinds if name in kind.model_fields)
        for inner in sections_in(getattr(model, name)):
            yield from given_fields(inner)


def sections_in(value):
    """The models in the value of a key."""
    if isinstance(value, Section):
        yield value
    elif isinstance(value, dict | list | tuple):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from sections_in(inner)


def subclasses(kind):
    return {kind}.union(*(subclasses(inner) for inner in kind.__subclasses__()))


def test_each_key_of_each_model_is_named_by_its_path():
    seen, tried = set(), set()
    listed = {"experiments": {name: {"config": "a.yaml", "quick": ["a=1"]} for name in NAMES}}
    cases = [(lambda content: validate(content, "here"), content) for content in contents()]
    cases.append((lambda content: validated(Paper, content, "here"), listed))
    cases.append((lambda content: validated(Site, content, "here"), SITE))
    for check, content in cases:
        seen.update(given_fields(check(content)))
        for keys in places(content):
            # The same section in another config of the task adds nothing.
            case = repr((content.get("task"), keys, content[keys[0]]))
            if case in tried:
                continue
            tried.add(case)
            wrong, extra = spoiled(shortened(content, keys[0]), keys)
            dotted = ".".join(map(str, keys))
            assert message(check, wrong).startswith(f"here: {dotted}: ")
            if extra:
                reported = message(check, extra)
                assert reported.startswith(f"here: {dotted}.channel: unknown key; "), reported
    # Copies of models that contain the models of components have no names in modules.
    defined = {
        model
        for model in subclasses(Section)
        if getattr(sys.modules[model.__module__], model.__name__, None) is model
        and not model.__name__.startswith("_")
    }
    assert seen >= {(model, name) for model in defined for name in model.model_fields}
