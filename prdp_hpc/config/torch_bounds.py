"""Bounds of the arguments of torch's optimisers and schedules, by the arguments' names.

torch checks some of them and uses others as given: a negative rate or NaN then trains without
an error. Arguments of one name mean the same in all classes.
"""

from __future__ import annotations

from typing import Any

from prdp_hpc.number_checks import check_count, check_number

_COUNTS = dict.fromkeys(
    ("T_0", "T_max", "T_mult", "epochs", "history_size", "max_eval", "max_iter", "milestones"), 1
) | dict.fromkeys(("ns_steps", "step_size", "steps_per_epoch", "total_iters", "total_steps"), 1)
_COUNTS |= {"cooldown": 0, "patience": 0}
_BOUNDS: dict[str, dict[str, float]] = {
    "alpha": {"least": 0, "most": 1},
    "base_lr": {"least": 0},
    "base_momentum": {"least": 0, "below": 1},
    "beta2_decay": {"most": 0},
    "betas": {"least": 0, "below": 1},
    "d": {"above": 0},
    "dampening": {"least": 0, "most": 1},
    "div_factor": {"above": 0},
    "end_factor": {"least": 0, "most": 1},
    "eps": {"least": 0},
    "eta_min": {"least": 0},
    "etas": {"above": 0},
    "factor": {"above": 0, "most": 1},
    "final_div_factor": {"above": 0},
    "gamma": {"above": 0},
    "initial_accumulator_value": {"least": 0},
    "lambd": {"least": 0},
    "lr_decay": {"least": 0},
    "max_lr": {"above": 0},
    "max_momentum": {"least": 0, "below": 1},
    "min_lr": {"least": 0},
    "momentum": {"least": 0, "below": 1},
    "momentum_decay": {"least": 0},
    "pct_start": {"least": 0, "most": 1},
    "power": {"least": 0},
    "rho": {"least": 0, "most": 1},
    "start_factor": {"above": 0, "most": 1},
    "step_size_down": {"above": 0},
    "step_size_up": {"above": 0},
    "step_sizes": {"above": 0},
    "t0": {"least": 0},
    "threshold": {"least": 0},
    "tolerance_change": {"least": 0},
    "tolerance_grad": {"least": 0},
    "weight_decay": {"least": 0},
}


def bounded(key: str, value: Any) -> Any:
    """Return the argument `key`, with integers for counts.

    Raises
    ------
    InputError
        If a number of it is out of range, NaN or infinite.
    """
    if isinstance(value, list | tuple):
        return type(value)(bounded(key, one) for one in value)
    if value is None or isinstance(value, bool | str):
        return value
    if key in _COUNTS:
        whole = int(value) if isinstance(value, float) and value.is_integer() else value
        check_count("", whole, _COUNTS[key])
        return whole
    check_number("", value, **_BOUNDS.get(key, {}))
    return value
