"""Reliability: several jobs train the runs of one comparison, each run once."""

import json
import signal
import subprocess

import pytest
import tiny
from test_locks import Holder

from prdp_hpc import cli
from prdp_hpc.commands import comparison_runs

WORDS = ["training.epochs=2", "comparison.seeds=2", "--resume"]
NAMES = [f"seed_{seed}/{name}" for seed in (1, 2) for name in ("prdp", "full")]
WHEN_THREE_ARE_DONE = """
from pathlib import Path
while len(list(Path(sys.argv[1]).parents[1].glob("seed_*/*/summary.json"))) < 3:
    time.sleep(0.05)
"""


@pytest.fixture
def config(tmp_path):
    return tiny.write(tmp_path / "tiny.yaml", tiny.emulator(tmp_path / "runs"))


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "runs" / "tiny-compare"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch, handlers):
    monkeypatch.setattr(comparison_runs, "POLL", 0.05)


def starts(folder):
    """How often each run was started."""
    return {name: len(json.loads((folder / name / "starts.json").read_text())) for name in NAMES}


def test_two_jobs_at_once(config, folder):
    words = tiny.command(0, "compare", config, *WORDS)
    with subprocess.Popen(
        words, env=tiny.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as other:
        cli.main(["compare", config, *WORDS])
        reported = other.communicate(timeout=100)
    assert other.returncode == 0, reported[1]
    assert starts(folder) == dict.fromkeys(NAMES, 1)
    comparison = json.loads((folder / "comparison.json").read_text())
    errors = [tiny.summary(folder / name)["error"] for name in ("seed_1/prdp", "seed_2/prdp")]
    assert comparison["variants"]["prdp"]["error"]["values"] == errors
    assert (folder / "figures" / "comparison.png").is_file()
    assert not list(folder.rglob("*.lock"))


def test_a_run_of_another_job_is_left_to_it(config, folder, capsys):
    busy = folder / "seed_1" / "prdp"
    with Holder(busy) as holder:
        holder.process.stdin.write(WHEN_THREE_ARE_DONE)
        holder.process.stdin.close()
        cli.main(["compare", config, *WORDS])
        holder.process.wait(timeout=10)
    reported = capsys.readouterr().err
    assert reported.count(f"prdp-hpc: left to another job: {busy} is being written by") == 1
    # The other job has ended without it, so this one has trained it last.
    order = sorted(NAMES, key=lambda name: (folder / name / "summary.json").stat().st_mtime_ns)
    assert order[-1] == "seed_1/prdp"
    written = (folder / "comparison.json").stat().st_mtime_ns
    cli.main(["compare", config, *WORDS])
    assert (folder / "comparison.json").stat().st_mtime_ns == written


def test_a_signal_ends_the_wait_for_another_job(config, folder, capsys, monkeypatch):
    def noted(text):
        signal.raise_signal(signal.SIGUSR1)

    monkeypatch.setattr(comparison_runs, "note", noted)
    with Holder(folder / "seed_1" / "prdp"), pytest.raises(SystemExit) as ended:
        cli.main(["compare", config, *WORDS, "--only=0"])
    assert ended.value.code == 85
    assert "while waiting for 1 run(s) of other jobs" in capsys.readouterr().err


def test_one_run_of_a_comparison(config, folder, capsys):
    for number, name in enumerate(["seed_1/prdp", "seed_1/full", "seed_2/full", "seed_2/prdp"]):
        cli.main(["compare", config, *WORDS, f"--only={number}"])
        assert (folder / name / "summary.json").is_file()
        assert len(list(folder.glob("seed_*/*/summary.json"))) == number + 1
    assert not (folder / "comparison.json").exists()
    cli.main(["compare", config, *WORDS])
    assert starts(folder) == dict.fromkeys(NAMES, 1)
    with pytest.raises(SystemExit):
        cli.main(["compare", config, *WORDS, "--only=4"])
    assert "--only 4: the runs of this comparison are 0 to 3" in capsys.readouterr().err
