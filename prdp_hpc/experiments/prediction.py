"""Predictions of trained networks and recovered fields as HDF5 and XDMF files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray
from torch import Tensor

from prdp_hpc.config import components as components_of
from prdp_hpc.data import TrajectoryAttributes, TrajectoryWriter, share
from prdp_hpc.data.writer import Batch
from prdp_hpc.data.xdmf import Description, FieldGroup, add_views, write_xdmf
from prdp_hpc.distributed.collective import call_together, on_root
from prdp_hpc.errors import InputError
from prdp_hpc.experiments.error_sums import ErrorTable
from prdp_hpc.experiments.members import Members, load_runs, make_members
from prdp_hpc.experiments.rollouts import Predicted, recovered, recovered_fields, roll_out
from prdp_hpc.experiments.run_folders import member_folders
from prdp_hpc.experiments.trained import Checkpoint
from prdp_hpc.grid.halo import neighbour
from prdp_hpc.physics.stepper import attributes

BATCH_BYTES = 2**28
"""Size of the states of one batch of samples on a rank, of all runs together."""
AT_POINTS = "_at_points"
"""End of the name of a group with values of a staggered grid that were averaged to its points."""


def predict(
    folder: str | Path | Sequence[str | Path],
    steps: int | None = None,
    *,
    data: str | Path | None = None,
    group: str = "validation",
    samples: Sequence[int] | None = None,
    out: str | Path | None = None,
    checkpoint: Checkpoint = "last",
    components: Sequence[str] = (),
) -> dict[str, Any]:
    """Predict with the network of a run and write the states as HDF5 and XDMF; collective.

    An emulator applies its network `steps` times to the initial states of the trajectories, a
    corrector the solver's step at full refinement and its network. A field inversion has one field,
    `ln κ`, and an amortised inversion that of each validation sample. Samples are divided among the
    replicas, fields among the grid ranks; each rank writes its part.

    Several runs of one problem are an ensemble, e.g. the seeds of a comparison: each continues from
    its own states, and the mean and the standard deviation over the runs (with the divisor n − 1)
    are written.

    Parameters
    ----------
    folder : str, Path or sequence of them
        A run folder, several run folders, or the folder of a comparison, which stands for the runs
        of its variant `prdp` over all seeds.
    steps : int, optional
        Number of time steps. Default: as many as the data have.
    data : str or Path, optional
        File of trajectories, of which only the initial state is needed. Default: that of the run.
    group : str, default "validation"
        Group of the data.
    samples : sequence of int, optional
        Numbers of the samples, in increasing order. Default: all.
    out : str or Path, optional
        HDF5 file to write. Default: `prediction/<group>.h5` in the folder of the run or comparison;
        for several runs in `ensemble` in the first run folder.
    checkpoint : {"last", "best"}, default "last"
        The checkpoint, see `load_network`.
    components : sequence of str, default ()
        Names of user-defined networks, PDEs and tasks of the run, see `load_network`.

    Returns
    -------
    dict
        `file`, `xdmf` (a list of paths, one per sample), `epochs` of the checkpoints, `steps`,
        `samples` and `errors`: for steps that the data have, the mean errors over the samples with
        the names of `evaluate`. For several runs also `member_errors`, a list of such errors, and
        `spread`: the standard deviation of the members in the same norm.

    Raises
    ------
    InputError
        If a folder has no config or readable checkpoint, if the runs are of different problems, if
        the task has no fields, or if the data or samples do not exist; on all ranks.

    See Also
    --------
    evaluate : Compute the validation errors of a run.

    Notes
    -----
    The file has the groups `prediction`, `truth` and `spread` with data sets `trajectories` of
    shape `(samples, steps + 1, C, *grid.shape)`, and for each sample an XDMF file is written for
    ParaView. Velocities of a staggered grid are averaged to the grid's points there.

    Examples
    --------
    >>> import h5py
    >>> from pathlib import Path
    >>> from prdp_hpc import predict, train
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
    >>> found = predict("runs/tiny", steps=5)
    >>> with h5py.File(found["file"]) as file:
    ...     file["prediction/trajectories"].shape
    (2, 6, 1, 8)
    >>> found["errors"]["error_2"] == summary["error_2"]
    True
    """
    where, folders = call_together(MPI.COMM_WORLD, lambda: member_folders(folder))
    runs = load_runs(folders, data, components, checkpoint)
    members = make_members(runs, group)
    try:
        about = _about(members, group, steps, samples, data)
        path = Path(out) if out is not None else where / "prediction" / f"{group}.h5"
        table = _write(members, about, path)
    finally:
        members.close()
    return {
        "file": str(path),
        "xdmf": [str(xdmf) for xdmf in table.xdmf],
        "epochs": [run.state["epoch"] for run in runs],
        "steps": about.steps,
        "samples": list(about.samples),
        **table.content(),
    }


@dataclass(frozen=True)
class Request:
    """What is predicted.

    Attributes
    ----------
    group : group of the data.
    samples : numbers of the samples.
    steps : number of time steps.
    known : number of time steps that the data have; None: the truth is not known.
    """

    group: str
    samples: Sequence[int]
    steps: int
    known: int | None

    def states(self, members: Members, rows: Sequence[int]) -> Iterator[Predicted]:
        """The states of the samples in some rows of the file; collective."""
        chosen = [self.samples[row] for row in rows]
        if members.trajectories is None:
            return recovered(members, chosen)
        return roll_out(members, self.group, chosen, self.steps)


def _about(
    members: Members,
    group: str,
    steps: int | None,
    samples: Sequence[int] | None,
    data: Any,
) -> Request:
    return call_together(members.mesh.world, lambda: request(members, group, steps, samples, data))


def request(
    members: Members,
    group: str,
    steps: int | None,
    samples: Sequence[int] | None,
    data: Any = None,
) -> Request:
    """Check what is to be predicted, and replace defaults; collective for inversions."""
    trajectories = members.trajectories
    if trajectories is None:
        if steps not in (None, 0):
            raise InputError("steps: an inversion has no time steps: leave it out")
        fields, truth = recovered_fields(members.tasks[0])
        chosen = _chosen(samples, len(fields), "validation")
        return Request("validation", chosen, 0, None if truth is None else 0)
    name = str(data or getattr(trajectories, "path", "the data of the run"))
    count = trajectories.count(group)
    if count == 0:
        raise InputError(f"{name}: has no group {group!r}: give another group")
    own = trajectories.steps if steps is None else steps
    if own < 1:
        raise InputError(
            f"steps: {own} time steps leave nothing to predict: give the number of steps"
        )
    known = min(trajectories.steps, own)
    return Request(group, _chosen(samples, count, f"{name}, {group}"), own, known)


def _chosen(samples: Sequence[int] | None, count: int, name: str) -> list[int]:
    chosen = list(range(count)) if samples is None else [int(sample) for sample in samples]
    if not chosen or chosen != sorted(set(chosen)) or not 0 <= chosen[0] <= chosen[-1] < count:
        raise InputError(
            f"samples: must be different numbers from 0 to {count - 1} in increasing order, the "
            f"samples of {name}, not {chosen}"
        )
    return chosen


def _write(members: Members, about: Request, path: Path) -> ErrorTable:
    """Predict batch by batch and write; collective."""
    mesh, grid = members.mesh, members.grid
    rows = np.arange(len(about.samples))
    mine = share(rows, mesh.replica, mesh.replicas)
    most = len(share(rows, 0, mesh.replicas))
    size = _batch_size(members)
    description = _description(members, about)
    shapes = {
        name: (len(rows), own.states, len(own.channels), *grid.shape)
        for name, own in description.groups.items()
    }
    table = ErrorTable(members, about.samples)
    first = int(mine[0]) if len(mine) else len(rows)
    with TrajectoryWriter(
        path,
        mesh.world,
        grid.comm,
        _attributes(members),
        shapes,
        grid.local_slices,
        dtype=members.dtype,
        complete=lambda file: _finish(file, members, about, description),
    ) as writer:
        # All replicas have the same number of batches, also those whose samples are all written.
        for start in range(0, most, size):
            batch = mine[start : start + size]
            at = int(batch[0]) if len(batch) else first
            for state in about.states(members, batch.tolist()):
                table.add(state)
                for name, values in _arrays(state, members).items():
                    if name in shapes:
                        samples = Batch(name, range(at, at + len(batch)))
                        write = partial(writer.write, samples, state.step, values.cpu().numpy())
                        call_together(mesh.world, write)
    table.gather()
    table.xdmf = mesh.world.bcast(on_root(mesh.world, lambda: write_xdmf(path, description)))
    return table


def _batch_size(members: Members) -> int:
    """Samples whose states are computed together."""
    sample = len(members.channels) * members.grid.n_local * 8 * (len(members.tasks) + 4)
    largest = int(members.mesh.world.allreduce(sample, op=MPI.MAX))
    return max(1, min(64, BATCH_BYTES // largest))


def _arrays(state: Predicted, members: Members) -> dict[str, Tensor]:
    """The arrays of one state by group of the file; collective over the grid ranks."""
    found = {"prediction": state.mean}
    if state.truth is not None:
        found["truth"] = state.truth
    if state.spread is not None:
        found["spread"] = state.spread
    half = half_cells(members)
    if half:
        for name in ("prediction", "truth"):
            if name in found:
                found[name + AT_POINTS] = at_points(members.grid, found[name], half)
    return found


def half_cells(members: Members) -> dict[int, int]:
    """The channels of a staggered grid, see `Stepper`."""
    stepper = getattr(members.tasks[0], "stepper", None)
    return dict(getattr(stepper, "half_cells", {}))


def at_points(grid: Any, state: Tensor, half: dict[int, int]) -> Tensor:
    """The staggered channels averaged to the grid's points, `(b, len(half), *local_shape)`;
    collective.
    """
    padded = grid.halo(state)
    found = state[:, list(half)].clone()
    for place, (channel, axis) in enumerate(half.items()):
        before = neighbour(padded[:, channel], grid.dim, {axis: -1})
        found[:, place] = (state[:, channel] + before) / 2
    return found


def _description(members: Members, about: Request) -> Description:
    names, half = members.channels, half_cells(members)
    states = {"prediction": about.steps + 1}
    if about.known is not None:
        states["truth"] = about.known + 1
    if len(members.tasks) > 1:
        states["spread"] = about.steps + 1
    shown = tuple(None if index in half else name for index, name in enumerate(names))
    groups = {name: FieldGroup(shown, count, f"{name}_") for name, count in states.items()}
    if half:
        staggered = tuple(names[index] for index in half)
        for name in ("prediction", "truth"):
            if name in states:
                groups[name + AT_POINTS] = FieldGroup(staggered, states[name], f"{name}_")
    dt = time_step(members)
    grid = members.grid
    return Description(
        [grid.axis_points(axis) for axis in range(grid.dim)],
        [step * dt for step in range(about.steps + 1)],
        about.samples,
        groups,
        members.dtype,
    )


def time_step(members: Members) -> float:
    """The time step of the PDE; 1 if it has none, so that times are numbers of steps."""
    stepper = getattr(members.tasks[0], "stepper", None)
    return 1.0 if stepper is None else float(attributes(stepper).get("dt", 1.0))


def _attributes(members: Members) -> TrajectoryAttributes:
    config, grid = members.runs[0].config, members.grid
    stepper = getattr(members.tasks[0], "stepper", None)
    names = ", ".join(f"{run.config.name} (epoch {run.state['epoch']})" for run in members.runs)
    return TrajectoryAttributes(
        pde=components_of(config)["physics.pde"].label,
        shape=grid.shape,
        boundary=grid.boundary,
        length=grid.length,
        numbers={} if stepper is None else attributes(stepper),
        channels=members.channels,
        scheme=f"predicted by {names}",
    )


def _finish(file: h5py.File, members: Members, about: Request, description: Description) -> None:
    """Add what reports and ParaView need to the complete file."""
    file.attrs["runs"] = [str(run.folder) for run in members.runs]
    file.attrs["samples"] = np.array(about.samples, dtype=np.int64)
    file.attrs["group"] = about.group
    file.create_dataset("time", data=np.array(description.times))
    for axis, points in zip("zyx"[-len(description.axes) :], description.axes, strict=True):
        values: NDArray[np.float64] = np.asarray(points)
        file.create_dataset(f"coordinates/{axis}", data=values)
    add_views(file, description)
