"""Runs one case through the package and judges what came out."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prdp_hpc.errors import PrdpError

from .cases import Case
from .judge import judge
from .perform import perform
from .verdicts import Fault, Unclear


@dataclass(frozen=True)
class Outcome:
    """kind: "right", "error" (one of ours), "unclear" (rounding decides), or "fault"; `what` names
    a fault in a few words, equal for equal faults.
    """

    kind: str
    what: str = ""
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.kind}: {self.what}\n{self.detail}".strip()


def run(case: Any, comm: Any) -> Outcome:
    """The outcome on all ranks together; collective over `comm` of `case.ranks` ranks."""
    if not isinstance(case, Case):
        return case.run(comm)
    try:
        answer, error = perform(case, comm), None
    except Exception as raised:
        answer, error = None, raised
    found = comm.allgather(_raised(error))
    if len({kind for kind, *_ in found}) > 1:
        return Outcome(
            "fault", f"ranks disagree: {sorted({str(f[:2]) for f in found})}", str(found)
        )
    kind, name, text = found[0]
    if kind == "fault":
        return Outcome("fault", name, text)
    try:
        judge(case, comm, answer, text)
    except Fault as fault:
        return Outcome("fault", _named(fault.what, case), fault.detail)
    except Unclear as unclear:
        return Outcome("unclear", str(unclear))
    return Outcome("error", name, text) if answer is None else Outcome("right")


def _raised(error: Exception | None) -> tuple[str, str, str]:
    if error is None:
        return "right", "", ""
    if isinstance(error, PrdpError):
        return "error", type(error).__name__, str(error)
    frames = traceback.extract_tb(error.__traceback__)
    inner = [f for f in frames if "prdp_hpc" in f.filename] or frames
    where = f"{Path(inner[-1].filename).name}:{inner[-1].name}"
    return "fault", f"{type(error).__name__} in {where}", "".join(traceback.format_exception(error))


def _named(what: str, case: Case) -> str:
    """A fault's name: what numbers are wrong depends on the method, what is accepted does not."""
    if what.startswith(("accepted", "false promise", "symmetric-only")):
        return what
    return f"{what} ({case.differentiation}, {case.ksp})"
