"""Reliability: with each key, a run that was stopped or killed continues bit for bit."""

import json
import shutil
import time
from pathlib import Path

import pytest
import tiny
import torch
from mpi4py import MPI
from recipe_cases import CASES, DROPOUT, FIRST, RESNET, TOGETHER, training

from prdp_hpc.config import validate
from prdp_hpc.config.models import DataSection, EmulatorSection, ParallelSection, SolverSection
from prdp_hpc.config.refinement import RefinementSection
from prdp_hpc.config.training import SupervisedTrainingSection
from prdp_hpc.distributed.preemption import Preempted, PreemptionWatch
from prdp_hpc.distributed.process_mesh import ProcessMesh
from prdp_hpc.experiments.run import run_experiment
from prdp_hpc.training.checkpoint import Checkpoints

WORLD = MPI.COMM_WORLD
EPOCHS, STOPS = 5, (7, 21)
"""Numbers of steps, none of which ends an epoch."""
KILL = 5
"""A step in the middle of an epoch of all cases, after the first checkpoint."""


class Stop:
    """Requests a stop after some steps, as a signal does, or copies the folder of the run, whose
    files are those that SIGKILL would leave.
    """

    def __init__(self, monkeypatch):
        self.steps, self.count, own = (), 0, PreemptionWatch.after_step
        self.killed, self.folder, self.copy = 0, Path(), Path()

        def after_step(watch, request=False):
            self.count += 1
            if self.count == self.killed and WORLD.rank == 0:
                copied(self.folder, self.copy)
            stop = own(watch, request)
            return stop or self.count in self.steps

        monkeypatch.setattr(PreemptionWatch, "after_step", after_step)

    def run(self, config, folder, grid_ranks, steps, killed=0):
        """Run and resume until the end; the number of stops. With `killed`, a copy is resumed."""
        stops, self.killed = 0, killed
        self.folder, self.copy = folder, folder.with_name(f"killed_{grid_ranks}")
        while True:
            mesh = ProcessMesh.from_world(grid_ranks)
            self.steps, self.count = steps[stops : stops + 1], 0
            try:
                run_experiment(config, mesh, folder, resume=stops > 0)
            except Preempted:
                stops += 1
                continue
            finally:
                mesh.close()
            return stops


def copied(folder, copy):
    """Copy a folder while a thread may be replacing files of it."""
    while True:
        try:
            shutil.copytree(folder, copy)
            return
        except (shutil.Error, FileNotFoundError):
            shutil.rmtree(copy)
            time.sleep(0.001)


def axes_of(changes):
    """The number of axes of a case's grid."""
    return len(changes.get("grid", {}).get("shape", [8]))


def in_a_plane(changes):
    """The same case in two axes, by default with convolutions."""
    grid = {**changes.get("grid", {}), "shape": [6, 6]}
    return {"network": RESNET, **changes, "grid": grid}


def content_of(folder, changes):
    changes = dict(changes)
    make = changes.pop("make", tiny.emulator)
    if changes.get("network", {}).get("kind") == "DROPOUT":
        changes["network"] = {"kind": f"{folder / 'dropped.py'}:Dropped"}
    data = {"train": 8, "validation": 3, **changes.pop("data", {})}
    recipe = {"epochs": EPOCHS, "batch_size": 2, **changes.pop("training", {})}
    if "stride" not in data and make is tiny.emulator:
        data |= {"steps": 4}
    if recipe.get("init_from") == FIRST:
        recipe["init_from"] = str(folder / FIRST)
    return make(folder, data=data, training=recipe, **changes)


def check(changes, folder, monkeypatch, stops=STOPS, killed=0):
    """Compare metrics, steps and parameters of a run with stops, and of one that was killed, with
    those of one without.
    """
    folder = Path(WORLD.bcast(str(folder)))
    if WORLD.rank == 0:
        (folder / "dropped.py").write_text(DROPOUT.replace("Nd", f"{axes_of(changes)}d"))
    WORLD.barrier()
    stop = Stop(monkeypatch)
    if changes.get("training", {}).get("init_from"):
        first = validate(content_of(folder, changes | training(epochs=1)), "here")
        assert stop.run(first, folder / FIRST, 1, ()) == 0
    config = validate(content_of(folder, changes), "here")
    for grid_ranks in {1, WORLD.size}:
        whole, stopped, left = (
            folder / f"{name}_{grid_ranks}" for name in ("whole", "stopped", "killed")
        )
        assert stop.run(config, whole, grid_ranks, (), killed) == 0
        if stops:
            assert stop.run(config, stopped, grid_ranks, stops) >= 1
            assert_equal(config, stopped, whole)
        if killed:
            assert len(tiny.rows(left)) < len(tiny.rows(whole))
            mesh = ProcessMesh.from_world(grid_ranks)
            run_experiment(config, mesh, left, resume=True)
            mesh.close()
            assert_equal(config, left, whole)


def assert_equal(config, folder, whole):
    """Compare two runs."""
    WORLD.barrier()
    assert tiny.rows(folder) == tiny.rows(whole)
    if config.training.log_every:
        assert _lines(folder / "steps.jsonl") == _lines(whole / "steps.jsonl")
    ours, theirs = (
        Checkpoints(one / "checkpoints").load_latest()["task"]["network"] for one in (folder, whole)
    )
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours if key in _tensors(ours))
    WORLD.barrier()


def _tensors(state):
    return {key for key, value in state.items() if isinstance(value, torch.Tensor)}


def _lines(path):
    return [
        {key: value for key, value in json.loads(line).items() if key not in tiny.SECONDS}
        for line in path.read_text().splitlines()
    ]


SECTIONS = {
    "training": SupervisedTrainingSection,
    "data": DataSection,
    "solver": SolverSection,
    "refinement": RefinementSection,
    "emulator": EmulatorSection,
    "parallel": ParallelSection,
}
# All cases vary these, or they determine which data are read and not how a run continues.
ELSEWHERE = {"data.file", "data.format", "parallel.grid_ranks"}


def test_the_table_has_every_key_of_the_recipe(tmp_path):
    used = {
        f"{section}.{key}"
        for case in [{}, *CASES.values()]
        for section, values in content_of(tmp_path, case).items()
        if isinstance(values, dict)
        for key in values
    }
    every = {f"{name}.{key}" for name, kind in SECTIONS.items() for key in kind.model_fields}
    assert every - used - ELSEWHERE == set()


@pytest.mark.parallel(nprocs=2)
def test_a_stopped_run_continues_bit_for_bit(tmp_path, monkeypatch):
    often = TOGETHER["training"] | {"checkpoint_every": "3 steps"}
    check(TOGETHER | {"training": often}, tmp_path, monkeypatch, stops=(7,), killed=KILL)


@pytest.mark.long
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parallel(nprocs=[1, 2])
def test_with_every_key_a_stopped_run_continues_bit_for_bit(case, tmp_path, monkeypatch):
    check(CASES[case], tmp_path, monkeypatch)


@pytest.mark.long
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parallel(nprocs=[1, 2])
def test_with_every_key_a_killed_run_continues_bit_for_bit(case, tmp_path, monkeypatch):
    recipe = {"epochs": 2, "checkpoint_every": "3 steps"} | CASES[case].get("training", {})
    check(CASES[case] | {"training": recipe}, tmp_path, monkeypatch, stops=(), killed=KILL)


@pytest.mark.long
@pytest.mark.parametrize("case", [case for case in CASES if axes_of(CASES[case]) == 1])
@pytest.mark.parallel(nprocs=[1, 2])
def test_with_every_key_a_run_in_a_plane_continues_bit_for_bit(case, tmp_path, monkeypatch):
    recipe = {"epochs": 2, "checkpoint_every": "3 steps"} | CASES[case].get("training", {})
    changes = in_a_plane(CASES[case]) | {"training": recipe}
    check(changes, tmp_path, monkeypatch, stops=(KILL - 1,), killed=KILL)


LBFGS = {"optimizer": "lbfgs"}
INVERSIONS = {
    "inverse": {"make": tiny.inverse},
    "inverse, gradient schedule": {
        "make": tiny.inverse,
        "refinement": {"schedule": "gradient", "theta": 0.05, "probe_share": 0.5},
    },
    "field, adam": {"make": tiny.field_inversion, "training": {"optimizer": "adam"}},
    "field, lbfgs": {"make": tiny.field_inversion, "training": LBFGS},
    "field, lbfgs, block preconditioner": {
        "make": tiny.field_inversion,
        "training": LBFGS,
        "solver": {"ksp": "cg", "pc": "bjacobi"},
    },
    "field, network": {
        "make": tiny.field_inversion,
        "unknown": {"kind": "network", "features": 4},
        "experiments": {"points": None},
    },
    "amortised": {"make": tiny.amortised_inversion},
}


@pytest.mark.long
@pytest.mark.parametrize("case", INVERSIONS)
@pytest.mark.parallel(nprocs=2)
def test_a_stopped_inversion_continues_bit_for_bit(case, tmp_path):
    """Only `set_ups` may be larger: a preconditioner that was in memory is computed again."""
    folder = Path(WORLD.bcast(str(tmp_path)))
    changes = dict(INVERSIONS[case])
    make = changes.pop("make")
    # The inverse problem has no samples that replicas could divide.
    for grid_ranks in (2,) if make is tiny.inverse else (1, 2):
        whole, stopped = (folder / f"{name}_{grid_ranks}" for name in ("whole", "stopped"))
        for place, epochs, resume in ((whole, 4, False), (stopped, 2, False), (stopped, 4, True)):
            recipe = {**changes.get("training", {}), "epochs": epochs}
            config = validate(make(folder, **{**changes, "training": recipe}), "here")
            mesh = ProcessMesh.from_world(grid_ranks)
            run_experiment(config, mesh, place, resume)
            mesh.close()
            WORLD.barrier()
        assert tiny.rows(stopped, "set_ups") == tiny.rows(whole, "set_ups")
        both = [[row.get("set_ups", 0) for row in tiny.rows(one)] for one in (stopped, whole)]
        assert all(0 <= a - b <= 2 for a, b in zip(*both, strict=True))
        WORLD.barrier()
