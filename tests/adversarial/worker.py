"""One batch of cases in a process (or several ranks) of its own; started by `__main__.py`."""

from __future__ import annotations

import argparse
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
from .strategies import cases


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=int, default=0)
    parser.add_argument("--only", choices=["all", "package"], help="run the one case in the folder")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    if arguments.only:
        _replay(arguments.folder, arguments.only)
        return
    world = MPI.COMM_WORLD
    crew = Crew(world, arguments.folder / "case.pickle" if world.rank == 0 else None)
    if world.rank:
        crew.serve()
        return
    known = set(json.loads((arguments.folder / "known.json").read_text()))
    hunt = Hunt(crew, known)
    strategy = cases(tuple(range(1, world.size + 1)))
    hunt.until_clean(strategy, arguments.cases, arguments.seed)
    crew.dismiss()
    report = {
        "counts": hunt.counts,
        "unclear": hunt.unclear,
        "seen": hunt.seen,
        "faults": [(o.what, o.detail, script(case)) for case, o in hunt.faults],
    }
    (arguments.folder / "report.json").write_text(json.dumps(report))


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
