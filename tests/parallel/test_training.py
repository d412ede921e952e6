"""Correctness and parallelism: however training is divided, it is the training of one rank; and it
can be resumed.
"""

import json
import os

import h5py
import numpy as np
import pytest
import tiny
import torch
from shared_ranks import SharedRanks

from prdp_hpc import cli
from prdp_hpc.training.checkpoint import Checkpoints

pytestmark = pytest.mark.timeout(600)

LONG = "PRDP_LONG_TESTS" in os.environ
SPLITS = [(2, 1), (2, 2), (3, 1), (3, 3), (4, 1), (4, 2), (4, 4)]
# Without the long tests: on four ranks only where these differ from two.
ON_FOUR = {"few": (4, 1), "corrector": (4, 2), "probed": (4, 2), "unet": (4, 4)}
EPOCHS = 4
# 16 steps of 3 per epoch; on two ranks the clock of rank 0 asks for a checkpoint at each step.
STEPS = [
    "training.steps=16", "training.validate_every=5 steps", "training.log_every=2",
    "training.checkpoint_every=0.000001 minutes", "training.keep_checkpoints=100",
]  # fmt: skip
RESUMED = {3: [3], 4: [1, 2]} if LONG else {4: [1, 2]}


def splits_of(config):
    """The splits in which a config is trained."""
    return (
        SPLITS
        if LONG
        else [split for split in SPLITS if split in ((2, 1), (2, 2), ON_FOUR.get(config))]
    )


def train_all(ranks, lines, two_ranks):
    """Run command lines one after the other, on one rank in this process."""
    if ranks == 1:
        for words in lines:
            cli.main(words)
        return
    shared = None if ranks == 2 else SharedRanks(ranks)
    for done in (two_ranks if shared is None else shared.run)(lines):
        assert done.codes == [0] * ranks, done.stderr
    if shared is not None:
        shared.close()


def split_runs(folder):
    """Six configs on 1 rank and in several splits: command lines by the number of ranks.

    double: batches of 25 and then 5 samples, in float64; few: batches of 3 and 1, so that some of
    four replicas have none; corrector: a ResNet through Navier-Stokes, two solves per step, with as
    few samples; unet: a U-Net on the ranks' uneven parts; probed: levels chosen from gradients of
    batches of 6 in 4 parts; paper: the unchanged 1-D emulator of the paper, in float32.
    """
    double = tiny.emulator(
        folder, training={"epochs": EPOCHS, "batch_size": 25}, data={"train": 55}
    )
    few = tiny.emulator(
        folder,
        training={"epochs": EPOCHS, "batch_size": 3},
        grid={"shape": [5, 6], "boundary": "periodic"},
    )
    corrector = tiny.corrector(
        folder,
        training={"epochs": EPOCHS, "batch_size": 3},
        grid={"shape": [5, 6], "boundary": "periodic"},
        physics={"pde": "navier_stokes", "viscosity": 1e-2, "dt": 0.1},
        solver={"ksp": "gmres", "pc": "constraint"},
        corrector={"validation_steps": [1, 2]},
        network={"kind": "resnet", "channels": 4, "blocks": 1},
    )
    unet = tiny.emulator(
        folder,
        training={"epochs": EPOCHS, "batch_size": 5},
        grid={"shape": [9, 8], "boundary": "neumann"},
        network={"kind": "unet", "channels": 4, "depth": 1},
    )
    probed = tiny.emulator(
        folder,
        training={"epochs": EPOCHS, "batch_size": 6},
        data={"train": 20},
        refinement={"schedule": "gradient", "theta": 0.05, "theta_noise": 0.05, "probe_share": 0.5},
    )
    contents = {"double": double, "few": few, "corrector": corrector, "unet": unet}
    contents |= {"probed": probed}
    configs = {name: [tiny.write(folder / f"{name}.yaml", one)] for name, one in contents.items()}
    heat = str(tiny.REPOSITORY / "configs" / "heat_1d.yaml")
    configs["paper"] = [heat, f"output={folder}", f"training.epochs={EPOCHS}"]
    lines = {1: [], 2: [], 3: [], 4: []}
    for ranks, grid_ranks in [(1, 1), *SPLITS]:
        lines[ranks] += [
            [
                "run",
                *words,
                f"parallel.grid_ranks={grid_ranks}",
                f"name={name}-{ranks}-{grid_ranks}",
            ]
            for name, words in configs.items()
            if ranks == 1 or (ranks, grid_ranks) in splits_of(name)
        ]
    return lines


def resumed_runs(folder):
    """A run in one go and one that is resumed: command lines by the number of ranks."""
    network = {"kind": "resnet", "channels": 4, "blocks": 1}
    content = tiny.emulator(
        folder,
        grid={"shape": [16]},
        network=network,
        training={"batch_size": 4},
        data={"train": 12},
    )
    config, lines = tiny.write(folder / "resumed.yaml", content), {}
    for ranks, splits in RESUMED.items():
        lines[ranks] = []
        for grid_ranks in splits:
            words, name = (
                ["run", config, f"parallel.grid_ranks={grid_ranks}"],
                f"{ranks}-{grid_ranks}",
            )
            lines[ranks] += [
                [*words, f"name=whole-{name}", "training.epochs=4"],
                [*words, f"name=resumed-{name}", "training.epochs=1"],
                [*words, f"name=resumed-{name}", "training.epochs=4", "--resume"],
            ]
    return lines


def moved_runs(folder):
    """Data made on 1 and on 2 ranks, a run on 1 rank, and one that continues on 2; the same in
    steps, from a checkpoint within an epoch and between two validations.
    """
    config = tiny.write(folder / "moved.yaml", tiny.emulator(folder, grid={"shape": [6, 5]}))
    files = {ranks: str(folder / f"{ranks}.h5") for ranks in (1, 2)}
    words = ["run", config, f"data.file={files[1]}"]
    one = [
        ["generate", config, "--out", files[1]],
        [*words, "name=unmoved", "training.epochs=6"],
        [*words, "name=moved", "training.epochs=3"],
        [*words, "name=unmoved-steps", *STEPS],
        [*words, "name=moved-steps", *STEPS],
    ]
    two = [
        ["generate", config, "--out", files[2]],
        [*words, "name=moved", "training.epochs=6", "parallel.grid_ranks=2", "--resume"],
        [*words, "name=moved-steps", *STEPS, "--resume"],
    ]
    return {1: one, 2: two}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, two_ranks):
    """The folder of all runs that nothing disturbs."""
    folder = tmp_path_factory.mktemp("training")
    kinds = split_runs(folder), resumed_runs(folder), moved_runs(folder)
    for ranks in (1, 2, 3, 4) if LONG else (1, 2, 4):
        lines = [words for kind in kinds for words in kind.get(ranks, [])]
        train_all(ranks, lines, two_ranks)
        if ranks == 1:
            for path in sorted((folder / "moved-steps" / "checkpoints").glob("epoch_*.pt"))[6:]:
                path.unlink()
    return folder


def curve(folder, keys):
    rows = tiny.rows(folder)
    assert len(rows) == EPOCHS + 1
    return np.array([[row[key] for key in keys] for row in rows[1:]])


def difference(folder, config, split):
    """The largest relative difference of loss and errors to those on one rank."""
    ranks, grid_ranks = split
    measured = ("loss", "error", "error_1", "error_2")
    one, many = (
        curve(folder / f"{config}-{name}", measured) for name in ("1-1", f"{ranks}-{grid_ranks}")
    )
    return np.abs(many / one - 1).max()


@pytest.mark.parametrize(
    ("config", "split"),
    [
        pytest.param(config, split, id=f"{config}-{split[0]} ranks, {split[1]} a grid")
        for config in ("double", "few", "corrector", "unet", "probed", "paper")
        for split in splits_of(config)
    ],
)
def test_same_training_on_any_split(config, split, trained):
    assert difference(trained, config, split) < (1e-6 if config == "paper" else 1e-9)
    counted = (
        "level",
        "adjoint_level",
        "forward_iterations",
        "adjoint_iterations",
        "solves",
        "adjoint_solves",
        *(["probe_forward_iterations", "probe_adjoint_solves"] if config == "probed" else []),
    )
    one, many = (trained / f"{config}-{name}" for name in ("1-1", f"{split[0]}-{split[1]}"))
    np.testing.assert_array_equal(curve(many, counted), curve(one, counted))
    assert (
        len({row["level"] for row in tiny.rows(one)}) > 1
    )  # the coordinator had something to decide
    summary = tiny.summary(many)
    assert (summary["ranks"], summary["grid_ranks"]) == split


@pytest.mark.parametrize("ranks", RESUMED, ids=lambda ranks: f"{ranks} ranks")
def test_a_resume_rounds_as_the_undisturbed_run(ranks, trained):
    """Sums of three and more numbers depend on their order, which DDP changes after its first
    pass.
    """
    for grid_ranks in RESUMED[ranks]:
        whole, resumed = (trained / f"{kind}-{ranks}-{grid_ranks}" for kind in ("whole", "resumed"))
        networks = [
            Checkpoints(folder / "checkpoints").load_latest()["task"]["network"]
            for folder in (whole, resumed)
        ]
        assert all(torch.equal(networks[0][key], networks[1][key]) for key in networks[0])
        assert tiny.rows(resumed) == tiny.rows(whole)


def test_generated_data_is_the_same_on_other_ranks(trained):
    with h5py.File(trained / "1.h5") as one, h5py.File(trained / "2.h5") as two_ranks:
        for group in ("train", "validation"):
            name = f"{group}/trajectories"
            assert one[name].shape == two_ranks[name].shape
            # float32 of solutions that agree to 1e-12: at most the last bit may differ
            np.testing.assert_allclose(two_ranks[name][:], one[name][:], rtol=2e-7, atol=1e-9)


def test_a_run_goes_on_on_other_ranks(trained):
    whole, other = (tiny.rows(trained / name) for name in ("unmoved", "moved"))
    # Before the first step there is neither a loss nor a gradient.
    first = [row.pop(key) for row in (whole[0], other[0]) for key in ("loss", "gradient_norm")]
    assert first == [None] * 4
    for row, moved_row in zip(whole, other, strict=True):
        assert moved_row == pytest.approx(row, rel=1e-9)


def test_a_run_in_steps_goes_on_on_other_ranks(trained):
    whole, other = (trained / f"{name}-steps" for name in ("unmoved", "moved"))
    assert [row["step"] for row in tiny.rows(other)] == [0, 5, 10, 15, 16]
    for rows in zip(tiny.rows(whole)[1:], tiny.rows(other)[1:], strict=True):
        assert rows[1] == pytest.approx(rows[0], rel=1e-9)
    names = [path.stem for path in sorted((other / "checkpoints").glob("epoch_*.pt"))]
    steps = [3 * int(name[6:10]) + int(name[16:] or 0) for name in names]
    assert steps[:6] == list(range(6))
    # After the resume from step 5 the request of rank 0 reaches all ranks one step later.
    assert 10 in steps
    assert any(step not in (10, 15, 16) for step in steps[6:])
    lines = (other / "steps.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 4, 6, 8, 10, 12, 14, 16]
