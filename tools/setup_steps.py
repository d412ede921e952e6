"""Helpers of the set-up: messages, subprocesses, pip and the wheel cache."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

TOOLS = Path(__file__).resolve().parent
ROOT = TOOLS.parent
# An image or a shared installation contains prdp-hpc itself instead of a link to this clone.
PREFIX = os.environ.get("PRDP_VENV")
VENV = Path(PREFIX).absolute() if PREFIX else ROOT / ".venv"
CACHE = Path(os.environ.get("PRDP_CACHE", Path.home() / ".cache" / "prdp-hpc"))


class SetupError(Exception):
    """The set-up failed; the message contains the reason and what to do."""

    def reason(self) -> str:
        """One line: the first error that pip reports, else the last line of the message."""
        lines = [line.strip() for line in str(self).splitlines() if "[setup] what" not in line]
        errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
        return (errors or lines[-1:])[0][:200]


# What the output of a failed command contains, and what to do.
ADVICE = {
    r"No space left on device|Disk quota exceeded": (
        "free space, or set PRDP_VENV=… to a folder on another disk"
    ),
    r"DO NOT MATCH THE HASHES": (
        "the package index serves another file than the pinned one, perhaps from a damaged cache: "
        "run `pip cache purge`, or use PyPI itself (unset PIP_INDEX_URL)"
    ),
    r"Could not find a version|No matching distribution|Failed to establish a new connection"
    r"|Name or service not known|Temporary failure in name resolution|Read timed out|ProxyError": (
        "the package index cannot be reached, or lacks this file: check the network; behind a "
        "proxy set HTTPS_PROXY=…, for a mirror PIP_INDEX_URL=…; on a cluster use a login node"
    ),
    r"ensurepip is not|No module named '?ensurepip": (
        "install the package of your system that has venv, e.g. python3-venv, or give another "
        "interpreter: make PYTHON=/path/to/python3.12"
    ),
    r"fatal error: .*Python\.h": "install the headers of Python, e.g. the package python3-dev",
}


def advice(output: str) -> str:
    """What to do after the failure of a command with this output; empty if that is not known."""
    return next((text for pattern, text in ADVICE.items() if re.search(pattern, output)), "")


def say(text: str) -> None:
    print(f"[setup] {text}", flush=True)


# Packages are installed while PETSc is built: one pip at a time changes the environment.
_CHANGES = threading.Lock()
_RUNNING: set[subprocess.Popen[str]] = set()
_stopped, _building = threading.Event(), threading.Event()


def run(command: list[str], env: dict[str, str] | None = None) -> None:
    """Run a command without output; on failure raise `SetupError` with the end of its output."""
    if _stopped.is_set():
        raise SetupError("the set-up was stopped")
    merged = {**os.environ, **(env or {})}
    process = subprocess.Popen(
        command, env=merged, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    _RUNNING.add(process)
    try:
        output, _ = process.communicate()
    except BaseException:
        process.kill()
        raise
    finally:
        _RUNNING.discard(process)
    if process.returncode:
        tail = "\n".join(output.splitlines()[-40:])
        remedy = advice(output)
        raise SetupError(
            f"this command failed ({process.returncode}):\n  {' '.join(command)}\n{tail}"
            + (f"\n[setup] what to do: {remedy}" if remedy else "")
        )


@contextlib.contextmanager
def beside(work: Callable[[], None]) -> Iterator[None]:
    """Do `work` in a thread while the block runs; its error is raised at the end of the block.

    The block starts when `work` starts a build or ends, since both would use pip before that. An
    error or interrupt in the block ends the commands that run, and those that would follow.
    """
    _building.clear()
    with ThreadPoolExecutor(1) as executor:
        done = executor.submit(work)
        done.add_done_callback(lambda _: _building.set())
        try:
            _building.wait()
            if done.done():
                done.result()
            yield
            done.result()
        except BaseException:
            _stopped.set()
            for process in tuple(_RUNNING):
                process.kill()
            raise
        finally:
            executor.shutdown()
            _stopped.clear()


class Step:
    """Prints what a long step does when it starts, and the time it took when it ends."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __enter__(self) -> None:
        say(f"{self.text} ...")
        self.start = time.monotonic()

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            say(f"{self.text}: done in {time.monotonic() - self.start:.0f} s")


def pip(*arguments: str, env: dict[str, str] | None = None) -> None:
    changes = arguments[0] in ("install", "uninstall")
    with _CHANGES if changes else contextlib.nullcontext():
        python = str(VENV / "bin" / "python")
        run([python, "-m", "pip", "--disable-pip-version-check", *arguments], env)


def install(*arguments: str) -> None:
    """`pip install` without compiling Python files: each is compiled at its first import, and most
    are never imported.
    """
    pip("install", "-q", "--no-compile", *arguments)


def install_locked(lock: str, *requirements: str, only_binary: bool = False) -> None:
    """Install the requirements in a file of pinned versions and hashes: all, or the given ones.

    The hashes ensure that only the pinned files are accepted, from any index.
    """
    if not requirements:
        install("--no-deps", "--require-hashes", "-r", str(TOOLS / lock))
        return
    entries = [locked_entry(lock, requirement) for requirement in requirements]
    with tempfile.TemporaryDirectory() as folder:
        chosen = Path(folder) / "requirements.txt"
        chosen.write_text("".join(entries))
        binary = ("--only-binary", ":all:") if only_binary else ()
        install("--no-deps", "--require-hashes", *binary, "-r", str(chosen))


def locked_entry(lock: str, requirement: str) -> str:
    """A requirement's lines in a file of pinned versions; `SetupError` if they are not there."""
    entries = re.findall(r"^[a-z0-9][^#\n]*(?:\n +[^\n]*)*\n?", (TOOLS / lock).read_text(), re.M)
    found = [entry for entry in entries if re.match(re.escape(requirement) + r"(?![\w.])", entry)]
    if not found:
        raise SetupError(f"tools/{lock} has no {requirement}: run `make lock`")
    return "".join(entry.rstrip("\n") + "\n" for entry in found)


def uninstall(*names: str) -> None:
    """`pip uninstall` of those of these distributions that are installed."""
    pip("uninstall", "-q", "-y", *names)


def install_wheels(*wheels: Path) -> None:
    """Install wheels built here. `--force-reinstall` is needed, because pip does not distinguish
    two builds of the same version.
    """
    install("--no-deps", "--force-reinstall", *map(str, wheels))


def compile_modules() -> None:
    """Compile the Python files that a training imports, for environments that are read-only at run
    time. Without this, each start compiles torch again, which takes 2 s.

    A short training does it: a tenth of all installed files is ever imported.
    """
    command = [str(VENV / "bin" / "python"), "-m", "prdp_hpc", "run", "heat_1d"]
    command += ["training.epochs=1", "data.train=4", "data.validation=2", "data.test=0"]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryDirectory() as folder:
        # Whether a training works here is for `prdp-hpc doctor` and the tests to report.
        subprocess.run(command, cwd=folder, env=env, capture_output=True, check=False)


def site_packages() -> Path:
    """Where the environment's packages lie."""
    return next((VENV / "lib").glob("python3*/site-packages"))


def wheel_folder(*parts: str) -> Path:
    """The cache folder of wheels that depend on `parts`, this Python and this machine."""
    shape = "|".join(
        [
            *parts,
            sysconfig.get_platform(),
            sys.implementation.cache_tag or "",
            platform.libc_ver()[1],
        ]
    )
    return CACHE / "wheels" / hashlib.sha256(shape.encode()).hexdigest()[:16]


def check_is_writable(folder: Path) -> None:
    """Create a folder of the cache; `SetupError` if nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise SetupError(
            f"the wheels that are built here cannot be kept in {CACHE} ({error.strerror}): set "
            "PRDP_CACHE=… to a folder that can be written"
        ) from None


def cached_wheel(
    folder: Path, requirement: str, env: dict[str, str], text: str, sha256: str | None = None
) -> Path:
    """Build `requirement` into `folder` unless it has been built; the write is atomic.

    `text` describes the step, and `sha256` is the expected hash of the source archive.
    """
    name = requirement.split("=")[0]
    found = sorted(folder.glob(f"{name}-*.whl"))
    if not found:
        check_is_writable(folder)
        with Step(text), tempfile.TemporaryDirectory(dir=folder) as beside:
            pinned = Path(beside) / "requirement.txt"
            pinned.write_text(f"{requirement} --hash=sha256:{sha256}" if sha256 else requirement)
            source = ("--no-deps", "--no-build-isolation", "--no-binary", ":all:")
            _building.set()
            pip("wheel", *source, "--no-cache-dir", "-w", beside, "-r", str(pinned), env=env)
            built = next(Path(beside).glob("*.whl"))
            os.replace(built, folder / built.name)
        found = sorted(folder.glob(f"{name}-*.whl"))
    return found[0]
