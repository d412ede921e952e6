"""Reliability: any failure, on any ranks, ends the job with one message; errors that are not
mistakes of users keep their traceback.
"""

import re
import subprocess
import sys

import pytest
import tiny

import prdp_hpc
from prdp_hpc import cli
from prdp_hpc.commands.failures import missing_library
from prdp_hpc.errors import InputError

BUGS = [
    ValueError("zip() argument 2 is shorter than argument 1"),
    OSError("boom"),
    FileNotFoundError(2, "No such file or directory", "/somewhere"),
    ImportError("boom"),
    ModuleNotFoundError("No module named 'prdp_hpc.tasks'", name="prdp_hpc.tasks"),
    ImportError("cannot import name 'Adams' from 'torch.optim'", name="torch.optim"),
    KeyError("error"),
    RuntimeError(),
]


def ended(capsys, *words):
    """The exit code, and the output on standard error."""
    with pytest.raises(SystemExit) as end:
        cli.main([str(word) for word in words])
    return end.value.code, capsys.readouterr().err


def raising(error):
    """A function that raises the error as if its code were a file of the package."""
    code = compile("def fail(*_, **__):\n    raise error", prdp_hpc.__file__, "exec")
    names = {"error": error}
    exec(code, names)
    return names["fail"]


@pytest.fixture
def config(tmp_path):
    return tiny.write(tmp_path / "tiny.yaml", tiny.emulator(tmp_path / "runs"))


@pytest.mark.parametrize("error", BUGS, ids=repr)
@pytest.mark.parametrize("command", ["run", "compare", "plan"])
def test_bugs_keep_their_traceback(command, error, config, capsys, monkeypatch):
    monkeypatch.setattr(f"prdp_hpc.commands.{command}.load_config", raising(error))
    ranks = ["--ranks", "2"] if command == "plan" else []
    code, reported = ended(capsys, command, config, *ranks)
    assert code == 1
    assert reported.startswith(f"prdp-hpc: error: {type(error).__name__}")
    assert reported.count("Traceback (most recent call last)") == 1
    assert "in fail\n" in reported
    assert reported.endswith("the output of `prdp-hpc doctor`\n")


# torch raises the second one, in a call by this file
@pytest.mark.parametrize("body", ["1 / period", "torch.zeros(period)"])
def test_an_error_in_user_code_is_no_bug_of_the_package(body, tmp_path, capsys):
    content = tiny.emulator(tmp_path / "runs")
    content["training"]["schedule"] = {"kind": "mine.py:rate", "period": "two"}
    (tmp_path / "mine.py").write_text(f"import torch\n\ndef rate(period):\n    return {body}\n")
    code, reported = ended(capsys, "run", tiny.write(tmp_path / "tiny.yaml", content))
    assert code == 1
    assert reported.startswith("prdp-hpc: error: TypeError: ")
    place = f"the error is in {tmp_path / 'mine.py'}, line 4, which is not part of prdp-hpc"
    assert reported.endswith(f"prdp-hpc: {place}\n")


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize(
    "words",
    [
        ["run", "nowhere.yaml"],
        ["compare", "nowhere.yaml"],
        ["generate", "nowhere.yaml"],
        ["gradients", "nowhere.yaml"],
        ["submit", "nowhere.yaml"],
        ["paper", "--list", "nowhere.yaml"],
        ["plan", "nowhere.yaml", "--ranks", "2"],
        ["plot", "nowhere"],
        ["evaluate", "nowhere"],
    ],
    ids=lambda words: words[0],
)
def test_a_traceback_of_a_mistake_on_request(words, before, capsys):
    code, reported = ended(capsys, *words)
    assert (code, reported.count("\n")) == (2, 1)
    code, longer = ended(capsys, *(["--traceback", *words] if before else [*words, "--traceback"]))
    assert code == 2
    assert longer.startswith(reported)
    assert longer.count("Traceback (most recent call last)") >= 1
    assert "bug" not in longer


def test_doctor_takes_the_option_too(capsys):
    cli.main(["doctor", "--traceback"])
    assert "nothing is missing" in capsys.readouterr().out


# The action of each case, by its number, on the given ranks. CONFIG is replaced by the path of a
# tiny config.
RANKS = """
import sys, time
from mpi4py import MPI
from prdp_hpc import cli
from prdp_hpc.commands import run
from prdp_hpc.distributed.collective import call_together
from prdp_hpc.errors import InputError

world, config = MPI.COMM_WORLD, sys.argv[1]

def on(ranks, error, together=True):
    def load(*_):
        def fail():
            if world.rank in ranks:
                raise error
        if together:
            call_together(world, fail)
        else:
            fail()
            world.barrier()
            time.sleep(60)
    return load

everywhere = range(world.size)
cases = {
    "mistake of all": on(everywhere, InputError("mistaken"), together=False),
    "mistake of one": on([1], InputError("mistaken")),
    "bug of all": on(everywhere, ValueError("a bug"), together=False),
    "bug of one": on([1], ValueError("a bug")),
    "bug of two": on([1, 2], OSError("a bug")),
    "bug alone": on([1, 2], KeyError("a bug"), together=False),
}
for name, load in cases.items():
    run.load_config = load
    world.barrier()
    if world.rank == 0:
        print(f"=== {name}", file=sys.stderr, flush=True)
    world.barrier()
    try:
        cli.main(["run", config])
    except SystemExit as end:
        codes = world.gather(end.code)
        if world.rank == 0:
            print(f"codes {codes}", file=sys.stderr, flush=True)
"""


def test_one_message_on_many_ranks(config, tmp_path):
    (tmp_path / "ranks.py").write_text(RANKS)
    words = [tiny.BIN / "mpiexec", "-n", "3", sys.executable, tmp_path / "ranks.py", config]
    done = subprocess.run(
        [str(word) for word in words],
        capture_output=True,
        text=True,
        timeout=90,
        env=tiny.environment(),
        check=False,
    )
    reported = dict(part.split("\n", 1) for part in re.split("^=== ", done.stderr, flags=re.M)[1:])
    assert reported["mistake of all"] == "prdp-hpc: error: mistaken\ncodes [2, 2, 2]\n"
    assert reported["mistake of one"] == "prdp-hpc: error: rank 1: mistaken\ncodes [2, 2, 2]\n"
    for name, rank in (("bug of all", 0), ("bug of one", 1), ("bug of two", 1), ("bug alone", 1)):
        kind = {"bug of two": "OSError", "bug alone": "KeyError"}.get(name, "ValueError")
        assert re.match(rf"prdp-hpc: error \(rank {rank}\): {kind}: '?a bug", reported[name])
        assert reported[name].count("prdp-hpc: error") == 1
        assert reported[name].count("Traceback (most recent call last)") == 1
        assert "in fail\n" in reported[name]
        if name != "bug alone":
            assert reported[name].endswith("codes [1, 1, 1]\n")
    assert done.returncode != 0


def test_a_library_that_cannot_be_imported(config, tmp_path):
    """Before MPI is loaded, and on one rank only, while the others are in MPI_Init."""
    broken = {
        "petsc4py/__init__.py": "raise ImportError('libpetsc.so.3.99: cannot open')",
        "torch/__init__.py": "import a_library_of_torch_that_is_not_there",
    }
    for name, content in broken.items():
        folder = tmp_path / name.split("/")[0]
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text(content)
        environment = tiny.environment()
        environment["PYTHONPATH"] = f"{folder}:{environment.get('PYTHONPATH', '')}"
        done = subprocess.run(
            tiny.command(2, "run", config),
            capture_output=True,
            text=True,
            timeout=60,
            env=environment,
            check=False,
        )
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert re.match(
            r"prdp-hpc: error: .* cannot be imported \(.*\): run `prdp-hpc doctor`", line
        )
        assert ("libpetsc.so.3.99" in line) == (name[0] == "p")


@pytest.mark.parametrize("error", BUGS, ids=repr)
def test_other_errors_are_no_missing_libraries(error):
    with pytest.raises(type(error)) as caught:
        raise error
    assert missing_library(caught.value) is None


def test_missing_libraries_are_recognised():
    error = ModuleNotFoundError("No module named 'h5py'", name="h5py")
    assert isinstance(missing_library(error), InputError)
    with pytest.raises(RuntimeError) as caught:
        raise RuntimeError("cannot load MPI library")  # raised by code outside of this package
    assert isinstance(missing_library(caught.value, importing=True), InputError)
