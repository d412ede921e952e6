"""What is known about the environment: finished, unfinished, of this place, or another folder.

The file `prdp-environment` in the environment has its place and the hash of everything that it
depends on; then that of the tools for development, if it has them. While the environment changes,
the file has the word `unfinished` instead of the hashes: an interrupted set-up may leave half of a
package, which pip would treat as installed, so the next one makes the environment again.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from setup_steps import VENV, SetupError, Step, run, say

UNFINISHED = "unfinished"


def stamp() -> Path:
    """The file with the state of the environment."""
    return VENV / "prdp-environment"


def place() -> str:
    """The path of the environment without symbolic links, of which there may be several."""
    return str(VENV.resolve())


def is_finished(fingerprints: list[str]) -> bool:
    """Whether the environment is complete, at this place, and has parts of these fingerprints."""
    wanted = [place(), *fingerprints]
    return state()[: len(wanted)] == wanted and (VENV / "bin" / "python").exists()


def state() -> list[str]:
    """The lines of the stamp: place and fingerprints; empty without one."""
    return stamp().read_text().splitlines() if stamp().is_file() else []


def write_state(*fingerprints: str) -> None:
    """Write the stamp; its content is valid at any time, because a file is renamed to it."""
    new = stamp().with_suffix(".new")
    new.write_text("".join(f"{line}\n" for line in (place(), *fingerprints)))
    new.replace(stamp())


def begin() -> None:
    """Mark the environment as unfinished; make it first, unless it can be changed."""
    if can_be_changed():
        write_state(UNFINISHED)
        return
    check_may_be_replaced()
    VENV.mkdir(parents=True, exist_ok=True)
    write_state(UNFINISHED)
    empty()
    with Step(f"creating {VENV.name} with Python {sys.version.split()[0]}"):
        run([sys.executable, "-m", "venv", str(VENV)])


def can_be_changed() -> bool:
    """Whether this is a finished environment of this Python whose scripts refer to this place."""
    where, *fingerprints = state() or [""]
    if not fingerprints:  # an earlier version wrote the hash only
        where, fingerprints = place(), [where]
    settings = VENV / "pyvenv.cfg"
    version = f"{sys.version_info.major}.{sys.version_info.minor}."
    return (
        where == place()
        and fingerprints[0] not in ("", UNFINISHED)
        and (VENV / "bin" / "python").exists()
        and settings.is_file()
        and f"version = {version}" in settings.read_text()
    )


def check_may_be_replaced() -> None:
    """`SetupError` for a folder with files that no set-up has made."""
    if VENV.exists() and any(VENV.iterdir()) and not any(VENV.glob(f"{stamp().name}*")):
        raise SetupError(
            f"{VENV} exists and was not made by this set-up, so it is not replaced: remove it, or "
            "name another folder by PRDP_VENV=…"
        )


def empty() -> None:
    """Remove all but the stamp, so that an interrupt leaves a folder that is known as unfinished.

    `VENV` itself may be a link to another disk, and stays.
    """
    for entry in VENV.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry != stamp():
            entry.unlink()


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """Let one set-up at a time change the environment. The kernel releases the lock at the end of
    the process.
    """
    VENV.parent.mkdir(parents=True, exist_ok=True)
    with VENV.with_name(f"{VENV.name}.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another set-up of {VENV} is running: waiting for its end ...")
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            say("this file system has no locks: start no second set-up before the end of this one")
        yield
