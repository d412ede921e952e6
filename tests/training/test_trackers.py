"""Trackers: chosen by name, continued by a resumed run, and unable to end training."""

import json
import subprocess
import sys

import pytest
import tiny

from prdp_hpc.config import ConfigError, load_config, validate
from prdp_hpc.config.slots import Imports
from prdp_hpc.errors import InputError
from prdp_hpc.experiments.run import run_experiment
from prdp_hpc.refinement import ConstantSchedule
from prdp_hpc.training.trackers.tracker import TrackedRun, Trackers, scalars
from prdp_hpc.training.trainer import Trainer

OWN = """
import json


class Lines:
    def __init__(self, file, fails_at=None):
        self._file, self._fails_at = file, fails_at

    def start(self, run):
        self._path = run.folder / self._file
        self._write({"start": run.name, "seed": run.config["seed"], "at": run.resumed_at})

    def log(self, numbers, step):
        if step == self._fails_at:
            raise ConnectionError("no route to host")
        self._write({"step": step} | numbers)

    def finish(self, summary):
        self._write({"ended": None if summary is None else summary["ended"]})

    def _write(self, line):
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\\n")
"""


@pytest.fixture
def own(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    return {"kind": f"{tmp_path}/own.py:Lines"}


@pytest.fixture
def train(mesh, tmp_path):
    def run(name, tracking, resume=False, **training):
        content = tiny.emulator(tmp_path, name=name, tracking=tracking, training=training)
        return run_experiment(validate(content, "here"), mesh, tmp_path / name, resume)

    return run


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_an_own_tracker_receives_the_metrics(train, own, tmp_path):
    tracking = [own | {"file": "lines.jsonl"}]
    train("run", tracking, epochs=2, log_every=2)
    train("run", tracking, True, epochs=3, log_every=2)
    found = lines(tmp_path / "run" / "lines.jsonl")
    starts = [line for line in found if "start" in line]
    assert starts == [
        {"start": "run", "seed": 1, "at": None}, {"start": "run", "seed": 1, "at": 6},
    ]  # fmt: skip
    assert [line["ended"] for line in found if "ended" in line] == [
        "all 2 epochs were trained", "all 3 epochs were trained",
    ]  # fmt: skip
    errors = {line["step"]: line["error"] for line in found if "error" in line}
    assert errors == {row["step"]: row["error"] for row in tiny.rows(tmp_path / "run")}
    steps = [line["step"] for line in found if "steps/loss" in line]
    assert steps == [2, 4, 6, 8]
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_a_tracker_that_fails_is_reported_once_and_left_out(train, own, tmp_path):
    tracking = [own | {"file": "a", "fails_at": 3}, own | {"file": "b"}]
    with pytest.warns(RuntimeWarning, match=r"Lines\.log failed \(no route to host\)") as caught:
        train("run", tracking, epochs=3)
    assert len([one for one in caught if "tracking" in str(one.message)]) == 1
    assert "ended" not in lines(tmp_path / "run" / "a")[-1]
    assert lines(tmp_path / "run" / "b")[-1] == {"ended": "all 3 epochs were trained"}
    train("other", [], epochs=3)
    assert tiny.rows(tmp_path / "run") == tiny.rows(tmp_path / "other")


def test_an_interrupted_run_is_marked(make_task, tmp_path):
    class Broken:
        calls = ()

        def start(self, run):
            self.calls = (run.name, run.resumed_at)

        def log(self, numbers, step):
            raise KeyboardInterrupt

        def finish(self, summary):
            self.calls += (summary,)

    task, _ = make_task(tiny.emulator, 2)
    tracker = Broken()
    with pytest.raises(KeyboardInterrupt):
        Trainer(task, ConstantSchedule(2), tmp_path / "run", 2, trackers=[tracker]).run()
    assert tracker.calls == ("run", None, None)


def test_a_missing_package(monkeypatch, tmp_path):
    from prdp_hpc import MLflow, WandB

    for name, kind in (("wandb", WandB), ("mlflow", MLflow)):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(InputError, match=r"pip install 'prdp-hpc\[trackers\]'"):
            Trackers([kind()]).start(TrackedRun("a", tmp_path))


def test_names_of_trackers(tmp_path, own):
    def config(*tracking):
        return validate(tiny.emulator(tmp_path, tracking=list(tracking)), "here")

    for wrong, message in (
        ("tensorbord", r"tracking\.0: 'tensorbord' is not known here"),
        ({"kind": "wandb", "mod": "offline"}, r"tracking\.0\.mod: .*did you mean 'mode'"),
        ({"kind": "wandb", "mode": "off"}, r"tracking\.0\.mode: must be 'online' or 'offline'"),
        ({"project": "a"}, r"tracking\.0: must name one of"),
    ):
        with pytest.raises(ConfigError, match=message):
            config(wrong)
    assert config().tracking == ()
    # A run folder does not import user code on its own, and loading a network needs no tracker.
    (tmp_path / "config.yaml").write_text(config("tensorboard", own | {"file": "a"}).to_yaml())
    imports = Imports((), ("network.kind",))
    assert load_config(tmp_path / "config.yaml", imports=imports).tracking == ("tensorboard",)
    with pytest.raises(ConfigError, match="not imported automatically"):
        load_config(tmp_path / "config.yaml", imports=Imports(()))


def test_numbers_of_a_row():
    row = {
        "step": 3,
        "epoch": 1,
        "loss": None,
        "error": float("nan"),
        "theta": [1.0, 2],
        "ok": True,
    }
    assert scalars(row) == {"epoch": 1.0, "theta/0": 1.0, "theta/1": 2.0}


# In a separate process, since wandb starts threads and another process.
OFFLINE = """
import os
import sys
from pathlib import Path
from prdp_hpc.training.trackers.mlflow import MLflow
from prdp_hpc.training.trackers.tracker import TrackedRun
from prdp_hpc.training.trackers.wandb import WandB

folder, ENVIRONMENT = Path(sys.argv[1]), sys.argv[2:]
config = {"seed": 1, "training": {str(key): key for key in range(150)}}
for at in (None, 4):
    if at is None:  # the environment says the rest
        trackers = [WandB(), MLflow()]
    else:
        for variable in ENVIRONMENT:
            del os.environ[variable]
        trackers = [WandB(project="prdp", mode="offline", group="own", tags=("mine",)), MLflow()]
    for tracker in trackers:
        tracker.start(TrackedRun("heat", folder, config, resumed_at=at))
        for step in (0, 4) if at is None else (8,):
            tracker.log({"error": 1 / (step + 1), "steps/loss": 0.5}, step)
        tracker.finish(None if at is None else {"error": 0.1, "ended": "all 8 steps"})

from mlflow import MlflowClient
from wandb.proto.wandb_internal_pb2 import Record

client = MlflowClient(f"file:{folder}/mlruns")
(experiment,) = [one for one in client.search_experiments() if one.name == "exp"]
(run,) = client.search_runs([experiment.experiment_id])
assert run.info.status == "FINISHED", run
assert run.data.tags["ended"] == "all 8 steps"
assert run.data.params["seed"] == "1" and len(run.data.params) == 151
history = client.get_metric_history(run.info.run_id, "error")
assert [(one.step, one.value) for one in history] == [(0, 1.0), (4, 0.2), (8, 1 / 9)]
assert run.data.metrics["summary/error"] == 0.1

found, ids, about = [], set(), []
for file in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
    data, at = file.read_bytes(), 7
    while at < len(data):  # records of a short file: checksum, length, type, content
        size = int.from_bytes(data[at + 4 : at + 6], "little")
        record = Record.FromString(data[at + 7 : at + 7 + size])
        at += 7 + size
        if record.WhichOneof("record_type") == "run":
            ids.add(record.run.run_id)
            about.append((record.run.project, record.run.run_group, list(record.run.tags)))
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            found.append({i.key or i.nested_key[0]: float(i.value_json) for i in items})
assert len(ids) == 1, ids
assert about == [("heat", "group", ["a", "b"]), ("prdp", "own", ["mine"])], about
assert [(one["step"], one["error"]) for one in found] == [(0, 1.0), (4, 0.2), (8, 1 / 9)]
print("both")
"""


ENVIRONMENT = {
    "WANDB_MODE": "offline",
    "WANDB_PROJECT": "heat",
    "WANDB_RUN_GROUP": "group",
    "WANDB_TAGS": "a,b",
    "MLFLOW_EXPERIMENT_NAME": "exp",
}


def test_weights_and_biases_and_mlflow_without_a_network(tmp_path):
    pytest.importorskip("wandb")
    pytest.importorskip("mlflow")
    ended = subprocess.run(
        [sys.executable, "-c", OFFLINE, str(tmp_path), *ENVIRONMENT],
        capture_output=True, text=True, timeout=120,
        env=tiny.environment() | ENVIRONMENT, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "both\n"
