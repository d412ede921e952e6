"""Correctness: tasks train and validate on all windows of their trajectories."""

from itertools import islice

import h5py
import numpy as np
import pytest
import tiny
import torch

from prdp_hpc.config import validate
from prdp_hpc.data import DataError, TrajectoryFile, reader
from prdp_hpc.errors import InputError
from prdp_hpc.experiments.build import build_task
from prdp_hpc.experiments.run import run_experiment

STATES = np.random.default_rng(0).standard_normal((3, 8, 1, 8))


def store(path, states=STATES):
    with h5py.File(path, "w") as file:
        file["train/trajectories"] = file["validation/trajectories"] = states
    return str(path)


def test_all_states_count(mesh, tmp_path):
    """Two files that differ only from state 3 on."""
    other, rows = STATES.copy(), {}
    other[:, 3:] *= 2.0
    for name, states in (("one", STATES), ("two", other)):
        data = {"file": store(tmp_path / f"{name}.h5", states)}
        config = validate(tiny.emulator(tmp_path, name=name, data=data), "here")
        run_experiment(config, mesh, tmp_path / name)
        rows[name] = tiny.rows(tmp_path / name)
    for one, two in zip(rows["one"][1:], rows["two"][1:], strict=True):
        assert one["loss"] != two["loss"]
        assert one["error"] != two["error"]


@pytest.mark.parametrize(
    ("make", "length", "steps"), [(tiny.emulator, 3, 2), (tiny.corrector, 3, 3)]
)
@pytest.mark.parametrize("stride", [1, 2, 3, 9])
def test_windows_are_samples(make, length, steps, stride, make_task, tmp_path):
    """They give what trajectories of these states alone give."""
    file = store(tmp_path / "all.h5")
    task, _ = make_task(make, 3, data={"file": file, "stride": stride})
    starts = range(0, 8 - length + 1, stride)
    cut = np.concatenate([STATES[:, s : s + length] for s in starts]).reshape(-1, 3, length, 1, 8)
    expected = cut.swapaxes(0, 1).reshape(-1, length, 1, 8)
    found = task._batch(np.arange(len(expected)))
    np.testing.assert_array_equal(found.numpy(), expected)
    assert task.steps_per_epoch == -(-len(expected) // 4)
    validated = np.concatenate([STATES[:, s : s + steps + 1] for s in range(0, 8 - steps, stride)])
    with task.evaluating():
        alone = task.sample_errors(torch.from_numpy(validated))
    assert task.validate() == pytest.approx({k: v.mean() for k, v in alone.items()}, rel=1e-12)


def test_what_is_not_used_is_reported(make_task, tmp_path, capsys):
    file = store(tmp_path / "all.h5")
    make_task(tiny.emulator, 3, data={"file": file})
    assert "not used" not in capsys.readouterr().err
    make_task(tiny.emulator, 3, data={"file": file, "stride": 4})
    assert (
        "all.h5: 6 of 24 states of train are not used: its 6 samples are windows of 3 states with "
        "data.stride=4" in capsys.readouterr().err
    )


def test_axes_that_are_read_in_an_unlikely_way_are_reported(make_task, tmp_path, capsys):
    rows = np.random.default_rng(0).random((2, 3, 8, 8))
    make_task(tiny.emulator, 3, data={"file": store(tmp_path / "rows.h5", rows)})
    assert "rows.h5: grid.shape: the file does not name its axes" in capsys.readouterr().err
    make_task(tiny.emulator, 3, data={"file": store(tmp_path / "one.h5", rows[:, :, :1])})
    assert "name its axes" not in capsys.readouterr().err


def test_the_window_of_a_task_may_be_longer_but_not_shorter(make_task, tmp_path):
    file = store(tmp_path / "all.h5")
    task, _ = make_task(tiny.emulator, 3, data={"file": file, "window": 5, "steps": 6})
    found = task._batch(np.arange(9)).numpy()
    np.testing.assert_array_equal(found[3:6], [STATES[1, s : s + 5] for s in range(3)])
    with pytest.raises(InputError, match=r"data\.window=2: the task needs 3 states"):
        make_task(tiny.emulator, 3, data={"file": file, "window": 2})
    with pytest.raises(DataError, match=r"have 7 step\(s\), but the task needs 8"):
        make_task(tiny.emulator, 3, data={"file": file, "window": 9})


def test_generated_trajectories_have_the_steps_that_are_used(make_task):
    from prdp_hpc.generation.generate import generated_path

    task, config = make_task(tiny.emulator, 3, data={"steps": 5})
    assert TrajectoryFile(generated_path(config)).steps == 5
    assert task.steps_per_epoch == 10
    without = validate(tiny.emulator(config.output), "here")
    assert generated_path(without) != generated_path(config)


def test_validation_in_batches_is_that_at_once(make_task, monkeypatch, tmp_path):
    """The number of samples evaluated at once is bounded by their memory."""
    from prdp_hpc.tasks import task_data

    file, sizes = store(tmp_path / "all.h5"), []
    task, _ = make_task(tiny.corrector, 2, data={"file": file, "stride": 1})
    whole, tested = task.validate(), task.test()
    monkeypatch.setattr(task_data, "EVALUATED_BYTES", 2 * 4 * 8 * 8)  # two samples of 4 states
    own = task.sample_errors
    monkeypatch.setattr(
        task, "sample_errors", lambda batch: sizes.append(len(batch)) or own(batch), raising=True
    )
    assert task.validate() == pytest.approx(whole, rel=1e-12)
    assert sizes == [2] * 7 + [1]
    for name, errors in task.test()["samples"].items():
        assert errors == pytest.approx(tested["samples"][name], rel=1e-12)


def test_a_task_without_errors_is_rejected(mesh, tmp_path):
    from prdp_hpc import SupervisedTask
    from prdp_hpc.experiments.build import ConfigParts

    class Nothing(SupervisedTask):
        def local_loss(self, trajectories):
            return trajectories.sum()

    config = validate(tiny.emulator(tmp_path, data={"file": store(tmp_path / "a.h5")}), "here")
    parts = ConfigParts(config, mesh)
    with pytest.raises(InputError, match=r"Nothing has neither a method sample_errors\(traj"):
        Nothing(parts.stepper(), parts.network, parts.data, mesh)


def trained(make_task, make, epochs=2, **data):
    """The losses, errors and parameters of a training."""
    task, _ = make_task(make, 3, data=data)
    losses = [task.train_epoch(epoch) for epoch in range(1, epochs + 1)]
    gradient, sampled = task.gradient(), task.sampled_gradient(1)
    found = (
        losses,
        task.validate(),
        task.test(),
        torch.nn.utils.parameters_to_vector(task.network.parameters()),
    )
    task.close()
    return (*found, gradient, *sampled)


@pytest.mark.parametrize("make", [tiny.emulator, tiny.corrector])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("not_waiting", [reader.NOT_WAITING, None])
def test_streamed_training_is_that_in_memory(
    make, stride, not_waiting, make_task, tmp_path, monkeypatch
):
    """Bit for bit, read from the system's cache or by a thread; between them, gradients of other
    batches are computed.
    """
    monkeypatch.setattr(reader, "NOT_WAITING", not_waiting)
    data = {"file": store(tmp_path / "all.h5"), "stride": stride}
    (memory, streamed) = (
        trained(make_task, make, in_memory=in_memory, **data) for in_memory in (True, False)
    )
    for one, two in zip(memory, streamed, strict=True):
        assert torch.equal(one, two) if isinstance(one, torch.Tensor) else one == two


class Counting:
    """The bytes that are read of a file, by its thread (`waits`) or from the system's cache."""

    def __init__(self, monkeypatch, waits):
        self.states, self.samples = [], []
        name, other = ("read_windows", "cached_windows")[:: 1 if waits else -1]
        own = getattr(TrajectoryFile, name)

        def read(data, group, places, length, part):
            found = own(data, group, places, length, part)
            self.states.extend((group, *place) for place in places)
            self.samples.extend(window.nbytes for window in found)
            return found

        monkeypatch.setattr(TrajectoryFile, name, read)
        monkeypatch.setattr(TrajectoryFile, "read", None)
        if waits:
            monkeypatch.setattr(TrajectoryFile, other, lambda *_: None)


@pytest.mark.parametrize("waits", [True, False])
def test_nothing_is_read_before_it_is_needed(waits, mesh, tmp_path, monkeypatch):
    """Of a training file with many trajectories, the samples of the steps that are done and of
    three more batches are read, in the order of the epoch.
    """
    states = np.random.default_rng(0).standard_normal((300, 6, 1, 8))
    with h5py.File(tmp_path / "many.h5", "w") as file:
        file["train/trajectories"], file["validation/trajectories"] = states, states[:2]
    data = {"file": str(tmp_path / "many.h5"), "in_memory": False}
    config = validate(tiny.emulator(tmp_path, data=data, training={"batch_size": 4}), "here")
    counting = Counting(monkeypatch, waits)
    task = build_task(config, mesh)
    task.solver.refine(2)
    task.train_steps(0, 5)
    task.close()
    read = [(sample, start) for group, sample, start in counting.states if group == "train"]
    order = np.concatenate(list(islice(task._sampler.batches(1), 8)))
    assert set(counting.samples) <= {8, 8 * 8, 3 * 8 * 8}  # one point, one state, or a window
    expected = [divmod(int(sample), 4) for sample in order]
    assert read == expected[: len(read)]
    assert len(read) >= 5 * 4


@pytest.mark.parametrize("not_waiting", [reader.NOT_WAITING, None])
@pytest.mark.parametrize("place", ["no file", "nan"])
def test_an_error_while_reading_ends_the_training(
    place, not_waiting, make_task, tmp_path, monkeypatch
):
    monkeypatch.setattr(reader, "NOT_WAITING", not_waiting)
    states = STATES.copy()
    if place == "nan":
        states[2, 5, 0, 3] = np.nan
    file = store(tmp_path / "all.h5", STATES)
    task, _ = make_task(tiny.emulator, 3, data={"file": file, "in_memory": False})
    with h5py.File(tmp_path / "bad.h5", "w") as bad:
        bad["train/trajectories"] = states
    task._data.data.data.path = tmp_path / "bad.h5"
    if place == "no file":
        (tmp_path / "bad.h5").unlink()
    task._data.data.data.close()
    message = "first in sample 2, step 5" if place == "nan" else "bad.h5: no such data file"
    with pytest.raises(DataError, match=message):
        task.train_epoch(1)
    task.close()


def test_data_that_do_not_fit_are_streamed(make_task, monkeypatch, tmp_path, capsys):
    from prdp_hpc.tasks import task_data

    file = store(tmp_path / "all.h5")
    for free, streamed in ((1e9, False), (2 * STATES.nbytes, True)):
        monkeypatch.setattr(task_data, "free_bytes", lambda free=free: free)
        task, _ = make_task(tiny.emulator, 3, data={"file": file})
        assert (task._data.train.streamed, task._data.validation.streamed) == (streamed, False)
        task.close()
    assert "all.h5: train needs 0.00 GiB per rank, more than 50%" in capsys.readouterr().err


def test_initial_guesses_are_those_of_the_windows(make_task, tmp_path):
    """With converged guesses a second epoch of the same network needs no iterations."""
    data = {"file": store(tmp_path / "all.h5")}
    solver = {"ksp": "cg", "pc": "jacobi", "initial_guess": "last"}
    training = {"learning_rate": 1e-300, "batch_size": 18}
    task, _ = make_task(tiny.emulator, 1e-10, data=data, solver=solver, training=training)
    counts = []
    for epoch in (1, 2):
        task.train_epoch(epoch)
        counts.append(task.solver.report.forward.iterations)
    assert counts[0] > 18
    assert counts[1] == counts[0]
    assert {key[-1] for key in task.solver._last._kept} == set(range(18))
