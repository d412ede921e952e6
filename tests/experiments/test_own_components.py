"""Usability: user-defined components can replace every built-in one."""

import json
import shutil
import subprocess
import sys
import threading

import h5py
import numpy as np
import own_components
import pytest
import tiny
import torch
import yaml
from differences import check_gradient
from safetensors import safe_open

from prdp_hpc import evaluate, export, load_config, load_network, train
from prdp_hpc.cli import main
from prdp_hpc.config import ConfigError, components
from prdp_hpc.config.components import BUILT_IN
from prdp_hpc.config.yaml_files import shipped_configs
from prdp_hpc.experiments.build import build_task

FILE = own_components.__file__
PDE = {"pde": "mine.py:Transport", "dt": 0.05}
OWN = {
    "grid": {"shape": [8], "boundary": "periodic"},
    "solver": {"ksp": "gmres", "pc": "jacobi"},
    "physics": PDE,
    "network": {"kind": "mine.py:Parts", "width": 3},
    "network_inputs": ["coordinates", "physics"],
    "refinement": {
        "schedule": {"kind": "mine.py:Twice", "every": 1},
        "ladder": {"kind": "iterations", "stop": 4},
    },
    "training": {
        "optimizer": {"kind": "torch.optim:SGD", "momentum": 0.5},
        "schedule": {"kind": "mine.py:warm_up", "steps": 3},
        "loss": {"kind": "mine.py:huber", "delta": 0.5},
    },
}


@pytest.fixture
def folder(tmp_path):
    """A folder with a file of user code."""
    shutil.copy(FILE, tmp_path / "mine.py")
    return tmp_path


def config_in(folder, **changes):
    """Write a config beside the file of user code; return its path."""
    return tiny.write(folder / "own.yaml", tiny.emulator(folder / "runs", **{**OWN, **changes}))


def one_message(call, *parts):
    with pytest.raises(ConfigError) as caught:
        call()
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"physics": {**PDE, "speed": 1}}, ["physics.speed: unknown key; did you mean 'speeds'?"]),
        ({"physics": {"pde": "mine.py:Transport"}}, ["physics.dt: must be given"]),
        ({"physics": {**PDE, "dt": 0}}, ["physics.dt: must be greater than 0, not 0"]),
        ({"physics": {**PDE, "pde": "mine.py:Transpot"}}, ["physics.pde", "'Transport'?"]),
        (
            {"physics": {**PDE, "pde": "mein.py:Transport"}},
            ["no such file", "'mine.py'?"],
        ),
        ({"physics": {**PDE, "pde": "no_such.package:X"}}, ["there is no module 'no_such'"]),
        ({"network": {"kind": "mine.py:Parts", "widht": 3}}, ["network.widht", "'width'?"]),
        ({"training": {"loss": "mine.py:hubr"}}, ["training.loss", "'huber'?"]),
        ({"refinement": {"schedule": {"every": 1}}}, ["refinement.schedule"]),
        ({"data": {"format": "mine.py:Arrays"}}, ["data: file must be given"]),
        ({"grid": {"shape": [8]}}, ["transport needs grid.boundary=periodic"]),
    ],
)
def test_mistakes_in_their_sections_get_the_same_messages(changes, parts, folder):
    one_message(lambda: load_config(config_in(folder, **changes)), *parts)


def test_all_mistakes_are_reported_together(folder):
    wrong = {"physics": {**PDE, "speed": 1}, "network": {"kind": "nine.py:X"}, "seed": -1}
    with pytest.raises(ConfigError) as caught:
        load_config(config_in(folder, **wrong))
    assert len(str(caught.value).splitlines()) == 4


def test_files_of_components_in_a_shipped_config_start_at_the_working_folder(folder, monkeypatch):
    monkeypatch.chdir(folder)
    shipped = str(shipped_configs()["heat_1d"])
    config = load_config(shipped, ["network={kind: 'mine.py:Whole', width: 3}"])
    assert config.network.kind == f"{folder}/mine.py:Whole"


def test_a_bug_in_a_file_keeps_its_traceback(folder):
    (folder / "mine.py").write_text("raise KeyError('from the user')")
    with pytest.raises(KeyError, match="from the user"):
        load_config(config_in(folder))


def test_gradients_through_a_user_defined_chain_are_correct(mesh, folder):
    training = {"batch_size": 10, "loss": {"kind": "mine.py:huber", "delta": 0.5}}
    config = load_config(config_in(folder, training=training))

    def fresh_task():
        task = build_task(config, mesh)
        task.solver.refine(8)  # converged on 8 points: the implicit gradient is exact
        return task

    check_gradient(fresh_task)


def test_a_network_on_whole_fields_receives_the_state_and_the_other_inputs(mesh, folder):
    config = load_config(config_in(folder, network={"kind": "mine.py:Whole"}))
    task = build_task(config, mesh)
    assert task.network.first.in_channels == 4  # two species, x, and the field of the PDE
    assert np.isfinite(task.train_epoch(1))


def test_a_run_from_config_to_evaluation(folder, capsys):
    path = config_in(folder)
    summary = train(path)
    run = folder / "runs" / "tiny"
    assert summary["schedule"] == "Twice"
    assert summary["level"] == 4
    code = json.loads((run / "components.json").read_text())
    assert code["physics.pde"]["sha256"] == code["network.kind"]["sha256"]
    assert code["data.format"] == {"name": "hdf5"}
    data = next((folder / "runs" / "data").glob("transport_*.h5"))
    with h5py.File(data) as file:
        assert file.attrs["dt"] == 0.05
    main(["inspect", str(data)])
    table = capsys.readouterr().out.partition("largest\n")[2].splitlines()
    assert [line.split()[0] for line in table[1:3]] == ["a", "b"]  # the file names its channels
    own = [f"{folder}/mine.py:{name}" for name in ("Transport", "Parts")]
    network = load_network(run, [own[1]])
    assert network(torch.zeros(2, 4, 8, dtype=torch.float64)).shape == (2, 2, 8)
    assert evaluate(run, components=own)["error"] == pytest.approx(summary["error"], rel=1e-12)
    exported = export(run, "safetensors", components=own)  # without the optimiser's name
    with safe_open(exported["file"], "pt") as file:
        assert (
            "torch.optim:SGD"
            in json.loads(file.metadata()["config"])["training"]["optimizer"]["kind"]
        )
    one_message(lambda: load_network(run), "network.kind", "permit it with --component")
    one_message(lambda: evaluate(run, components=own[1:]), "physics.pde")


def test_nothing_is_imported_because_of_a_run_folder(folder):
    train(config_in(folder, training={"epochs": 1}, network={"hidden": [4]}))
    run = folder / "runs" / "tiny"
    (folder / "mine.py").write_text("raise SystemExit('imported')")
    content = yaml.safe_load((run / "config.yaml").read_text())
    del content["emulator"]  # a section of the task that is replaced
    content["training"]["optimizer"] = content["task"] = f"{folder}/mine.py:X"
    (run / "config.yaml").write_text(yaml.safe_dump(content))
    code = (
        f"import sys; from prdp_hpc import load_network; print(load_network({str(run)!r}))\n"
        "print('petsc4py.PETSc' in sys.modules)"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert "MLP" in output.stdout, output.stderr
    assert output.stdout.endswith("\nFalse\n")  # networks are loaded without PETSc


def test_an_unfinished_comparison_imports_nothing_either(folder, capsys):
    small = ["comparison.seeds=1", "training.epochs=1", "refinement.schedule=prdp"]
    path = config_in(folder)
    main(["compare", path, *small])
    (folder / "evil.py").write_text("raise SystemExit('imported')")
    resolved = next((folder / "runs" / "tiny-compare").rglob("prdp/config.yaml"))
    text = resolved.read_text()
    resolved.write_text(text.replace("torch.optim:SGD", f"{folder}/evil.py:X"))
    capsys.readouterr()
    main(["compare", path, *small, "--resume"])  # an import would print "imported"
    assert "saved by PRDP against" in capsys.readouterr().out
    assert resolved.read_text() == text


def test_a_resumed_run_equals_the_undisturbed_one_and_reports_changed_code(folder, capfd):
    path = config_in(folder)
    train(path, ["name=whole", "training.epochs=4"])
    train(path, ["name=parts", "training.epochs=2"])
    train(path, ["name=parts", "training.epochs=4"], resume=True)
    assert "the code of" not in capfd.readouterr().err
    whole, parts = (tiny.rows(folder / "runs" / name) for name in ("whole", "parts"))
    assert whole == parts
    with (folder / "mine.py").open("a") as file:
        file.write("# another line\n")
    moved = folder / "moved"
    moved.mkdir()
    shutil.move(folder / "mine.py", moved / "mine.py")
    shutil.move(path, moved / "own.yaml")
    train(str(moved / "own.yaml"), ["name=parts", "training.epochs=5"], resume=True)
    reported = capfd.readouterr().err
    assert "physics.pde: the code of" in reported
    assert "network.kind: the code of" in reported


@pytest.mark.parametrize("section", ["own_components:Residual", {"weight": 0.5}])
def test_a_user_defined_task_on_user_defined_data(section, folder):
    states = np.random.default_rng(0).standard_normal((6, 3, 1, 8)).astype(np.float32)
    np.save(folder / "states.npy", states)
    task = section if isinstance(section, str) else {"kind": "mine.py:Residual", **section}
    changes = {
        "task": task,
        "physics": {"pde": "mine.py:Decay", "rate": 2.0},
        "network": {"hidden": [6]},
        "network_inputs": [],
        "data": {
            "file": str(folder / "states.npy"),
            "format": {"kind": "mine.py:Arrays", "validation": 3},
        },
    }
    summary = train(config_in(folder, **changes))
    assert summary["task"] == "Residual"
    assert np.isfinite(summary["error"])
    found = components(load_config(config_in(folder, **changes)))
    assert found["task"].label == "Residual"
    misspelled = {"task": {"kind": "mine.py:Residual", "wieght": 1}}
    one_message(
        lambda: load_config(config_in(folder, **changes | misspelled)),
        "task.wieght: unknown key; did you mean 'weight'?",
    )


def test_a_task_without_a_network(folder, capsys):
    own = [f"{folder}/mine.py:{name}" for name in ("Calibration", "Decay")]
    changes = {
        "task": "mine.py:Calibration",
        "physics": {"pde": "mine.py:Decay"},
        "network": {"hidden": [6]},
        "network_inputs": [],
        "refinement": {"ladder": {"kind": "iterations", "stop": 4}},
        "training": {"epochs": 2},
    }
    path, run = config_in(folder, **changes), folder / "runs" / "tiny"
    whole = train(path, ["name=whole", "training.epochs=3"])
    train(path)
    assert train(path, ["training.epochs=3"], resume=True)["error"] == whole["error"]
    assert evaluate(run, components=own)["error"] == pytest.approx(whole["error"], rel=1e-12)
    named = [word for name in own for word in ("--component", name)]
    main(["evaluate", str(run), *named])
    printed = capsys.readouterr().out
    assert f"{whole['error']:.4e}" in printed
    assert "positive" in printed
    assert "losses" not in printed
    for command in ("predict", "show"):
        refused(capsys, [command, str(run), *named], "Calibration has no method advance(state)")
    exported = ["export", str(run), *named, "--format", "torch"]
    refused(capsys, exported, "the task Calibration has no network")
    refused(capsys, ["gradients", str(path)], "Calibration has no method gradient()")
    again = ["run", str(path), "name=again", f"training.init_from={run}"]
    refused(capsys, again, "training.init_from: the task Calibration has no method load_network()")


def refused(capsys, arguments, message):
    """The command ends with code 2 and one message."""
    with pytest.raises(SystemExit) as end:
        main(arguments)
    printed = capsys.readouterr().err
    assert end.value.code == 2, printed
    assert message in printed
    assert "Traceback" not in printed


def test_a_loss_that_is_a_mean_is_rejected(mesh, folder):
    config = load_config(config_in(folder, training={"loss": "torch.nn:MSELoss"}))
    task = build_task(config, mesh)
    with pytest.raises(ValueError, match=r"training.loss: must return the loss of each entry"):
        task.train_epoch(1)


def test_a_network_with_other_channels_is_rejected(mesh, folder):
    (folder / "other.py").write_text(
        "from torch import nn\nNet = lambda i, o: nn.Conv1d(i, o + 1, 1)"
    )
    config = load_config(config_in(folder, network={"kind": "other.py:Net"}))
    with pytest.raises(ValueError, match=r"maps 4 channels .* to a tensor of shape \(3, 8\)"):
        build_task(config, mesh)


def test_off_the_main_thread(folder):
    found = []
    thread = threading.Thread(target=lambda: found.append(train(config_in(folder))))
    thread.start()
    thread.join(60)
    assert found[0]["epochs"] == 3


def test_an_installed_package_registers_names(folder, monkeypatch):
    package = folder / "ocean-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Name: ocean\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[prdp_hpc.physics]\ntransport = mine:Transport\n")
    code = (
        "from prdp_hpc import load_config\n"
        f"print(load_config({config_in(folder, physics=PDE | {'pde': 'transport'})!r}).physics)"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False,
        env=tiny.environment() | {"PYTHONPATH": f"{folder}:{tiny.REPOSITORY}"},
    )  # fmt: skip
    assert "pde='transport'" in output.stdout, output.stderr


def test_plan_and_submit_take_them(folder, capsys):
    path = config_in(folder)
    main(["plan", path, "--ranks", "2"])
    output = capsys.readouterr().out
    assert "2 solve(s) per sample" in output
    parameters = 3 * 4 * 3 + 3 + 3 * 3 * 2 + 2
    assert f"network of {parameters} parameters" in output
    main(["submit", path, "--dry-run"])
    assert "#SBATCH" in capsys.readouterr().out


@pytest.mark.long
def test_a_measured_plan_writes_no_warnings_of_libraries(folder):
    command = [tiny.BIN / "prdp-hpc", "plan", config_in(folder), "--ranks", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_built_in_configs_are_checked_without_torch_and_mpi(tmp_path):
    path = tiny.write(tmp_path / "c.yaml", tiny.emulator(tmp_path))
    code = (
        "import sys; from prdp_hpc.cli import main\n"
        f"main(['submit', {path!r}, '--dry-run']); main(['plan', {path!r}, '--ranks', '2'])\n"
        "print(sorted({'torch', 'mpi4py.MPI', 'petsc4py.PETSc'}.intersection(sys.modules)))"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert output.stdout.splitlines()[-1:] == ["[]"], output.stdout + output.stderr


def test_no_second_list_of_the_built_in_names():
    """The name of a PDE appears in its file, in its section and in the list of names."""
    package = tiny.REPOSITORY / "prdp_hpc"
    sections = ("components", "base", "experiment", "inverse_tasks", "amortised", "physics")
    allowed = {f"config/{name}.py" for name in (*sections, "networks")}
    # The emulator is the task of suggested configs, and "inverse" is also a word of linear algebra.
    tasks = BUILT_IN["tasks"].keys() - {"emulator", "inverse"}
    # The names of equations in files of other programs.
    allowed |= {f"data/formats/{name}.py" for name in ("apebench", "pdebench_arrays", "the_well")}
    for path in package.rglob("*.py"):
        if str(path.relative_to(package)) in allowed or path.parent.name in ("physics", "networks"):
            continue
        source = path.read_text(encoding="utf-8")
        for word in (*BUILT_IN["physics"], *BUILT_IN["networks"], *tasks):
            assert f'"{word}"' not in source, (path, word)
