"""The options of sbatch for a job: those of the command line, then those of the site file."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping

from prdp_hpc.commands.job_script import SIGNAL_SECONDS
from prdp_hpc.commands.sbatch import SubmitError
from prdp_hpc.config.site import JobDefaults, site_path

_SET_HERE = ("job-name", "nodes", "ntasks", "ntasks-per-node", "tasks-per-node", "output",
             "open-mode", "signal", "requeue", "chdir", "parsable", "test-only",
             "wrap")  # fmt: skip
"""Options of sbatch that submit sets itself, or that would change what it prints."""
_OWN = ("account", "partition", "qos", "constraint", "time", "mem", "cpus-per-task",
        "gpus-per-node", "exclusive", "array", "dependency")  # fmt: skip
"""Options that submit has under the same name."""
_INSTEAD = {"cpus-per-gpu": "cpus-per-task"}
"""Options that sbatch does not accept beside one that submit always gives."""
_ALTERNATIVES = ({"mem", "mem-per-cpu", "mem-per-gpu"}, {"exclusive", "oversubscribe"})
"""Options of which sbatch accepts one only, or of which the last one is used."""
_DEFAULTS = ("account", "partition", "qos", "constraint", "time", "mem", "cpus_per_task",
             "gpus_per_node")  # fmt: skip


def sbatch_options(
    arguments: argparse.Namespace, defaults: JobDefaults, set_here: Mapping[str, str]
) -> dict[str, str | None]:
    """The options of a job; None as the value of one without value.

    `set_here` are the job's name, nodes, ranks, log and folder.

    Raises
    ------
    SubmitError
        For a further option that has its own name here, and for a value of several lines.
    """
    given = dict(map(_pair, arguments.sbatch))
    for key in defaults.sbatch:
        own = key.replace("-", "_")
        own = f"defaults.{own}" if own in JobDefaults.model_fields else f"--{key} of submit"
        _check_further(key, f"{site_path()}: defaults.sbatch: {key}", own)
    for key in given:
        _check_further(key, f"--sbatch {key}", f"--{key}")
    further = dict(defaults.sbatch) | given
    replaced = _replaced(arguments, given)
    further = {key: value for key, value in further.items() if key not in replaced}
    options: dict[str, str | None] = dict(set_here)
    for name in _DEFAULTS:
        value = getattr(arguments, name)
        if value is None and name not in replaced:
            value = getattr(defaults, name)
        if name == "cpus_per_task":
            value = value or 1
        if value is not None:
            options[name.replace("_", "-")] = str(value)
    exclusive = arguments.exclusive or ("exclusive" not in replaced and defaults.exclusive)
    if exclusive:
        options["exclusive"] = None if exclusive is True else exclusive
    for name in ("array", "dependency"):
        if getattr(arguments, name) is not None:
            options[name] = getattr(arguments, name)
    always = {"open-mode": "append", "signal": f"B:USR1@{SIGNAL_SECONDS}", "requeue": None}
    options = options | always | further
    for key, value in options.items():
        # sbatch reads options line by line, so a further line could be another option.
        if value is not None and len(value.splitlines()) > 1:
            raise SubmitError(f"--{key}: must be text in one line, not {value!r}")
    return options


def _replaced(arguments: argparse.Namespace, given: Mapping[str, str | None]) -> set[str]:
    """Options of the site file of which the command line gives an alternative."""
    own = {key for key in _OWN if getattr(arguments, key.replace("-", "_")) is not None}
    chosen = own | set(given)
    return {key for group in _ALTERNATIVES if group & chosen for key in group - chosen}


def _pair(text: str) -> tuple[str, str | None]:
    """KEY=VALUE or KEY of `--sbatch`."""
    key, equals, value = text.partition("=")
    return key.strip().removeprefix("--"), value if equals else None


def _check_further(key: str, place: str, own: str) -> None:
    """Raise `SubmitError` for an option that submit sets itself or has itself, as `own`."""
    if not re.fullmatch(r"[a-z][a-z0-9-]*", key):
        raise SubmitError(
            f"{place}: give the long name of an option of sbatch and its value, "
            "e.g. hint=nomultithread"
        )
    if key in _SET_HERE:
        raise SubmitError(f"{place}: submit sets this option itself; leave it out")
    if key in _INSTEAD:
        raise SubmitError(
            f"{place}: sbatch does not accept it beside the cores per rank; give "
            f"{own.replace(key, _INSTEAD[key])} instead"
        )
    if key in _OWN:
        raise SubmitError(f"{place}: give {own} instead")
