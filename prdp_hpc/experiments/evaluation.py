"""Validation errors of a trained network or a recovered field, e.g. on other data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mpi4py import MPI

from prdp_hpc.config import FieldInversionConfig, SupervisedConfig
from prdp_hpc.data.formats.files import named
from prdp_hpc.distributed.collective import call_together
from prdp_hpc.errors import InputError
from prdp_hpc.experiments.build import any_mesh, build_solver, build_task, task_class
from prdp_hpc.experiments.trained import Checkpoint, run_config, shared_states, trained_config
from prdp_hpc.tasks.task import validated

NEEDED = ("task", "physics.pde", "network.kind", "data.format")
"""Components without which a network cannot be validated."""


def evaluate(
    folder: str | Path,
    data: str | Path | None = None,
    components: Sequence[str] = (),
    *,
    checkpoint: Checkpoint = "last",
) -> dict[str, Any]:
    """Compute the validation errors of a run's checkpoint; collective.

    A network is validated on the group "validation" of a data file, the field of an inversion on
    the experiments for validation.

    Parameters
    ----------
    folder : str or Path
        The run folder.
    data : str or Path, optional
        File of trajectories or experiments. Default: that of the run.
    components : sequence of str, default ()
        Names of user-defined networks, PDEs and tasks of the run, e.g. `["my.py:Net"]`, see
        `load_network`.
    checkpoint : {"last", "best"}, default "last"
        The checkpoint: the last one, or that with the smallest validation error.

    Returns
    -------
    dict
        `epoch` of the checkpoint and `step` of the next epoch, `data`, and the errors by name, that
        of the schedule as `error`.

    Raises
    ------
    InputError
        If the folder has no config or readable checkpoint, if a user-defined component is not in
        `components`, or if the data do not match the task.

    See Also
    --------
    load_network : Load the network of a run.

    Examples
    --------
    >>> from pathlib import Path
    >>> from prdp_hpc import evaluate, train
    >>> text = '''
    ... task: emulator
    ... name: tiny
    ... grid: {shape: [8]}
    ... physics: {pde: heat, diffusivity: 0.1, dt: 0.01}
    ... network: {kind: mlp, hidden: [8]}
    ... data: {train: 4, validation: 2}
    ... training: {epochs: 1, batch_size: 2}
    ... '''
    >>> _ = Path("tiny.yaml").write_text(text)
    >>> summary = train("tiny.yaml")
    >>> errors = evaluate("runs/tiny")
    >>> errors["epoch"], errors["error"] == summary["error"]
    (1, True)
    """
    world = MPI.COMM_WORLD
    config = call_together(world, lambda: _config(folder, components))
    (state,) = shared_states(world, [folder], checkpoint, complete=not loads_parts(config))
    if data is not None:
        config = with_data(config, data)
    mesh = any_mesh(config)
    try:
        task: Any = build_task(config, mesh, build_solver(config), groups=("validation",))
        call_together(mesh.world, lambda: load_parameters(task, state["task"], folder, data))
        of_training = getattr(task, "metrics_of_training", ())
        errors = {key: found for key, found in validated(task).items() if key not in of_training}
        task.close()
    finally:
        mesh.close()
    own = config.data if isinstance(config, SupervisedConfig) else config.experiments
    files: Any = data or getattr(own, "file", None)
    name = str(named(files)) if files else "its own validation data"
    return {"epoch": state["epoch"], "step": state["step"], "data": name, **errors}


def _config(
    folder: str | Path, components: Sequence[str]
) -> SupervisedConfig | FieldInversionConfig:
    config = run_config(folder, components, NEEDED)
    if isinstance(config, FieldInversionConfig):
        return config
    return trained_config(folder, components, NEEDED)


def with_data(config: Any, data: str | Path) -> Any:
    """The config with another file of trajectories, or of experiments for a field inversion."""
    section = "data" if isinstance(config, SupervisedConfig) else "experiments"
    changed = getattr(config, section).model_copy(update={"file": str(data)})
    return config.model_copy(update={section: changed})


def loads_parts(config: SupervisedConfig | FieldInversionConfig) -> bool:
    """Whether the task needs only a part of its state to validate, see `load_parameters`."""
    kind = task_class(config)
    return hasattr(kind, "load_network") or hasattr(kind, "load_parameters")


def load_parameters(task: Any, state: dict[str, Any], folder: Any, data: Any) -> None:
    """Load the parameters of a checkpoint's task, to validate or to predict; raises `InputError` if
    the network is for other channels than those of the file `data`.

    A user's task that has neither a network nor the method `load_parameters` loads all its state.
    """
    if not hasattr(task, "load_network"):
        getattr(task, "load_parameters", task.load_state_dict)(state)
        return
    try:
        task.load_network(state["network"])
    except RuntimeError:
        raise InputError(
            f"{data}: its fields have other channels than those on which the network of {folder} "
            "was trained"
        ) from None
