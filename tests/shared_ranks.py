"""Command lines of `prdp-hpc`, with empty figures, and Python scripts on several ranks: one start
of mpiexec for all tests of a session, because importing torch takes longer than most of them.
"""

import gc
import itertools
import json
import os
import runpy
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import tiny

# All ranks append to these two files of a command line, because a launcher's output has no order.
KINDS = ("out", "err")


@dataclass(frozen=True)
class Done:
    """A command line that has ended: the exit code of each rank, and the output of all ranks."""

    codes: list[int]
    stdout: str
    stderr: str


class SharedRanks:
    """Ranks that run command lines one after the other: arguments of `prdp-hpc`, or those of a
    script after its path.
    """

    def __init__(self, ranks):
        self._folder = tempfile.TemporaryDirectory()
        self._path, self._count = Path(self._folder.name), 0
        words = [str(tiny.BIN / "mpiexec"), "-n", str(ranks), sys.executable]
        # Output outside of the command lines, e.g. of a launcher whose rank has been killed.
        self._log = self._path / "log"
        with self._log.open("wb") as log:
            self._job = subprocess.Popen(
                [*words, __file__, self._folder.name, str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=tiny.environment(),
            )

    def run(self, lines, timeout=240):
        """Run command lines in the present folder."""
        number, self._count = self._count, self._count + 1
        lines = [[*map(str, words)] for words in lines]
        job = {"lines": lines, "folder": os.getcwd()}
        _write(self._path / f"{number}.job", job)
        done, end = self._path / f"{number}.codes", time.monotonic() + timeout
        while not done.exists():
            assert self._job.poll() is None, self._log.read_text() + self._last(number)
            assert time.monotonic() < end, f"not ended after {timeout} s: {self._last(number)}"
            time.sleep(0.02)
        return [
            Done(codes, *((self._path / f"{number}.{i}.{kind}").read_text() for kind in KINDS))
            for i, codes in enumerate(json.loads(done.read_text()))
        ]

    def close(self):
        """End the ranks."""
        _write(self._path / f"{self._count}.job", None)
        try:
            self._job.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._job.kill()
        self._folder.cleanup()

    @property
    def ended(self):
        """Whether the ranks have ended, e.g. because of a failure."""
        return self._job.poll() is not None

    def _last(self, number):
        return "".join(path.read_text() for path in sorted(self._path.glob(f"{number}.*.err"))[-1:])


def _write(path, content):
    """Write a file that is never seen in part."""
    path.with_suffix(".new").write_text(json.dumps(content))
    path.with_suffix(".new").rename(path)


def _serve(folder, parent):
    """On each rank: run jobs until there is one without command lines, or the parent has ended."""
    from empty_figures import empty_figures
    from mpi4py import MPI

    for number in itertools.count():
        path = folder / f"{number}.job"
        while not path.exists():
            os.kill(parent, 0)
            time.sleep(0.02)
        job = json.loads(path.read_text())
        if job is None:
            return
        os.chdir(job["folder"])
        # As in tests/conftest.py: the collector does not look through all modules in each command.
        gc.collect()
        gc.freeze()
        with empty_figures():
            codes = [
                MPI.COMM_WORLD.gather(_run(words, folder / f"{number}.{line}"))
                for line, words in enumerate(job["lines"])
            ]
        if MPI.COMM_WORLD.rank == 0:
            _write(folder / f"{number}.codes", codes)


def _run(words, place):
    """Run one command line; its exit code."""
    import torch.distributed

    from prdp_hpc.cli import main

    script = words[0].endswith(".py")

    for descriptor, kind in enumerate(KINDS, start=1):
        file = os.open(f"{place}.{kind}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, descriptor)
        os.close(file)
    code, sys.argv = 0, words if script else ["prdp-hpc", *words]
    try:
        if script:
            runpy.run_path(words[0], run_name="__main__")
        else:
            main(words)
    except SystemExit as end:
        code = end.code or 0
    sys.stdout.flush()
    sys.stderr.flush()
    if torch.distributed.is_initialized():  # by a run that failed
        torch.distributed.destroy_process_group()
    return code


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), int(sys.argv[2]))
