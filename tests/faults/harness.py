"""Kill a training at a random time, check that it ends, resume it, and compare it with an
undisturbed one.

    python tests/faults/harness.py [--count 100] [--seed 1] [--out FOLDER]

Prints a table and writes `faults.json`; the exit code is 1 if any case fails.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import tiny

from prdp_hpc.distributed.preemption import PREEMPTED
from prdp_hpc.training.checkpoint import Checkpoints

EPOCHS = 40
DEADLINE = 30.0
SPLITS = ((1, 1), (2, 1), (2, 2), (3, 1), (3, 3), (4, 2))
MOMENTS = ("start", "first step", "saving", "any")
VICTIMS = ("rank", "launcher", "node", "disk")
SIGNALS = {
    "rank": (signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1),
    "launcher": (signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1),
    "node": (signal.SIGKILL,),
    "disk": (None,),
}


@dataclass
class Case:
    """One fault and its outcome."""

    ranks: int
    grid_ranks: int
    victim: str
    signal: signal.Signals | None
    moment: str
    wait: float
    struck: bool = False
    code: int | None = None
    seconds: float | None = None
    last_line: int | None = None
    resumed_from: tuple[int, int] | None = None
    problems: list[str] = field(default_factory=list)


def cases(count: int, seed: int) -> list[Case]:
    """Random faults, which depend only on the seed."""
    source, found = random.Random(seed), []
    for _ in range(count):
        ranks, grid_ranks = source.choice(SPLITS)
        victim = source.choice(VICTIMS if ranks > 1 else ("rank", "disk"))
        moment = "any" if victim == "disk" else source.choice(MOMENTS)
        found.append(
            Case(ranks, grid_ranks, victim, source.choice(SIGNALS[victim]), moment, source.random())
        )
    return found


class Bench:
    """A folder with a config, and the undisturbed run of each split."""

    def __init__(self, folder: Path, epochs: int = EPOCHS) -> None:
        self.folder, self._epochs = folder, epochs
        network = {"kind": "resnet", "channels": 4, "blocks": 1}
        content = tiny.emulator(
            folder,
            grid={"shape": [16]},
            network=network,
            training={"epochs": epochs, "batch_size": 2},
            data={"train": 12},
        )
        self.config = tiny.write(folder / "config.yaml", content)
        self._undisturbed: dict[tuple[int, int], Path] = {}

    def words(self, case: Case, name: str, resume: bool) -> list[str]:
        """The command line of `prdp-hpc` for a run with the split of the case."""
        words = ["run", self.config, f"name={name}", f"parallel.grid_ranks={case.grid_ranks}"]
        return [*words, "--resume"] if resume else words

    def complete(self, case: Case, name: str, resume: bool) -> tuple[int, str]:
        """Run or resume without a fault, until the end; the exit code and the errors."""
        ended = subprocess.run(
            self.command(case, name, resume),
            capture_output=True,
            text=True,
            env=tiny.environment(),
            timeout=300,
            check=False,
        )
        return ended.returncode, ended.stderr

    def command(self, case: Case, name: str, resume: bool) -> list[str]:
        """Start a run with the split of the case; each rank is on a separate node if a node is to
        fail.
        """
        ranks = case.ranks if case.ranks > 1 else 0
        command = tiny.command(ranks, *self.words(case, name, resume))
        if case.victim == "node":
            hosts = ",".join("abcd"[: case.ranks])
            command[1:1] = ["-launcher", "fork", "-hosts", hosts, "-ppn", "1"]
        return command

    def undisturbed(self, case: Case) -> Path:
        """The undisturbed run, created on first use together with the data of all runs."""
        split = (case.ranks, case.grid_ranks)
        if split not in self._undisturbed:
            name = f"whole_{split[0]}_{split[1]}"
            code, stderr = self.complete(case, name, resume=False)
            assert code == 0, stderr
            self._undisturbed[split] = self.folder / name
        return self._undisturbed[split]

    def run(self, case: Case, name: str) -> Case:
        """Start, wait for the moment, cause the fault, wait for the end, resume, compare."""
        whole, folder = self.undisturbed(case), self.folder / name
        log = (self.folder / f"{name}.log").open("w")
        job = subprocess.Popen(
            self.command(case, name, False),
            stdout=log,
            stderr=log,
            env=tiny.environment(),
            start_new_session=True,
        )
        try:
            if wait_for(case, folder, job, self._epochs):
                case.struck = True
                strike(case, job.pid, name)
                start = time.monotonic()
                case.code = job.wait(timeout=2 * DEADLINE)
                while processes(name) and time.monotonic() < start + 2 * DEADLINE:
                    time.sleep(0.02)
                case.seconds = time.monotonic() - start
            else:
                case.code, case.seconds = job.returncode, 0.0
            judge_end(case, name, finished=(folder / "summary.json").exists())
        except subprocess.TimeoutExpired:
            case.problems.append(f"still running after {2 * DEADLINE:.0f} s")
        finally:
            for process in processes(name):
                os.kill(process, signal.SIGKILL)
            job.kill()
            log.close()
        self.resume(case, name, folder, whole)
        return case

    def resume(self, case: Case, name: str, folder: Path, whole: Path) -> None:
        """Resume and compare every number and every parameter."""
        metrics = folder / "metrics.jsonl"
        lines = metrics.read_text().splitlines(keepends=True) if metrics.exists() else []
        case.last_line = sum(line.endswith("\n") for line in lines) - 1
        newest = Checkpoints(folder / "checkpoints").load_latest()
        case.resumed_from = (-1, 0) if newest is None else (newest["epoch"], newest["step"])
        if case.resumed_from[0] < case.last_line - 1:
            case.problems.append(
                f"epoch {case.last_line} was finished, but the last checkpoint is of "
                f"{case.resumed_from[0]}"
            )
        code, stderr = self.complete(case, name, resume=True)
        if code != 0:
            case.problems.append(f"the resume failed: {stderr.strip().splitlines()[-1:]}")
            return
        if tiny.rows(folder) != tiny.rows(whole) or not same_network(folder, whole):
            case.problems.append("other numbers than the undisturbed run")


def same_network(ours: Path, theirs: Path) -> bool:
    """Whether two runs ended with the same parameters in all bits."""
    states = [Checkpoints(folder / "checkpoints").load_latest() for folder in (ours, theirs)]
    mine, other = (state["task"]["network"] for state in states if state is not None)
    return all(bool((mine[key] == other[key]).all()) for key in other)


def wait_for(case: Case, folder: Path, job: subprocess.Popen[bytes], epochs: int) -> bool:
    """Wait for the moment of the case; False if the run ended before."""
    began = time.monotonic()

    def reached() -> bool:
        lines = (
            (folder / "metrics.jsonl").read_bytes().count(b"\n")
            if (folder / "metrics.jsonl").exists()
            else 0
        )
        if case.moment == "start":
            return time.monotonic() > began + 3 * case.wait
        if case.moment == "first step":
            return lines >= 1
        if case.moment == "saving":
            return lines > case.wait * epochs / 2 and any((folder / "checkpoints").glob(".epoch_*"))
        return lines > case.wait * (epochs - 2)

    while not reached():
        if job.poll() is not None:
            return False
        time.sleep(0.001)
    return True


def strike(case: Case, launcher: int, name: str) -> None:
    """Cause the fault."""
    ranks = processes(name)
    if case.victim == "launcher" and case.signal is not None:
        os.kill(launcher, case.signal)
    elif case.victim == "node" and case.signal is not None:
        proxies = children(launcher)
        chosen = proxies[int(case.wait * len(proxies))] if proxies else launcher
        for process in (*children(chosen), chosen):
            os.kill(process, case.signal)
    elif case.victim == "disk":
        for process in ranks:
            # The size limit of files on this disk: smaller than a checkpoint.
            resource.prlimit(process, resource.RLIMIT_FSIZE, (2048, 2048))
    elif ranks and case.signal is not None:
        os.kill(ranks[int(case.wait * len(ranks))], case.signal)


def judge_end(case: Case, name: str, finished: bool) -> None:
    """Whether the job ended in time, on all ranks, with the correct exit code; a fault may occur
    after the run has finished.
    """
    if processes(name):
        case.problems.append("some ranks are still there")
    if case.seconds is not None and case.seconds > DEADLINE:
        case.problems.append(f"took {case.seconds:.0f} s to end")
    asked = case.signal in (signal.SIGTERM, signal.SIGUSR1)
    if case.code == 0 and not finished:
        case.problems.append("the exit code is 0")
    if case.moment != "start" and asked and case.code not in (0, PREEMPTED):
        case.problems.append(f"a run that was asked to leave ended with code {case.code}")


def processes(name: str) -> list[int]:
    """The ranks of a run: the processes of prdp-hpc with its name in their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if (
                f"name={name}".encode() in words
                and b"mpiexec" not in words[0]
                and b"hydra" not in words[0]
            ):
                found.append(int(entry.name))
    return sorted(found)


def children(process: int) -> list[int]:
    """The child processes of a process."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except (OSError, IndexError):
                continue
            if parent == process:
                found.append(int(entry.name))
    return sorted(found)


def table(results: list[Case]) -> str:
    """One line per case, and a summary."""
    headers = (
        "ranks",
        "grid",
        "killed",
        "signal",
        "moment",
        "exit",
        "ended after s",
        "last epoch",
        "resumed from",
        "verdict",
    )
    rows: list[tuple[str, ...]] = [headers]
    for case in results:
        name = "full" if case.signal is None else case.signal.name
        epoch, step = case.resumed_from or (-1, 0)
        place = "the start" if epoch < 0 else f"{epoch}" + (f" + {step} steps" if step else "")
        seconds = "-" if case.seconds is None else f"{case.seconds:.2f}"
        verdict = "; ".join(case.problems) or (
            "same numbers" if case.struck else "had ended before, same numbers"
        )
        struck = (str(case.ranks), str(case.grid_ranks), case.victim, name, case.moment)
        rows.append((*struck, str(case.code), seconds, str(case.last_line), place, verdict))
    widths = [max(len(row[i]) for row in rows) for i in range(len(headers))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    failed = sum(bool(case.problems) for case in results)
    slowest = max((case.seconds or 0.0 for case in results), default=0.0)
    lines.append(f"\n{len(results)} faults, {failed} failed; the slowest end took {slowest:.1f} s")
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def main() -> None:
    """Run the faults of the seed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=100, help="faults (default 100)")
    parser.add_argument("--seed", type=int, default=1, help="which ones (default 1)")
    parser.add_argument("--out", type=Path, help="keep the runs in this folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.out or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        bench, results = Bench(folder), []
        for number, case in enumerate(cases(arguments.count, arguments.seed)):
            results.append(bench.run(case, f"fault_{number}"))
            done = results[-1]
            print(
                f"{number + 1}/{arguments.count}  {done.victim} {done.moment}  "
                f"{done.problems or 'ok'}",
                file=sys.stderr,
                flush=True,
            )
        content = [
            asdict(case) | {"signal": None if case.signal is None else case.signal.name}
            for case in results
        ]
        (folder / "faults.json").write_text(json.dumps(content, indent=2))
    print(table(results))
    sys.exit(any(case.problems for case in results))


if __name__ == "__main__":
    main()
