"""One batch of cases in a separate process, or on several ranks; started by `__main__.py`."""

from __future__ import annotations

import argparse
import faulthandler
import json
import pickle
import warnings
from pathlib import Path
from typing import Any

import prdp_hpc  # noqa: F401 - before MPI and PETSc are loaded

from mpi4py import MPI  # isort: skip

from .cases import script
from .check import run
from .drive import Crew, Hunt
from .perform import perform
from .strategies import seeded_cases


def main(words: list[str] | None = None) -> None:
    """Run a batch, or the one case of a folder, as the words of the command line say."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=int, default=0)
    parser.add_argument("--only", choices=["all", "package"], help="run the one case in the folder")
    arguments = parser.parse_args(words)
    warnings.simplefilter("ignore")
    faulthandler.enable()
    if arguments.only:
        _replay(arguments.folder, arguments.only)
        return
    world = MPI.COMM_WORLD
    crew = Crew(world, arguments.folder / "case.pickle" if world.rank == 0 else None)
    if world.rank:
        crew.serve()
        return
    known, left_out = map(set, json.loads((arguments.folder / "known.json").read_text()))
    hunt = Hunt(crew, known, left_out)
    ranks = tuple(range(1, world.size + 1))
    for _ in hunt.run(seeded_cases(arguments.seed, arguments.cases, ranks)):
        _report(arguments.folder, hunt, done=False)
    crew.dismiss()
    _report(arguments.folder, hunt, done=True)


def _report(folder: Path, hunt: Hunt, done: bool) -> None:
    """Written after each fault: the next case may end the process."""
    report = {
        "counts": hunt.counts,
        "unclear": hunt.unclear,
        "seen": hunt.seen,
        "faults": [(o.what, o.detail, script(case)) for case, o in hunt.faults],
        "done": done,
    }
    (folder / "report.json").write_text(json.dumps(report))


def _replay(folder: Path, what: str) -> None:
    case: Any = pickle.loads((folder / "case.pickle").read_bytes())
    if what == "all":
        run(case, MPI.COMM_WORLD)
        return
    try:
        perform(case, MPI.COMM_WORLD)
    except Exception as error:
        print(error)


if __name__ == "__main__":
    main()
