"""Changes of a small config, one or more for each key of the recipe, for tests of resumes."""

import tiny

RESNET = {"kind": "resnet", "channels": 3, "blocks": 1}
GMRES = {"ksp": "gmres", "pc": "jacobi"}
TOLERANCES = {"ladder": {"kind": "tolerances", "start": 0.1, "stop": 1e-6}}
FIRST = "first"  # stands for the folder of a run that ended before
DROPOUT = """
from torch import nn


class Dropped(nn.Sequential):
    def __init__(self, in_channels, out_channels):
        layers = (nn.ConvNd(in_channels, 4, 1), nn.Dropout(0.5), nn.ConvNd(4, out_channels, 1))
        super().__init__(*layers)
"""


def training(**keys):
    return {"training": keys}


CASES = {
    "adam": {},
    "AdamW, weights": training(
        optimizer={"kind": "AdamW", "weight_decay": 0.1}, weight_decay_on="weights"
    ),
    "LBFGS": training(
        optimizer={"kind": "LBFGS", "max_iter": 3, "line_search_fn": "strong_wolfe"},
        learning_rate=0.5,
    ),
    "SGD": training(optimizer={"kind": "SGD", "momentum": 0.9, "nesterov": True}),
    "own optimiser": training(optimizer={"kind": "torch.optim:RMSprop", "momentum": 0.5}),
    "exponential": training(decay=0.5, decay_steps=3),
    "cosine": training(schedule="cosine", decay=0.1, decay_steps=12),
    "plateau": training(schedule={"kind": "plateau", "patience": 0, "threshold": 0.5}),
    "warm-up": training(schedule="cosine", warmup_steps=6),
    "OneCycleLR": training(schedule={"kind": "OneCycleLR", "max_lr": 0.1, "total_steps": 90}),
    "clip": training(clip_norm=0.01),
    "accumulate": training(accumulate=3),
    "ema": training(ema=0.7),
    "recomputed": training(checkpoint_activations=True) | {"network": RESNET},
    "compile": training(compile="eager"),
    "absolute": training(loss="absolute"),
    "huber": training(loss="huber"),
    "relative_l2": training(loss="relative_l2"),
    "h1": training(loss={"kind": "h1", "weight": 0.01}),
    "spectral": training(loss="spectral") | {"grid": {"boundary": "periodic"}},
    "float32": training(precision="float32"),
    "bfloat16": training(precision="bfloat16"),
    "validate in steps": training(steps=37, validate_every="5 steps"),
    "checkpoint in steps": training(checkpoint_every="4 steps"),
    "checkpoint in minutes": training(checkpoint_every="0.0001 minutes"),
    "checkpoint in epochs": training(checkpoint_every=50),
    "early stopping": training(early_stopping={"patience": 1, "min_change": 0.5}),
    "log": training(log_every=2),
    "no best": training(keep_best=False, keep_checkpoints=1),
    "one step": {"emulator": {"chain": "one_step"}},
    "rollout": {"emulator": {"chain": "rollout", "unroll": 2}},
    "diverted": {"emulator": {"chain": "diverted", "unroll": 2, "every": 2}},
    "mixed": {"emulator": {"chain": "mixed", "unroll": 2}},
    "normalise": {"data": {"normalise": "standard"}},
    "streamed": {"data": {"in_memory": False, "steps": 5, "stride": 2, "window": 4}},
    "seeds": {"seed": 5, "data": {"seed": 3, "streams": "shared"}},
    "gradients over MPI": {"parallel": {"gradients": "mpi"}},
    "gradients over torch": {"parallel": {"gradients": "torch"}},
    "dropout": {"network": {"kind": "DROPOUT"}},
    "own levels": {"refinement": {"schedule": "manual", "manual": {0: 1, 2: 2, 4: 3}}},
    "gradient schedule": {
        "refinement": {"schedule": "gradient", "theta": 0.05, "probe_share": 0.5}
    },
    "full": {"refinement": {"schedule": "constant"}},
    "tolerances": {"refinement": TOLERANCES},
    "gmres": {"solver": GMRES, "refinement": TOLERANCES},
    "last guess": {"solver": {**GMRES, "initial_guess": "last"}, "refinement": TOLERANCES},
    "lag": {"solver": {"ksp": "cg", "pc": "bjacobi", "lag_preconditioner": "auto"}},
    "unrolled": {"solver": {"ksp": "cg", "pc": "none", "differentiation": "unrolled"}},
    "unrolled gmres": {"solver": {**GMRES, "differentiation": "unrolled"}},
    "unrolled steps": training(checkpoint_activations="steps")
    | {"solver": {"ksp": "cg", "pc": "none", "differentiation": "unrolled"}},
    "batched": {"solver": {"ksp": "batched_cg", "pc": "jacobi"}},
    "batched, last guess": {
        "solver": {"ksp": "batched_gmres", "pc": "jacobi", "initial_guess": "last"},
        "refinement": TOLERANCES,
    },
    "batched float32": {
        "solver": {"ksp": "batched_richardson", "pc": "jacobi", "precision": "float32"}
    },
    "state guess": {
        "solver": {"ksp": "cg", "pc": "jacobi", "initial_guess": "state"},
        "refinement": TOLERANCES,
    },
    "sharded": {"parallel": {"shard_network": True}, "network": RESNET}
    | training(
        ema=0.7,
        clip_norm=0.01,
        accumulate=2,
        optimizer={"kind": "AdamW", "weight_decay": 0.1},
        weight_decay_on="weights",
    ),
    "sharded LBFGS": {"parallel": {"shard_network": True}, "network": RESNET}
    | training(
        optimizer={"kind": "LBFGS", "max_iter": 3, "line_search_fn": "strong_wolfe"},
        learning_rate=0.5,
    ),
    "sharded gradient": {
        "parallel": {"shard_network": True},
        "network": RESNET,
        "refinement": {"schedule": "gradient", "theta": 0.05, "probe_share": 0.5},
    },
    "PETSc options": {"solver": {**GMRES, "petsc_options": {"ksp_gmres_restart": 3}}},
    "adjoint ladder": {
        "refinement": {"adjoint_ladder": {"kind": "iterations", "start": 2, "step": 2, "stop": 8}}
    },
    "adjoint factor": {"refinement": {"adjoint_factor": 0.5}},
    "explicit ladder": {"refinement": {"ladder": {"kind": "levels", "levels": [1, 2, 5]}}},
    "factor": {"solver": GMRES, "refinement": {"ladder": TOLERANCES["ladder"] | {"factor": 0.3}}},
    "thresholds": {"refinement": {"step_threshold": 0.5, "stop_threshold": 0.99}},
    "noise": {"refinement": {"schedule": "gradient", "theta_noise": 0.5, "probe_share": 0.5}},
    "fixed level": {"refinement": {"schedule": "constant", "level": 2}},
    "test group": {"data": {"test": 2}},
    "network inputs": {"network_inputs": ["coordinates"], "network": RESNET},
    "two axes": {"network": RESNET, "grid": {"shape": [6, 6], "boundary": "periodic"}},
    "three axes": {"network": RESNET, "grid": {"shape": [4, 4, 4], "boundary": "periodic"}},
    "initial weights": training(init_from=FIRST),
    "allen_cahn": {
        "physics": {"pde": "allen_cahn", "interface": 0.1, "dt": 0.1},
        "solver": GMRES,
        "refinement": TOLERANCES,
    },
    "theta": {
        "physics": {"pde": "heat", "diffusivity": 1e-2, "dt": 1.0, "theta": 0.5, "source": 0.3}
    },
    "corrector": {"make": tiny.corrector, "network": RESNET},
    "burgers": {
        "make": tiny.corrector,
        "network": RESNET,
        "physics": {"pde": "burgers", "viscosity": 1e-2, "dt": 0.05},
        "grid": {"shape": [8], "boundary": "periodic"},
        "solver": GMRES,
    },
    "burgers, lag, gradient schedule": {
        "make": tiny.corrector,
        "network": RESNET,
        "physics": {"pde": "burgers", "viscosity": 1e-2, "dt": 0.05},
        "grid": {"shape": [8], "boundary": "periodic"},
        "solver": {"ksp": "gmres", "pc": "bjacobi", "lag_preconditioner": 4},
        "refinement": {"schedule": "gradient", "theta": 0.05, "probe_share": 0.5, **TOLERANCES},
    },
    "burgers, newton": {
        "make": tiny.corrector,
        "network": RESNET,
        "physics": {"pde": "burgers", "viscosity": 1e-2, "dt": 0.05, "nonlinear": "newton"},
        "grid": {"shape": [8], "boundary": "periodic"},
        "solver": GMRES,
        "refinement": TOLERANCES,
    },
}
TOGETHER = {
    "training": {
        "epochs": 2,
        "optimizer": {"kind": "AdamW", "weight_decay": 0.1},
        "weight_decay_on": "weights",
        "schedule": {"kind": "plateau", "patience": 0, "threshold": 0.5},
        "warmup_steps": 6,
        "clip_norm": 0.05,
        "accumulate": 2,
        "ema": 0.7,
        "log_every": 2,
    },
    "data": {"in_memory": False, "normalise": "standard", "steps": 4},
    "network": {"kind": "DROPOUT"},
}
