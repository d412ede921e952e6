"""Reliability: a resumed run has the numbers of an uninterrupted one; if it is rejected, the run
folder is not changed.
"""

import json
import shutil
from itertools import pairwise

import pytest
import tiny

from prdp_hpc.config import validate
from prdp_hpc.errors import InputError
from prdp_hpc.experiments.run import RunFolderError, run_experiment
from prdp_hpc.experiments.trained import load_network
from prdp_hpc.report.runs import ReportError
from prdp_hpc.training.saving import states_of_ranks
from prdp_hpc.training.settings import CheckpointError

EPOCHS = 6
GRADIENT = {"schedule": "gradient", "theta": 0.05, "theta_noise": 0.05, "probe_share": 0.5}
RESNET = {"kind": "resnet", "channels": 4, "blocks": 1}


@pytest.fixture
def train(mesh, tmp_path):
    def run(name, epochs=EPOCHS, resume=False, make=tiny.emulator, training=None, **changes):
        content = make(
            tmp_path, name=name, training={"epochs": epochs, **(training or {})}, **changes
        )
        return run_experiment(validate(content, "here"), mesh, tmp_path / name, resume)

    return run


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"training": {"precision": "float32", "decay": 0.5, "decay_steps": 3}},
        {"training": {"checkpoint_every": 2}},
        {"refinement": {"schedule": "manual", "manual": {0: 1, 2: 2, 4: 3}}},
        {"refinement": {"ladder": {"kind": "tolerances", "stop": 1e-3}}},
        {"solver": {"initial_guess": "last", "lag_preconditioner": "auto"}},
        {"refinement": GRADIENT},
        {"make": tiny.inverse, "refinement": GRADIENT},
        {"make": tiny.inverse, "refinement": {"ema_window": 1, "error_window": 1}},
        {
            "make": tiny.corrector,
            "network": RESNET,
            "grid": {"shape": [6, 5]},
            "training": {"schedule": "cosine", "decay": 0.1},
        },
    ],
    ids=[
        "plain",
        "float32 decaying",
        "every 2",
        "manual",
        "tolerances",
        "starts",
        "gradient",
        "gradient inverse",
        "inverse",
        "corrector",
    ],
)
def test_resumed_run_is_the_undisturbed_one(changes, train, tmp_path):
    train("whole", **changes)
    train("stopped", epochs=3, **changes)
    train("stopped", resume=True, **changes)
    assert tiny.rows(tmp_path / "stopped") == tiny.rows(tmp_path / "whole")
    assert [row["epoch"] for row in tiny.rows(tmp_path / "whole")] == list(range(EPOCHS + 1))
    assert tiny.summary(tmp_path / "stopped", "name") == tiny.summary(tmp_path / "whole", "name")
    assert len({row["error"] for row in tiny.rows(tmp_path / "whole")}) == EPOCHS + 1


def test_after_a_stop_between_metrics_and_checkpoint(train, tmp_path):
    """The files of a killed run: lines of later epochs than the last checkpoint, the last one
    incomplete.
    """
    train("whole")
    train("stopped", epochs=4)
    (tmp_path / "stopped" / "checkpoints" / "epoch_0004.pt").write_bytes(b"cut")
    metrics = tmp_path / "stopped" / "metrics.jsonl"
    metrics.write_text(metrics.read_text() + '{"epoch": 5, "los')
    with pytest.warns(RuntimeWarning, match="trying the previous checkpoint"):
        train("stopped", resume=True)
    assert tiny.rows(tmp_path / "stopped") == tiny.rows(tmp_path / "whole")


def test_resuming_without_a_checkpoint_starts_at_the_beginning(train, tmp_path):
    train("whole")
    train("stopped", epochs=2)
    shutil.rmtree(tmp_path / "stopped" / "checkpoints")
    train("stopped", resume=True)
    assert tiny.rows(tmp_path / "stopped") == tiny.rows(tmp_path / "whole")


def test_resuming_a_finished_run_changes_nothing(train, tmp_path):
    train("whole")
    before = (
        (tmp_path / "whole" / "metrics.jsonl").read_text(),
        (tmp_path / "whole" / "summary.json").read_text(),
    )
    train("whole", resume=True)
    assert (
        (tmp_path / "whole" / "metrics.jsonl").read_text(),
        (tmp_path / "whole" / "summary.json").read_text(),
    ) == before


def test_metrics_accumulate_across_restarts(train, tmp_path):
    ladders = {"adjoint_ladder": {"kind": "iterations", "start": 3, "step": 2, "stop": 7}}
    train("stopped", epochs=3, refinement=ladders)
    train("stopped", resume=True, refinement=ladders)
    lines = [
        json.loads(line)
        for line in (tmp_path / "stopped" / "metrics.jsonl").read_text().splitlines()
    ]
    for key in (
        "forward_iterations",
        "adjoint_iterations",
        "solves",
        "solver_seconds",
        "network_seconds",
        "total_seconds",
    ):
        values = [line[key] for line in lines]
        assert values == sorted(values), key
    # 10 samples per epoch, each with one forward and one adjoint solve, at the level of the epoch
    assert [line["solves"] for line in lines] == [20 * epoch for epoch in range(EPOCHS + 1)]
    for direction, level in (("forward", "level"), ("adjoint", "adjoint_level")):
        work = [
            after[f"{direction}_iterations"] - before[f"{direction}_iterations"]
            for before, after in pairwise(lines)
        ]
        assert work == [10 * line[level] for line in lines[1:]]
        assert lines[-1][level] > lines[1][level]


@pytest.mark.parametrize(
    ("epochs", "changes", "message"),
    [
        (EPOCHS, {"seed": 2}, "seed: 1 in the checkpoint, 2 now"),
        (
            EPOCHS,
            {"training": {"learning_rate": 0.5}},
            r"training\.learning_rate: 0\.01 in the checkpoint, 0\.5 now",
        ),
        (EPOCHS, {"network": {"hidden": [9]}}, r"network\.hidden"),
        (2, {}, r"epoch_0003\.pt: the run already has 3 epochs; give training\.epochs=3 or more"),
    ],
)
def test_an_incompatible_resume_is_rejected_and_changes_no_file(
    epochs, changes, message, train, tmp_path
):
    train("run", epochs=3)
    files = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(CheckpointError, match=message):
        train("run", epochs=epochs, resume=True, **changes)
    assert {
        path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()
    } == files


@pytest.mark.parametrize(
    ("refinement", "saved"),
    [
        ({}, 0.0),
        ({"adjoint_ladder": {"kind": "iterations", "stop": 7}}, 0.0),
        ({"level": 3}, 0.0),
        ({"adjoint_ladder": {"kind": "tolerances"}}, None),
    ],
)
@pytest.mark.parametrize("make", [tiny.emulator, tiny.corrector])
def test_full_refinement_saves_nothing(make, refinement, saved, train):
    summary = train("full", epochs=1, make=make, refinement={"schedule": "constant", **refinement})
    assert summary["savings"] == {"inner_iterations": saved}


def test_broken_metrics(train, tmp_path):
    train("run", epochs=2)
    metrics = tmp_path / "run" / "metrics.jsonl"
    metrics.write_text("no JSON\n" + metrics.read_text())
    with pytest.raises(ReportError, match=r"metrics\.jsonl, line 1: is not JSON"):
        train("run", resume=True)


def test_a_second_run_is_rejected(train, tmp_path):
    train("run", epochs=1)
    before = tiny.rows(tmp_path / "run")
    with pytest.raises(
        RunFolderError,
        match=r"already contains a run: continue it with --resume, start again with --overwrite",
    ):
        train("run", epochs=1)
    assert tiny.rows(tmp_path / "run") == before


def test_run_twice_gives_the_same(train, tmp_path):
    train("a", epochs=2)
    train("b", epochs=2)
    assert tiny.rows(tmp_path / "a") == tiny.rows(tmp_path / "b")


MANY = {
    "optimizer": {"kind": "NAdam", "weight_decay": 0.1},
    "weight_decay_on": "weights",
    "schedule": {"kind": "plateau", "patience": 0, "threshold": 0.3},
    "warmup_steps": 4,
    "clip_norm": 0.05,
    "accumulate": 3,
    "ema": 0.5,
    "loss": {"kind": "h1", "weight": 0.01},
}


@pytest.mark.parametrize(
    "training",
    [
        MANY,
        {"optimizer": {"kind": "LBFGS", "max_iter": 2}, "learning_rate": 0.5},
        {"schedule": {"kind": "OneCycleLR", "max_lr": 0.1, "total_steps": 60}},
        {"schedule": {"kind": "MultiStepLR", "milestones": [3, 7]}, "checkpoint_activations": True},
    ],
    ids=["many", "lbfgs", "one cycle", "milestones"],
)
def test_resumed_run_with_other_settings_is_the_undisturbed_one(training, train, tmp_path):
    chain = {"chain": "diverted", "unroll": 2}
    train("whole", training=training, emulator=chain)
    train("stopped", epochs=3, training=training, emulator=chain)
    train("stopped", resume=True, training=training, emulator=chain)
    assert tiny.rows(tmp_path / "stopped") == tiny.rows(tmp_path / "whole")


def test_a_run_can_start_from_the_weights_of_another(train, tmp_path):
    train("first", training={"ema": 0.5})
    given = load_network(tmp_path / "first").state_dict()
    source = {"init_from": str(tmp_path / "first")}
    train("second", epochs=1, training=source)
    last, first = (tiny.rows(tmp_path / name) for name in ("first", "second"))
    assert first[0]["error"] == last[-1]["error"]
    record = json.loads((tmp_path / "second" / "init_from.json").read_text())
    assert (record["folder"], record["epoch"]) == (source["init_from"], EPOCHS)
    with pytest.raises(InputError, match=r"layers.* is of the shape .* there and .* here"):
        train("third", training=source, network={"hidden": [5]})
    # A resumed run does not read the folder again.
    shutil.rmtree(tmp_path / "first")
    train("second", epochs=2, training=source, resume=True)
    assert load_network(tmp_path / "second").state_dict().keys() == given.keys()
    with pytest.raises(CheckpointError, match="no checkpoint yet"):
        train("fourth", training=source)


@pytest.mark.parametrize("saved", [(1, 1), (1, 2), (2, 1), (2, 2), (1, 4), (4, 1), (3, 2)])
@pytest.mark.parametrize("now", [(1, 1), (1, 2), (2, 1), (2, 2), (1, 4), (4, 1), (3, 2)])
def test_each_rank_continues_from_the_states_of_its_replica(saved, now):
    """A stream is that of the replica; parts of fields are only of the same division."""
    (before, parts), (replicas, grid_ranks) = saved, now
    streams = [f"stream {replica}" for replica in range(before) for _ in range(parts)]
    state = {"random": streams, "solver": list(range(before * parts)), "ranks": [before, parts]}
    found = states_of_ranks(state, replicas, grid_ranks)
    if before == replicas:
        assert found["random"] == [
            f"stream {r}" for r in range(replicas) for _ in range(grid_ranks)
        ]
    else:
        assert "random" not in found
    assert ("solver" in found) == (saved == now)
