"""The files of a SLURM job: the batch script, the frozen config and the part that all scripts have
in common.
"""

from __future__ import annotations

import hashlib
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from prdp_hpc.config.site import Site
from prdp_hpc.errors import InputError
from prdp_hpc.files import file_errors, write_text

SIGNAL_SECONDS = 120
"""Seconds before the time limit at which SLURM sends SIGUSR1; it may do so up to 60 s earlier."""

_HASH = "# sha256 of the lines below: "
_DIGITS = 16
_ELSEWHERE = "choose another output=…"


@dataclass(frozen=True)
class JobScript:
    """The content of a batch script.

    Attributes
    ----------
    path : the script.
    written_by : the command line that writes it.
    options : options of sbatch in their order; None: an option without value.
    site : how jobs start on this cluster.
    words : arguments of `prdp-hpc`; the shell expands those in `expanded`.
    expanded : arguments between `words` and `last`, as shell text.
    last : arguments after `expanded`.
    container : image in which the ranks run; None: without a container.
    binds : folders that must be visible in the container.
    """

    path: Path
    written_by: str
    options: Mapping[str, str | None]
    site: Site
    words: Sequence[str]
    expanded: Sequence[str] = ()
    last: Sequence[str] = ()
    container: str | None = None
    binds: Sequence[Path] = field(default_factory=tuple)

    def write(self, overwrite: bool) -> str:
        """Write the script and the part that it sources; returns the text of the script.

        Raises
        ------
        InputError
            If `path` was edited since it was written, unless `overwrite` is set.
        FileError
            If it cannot be written.
        """
        if not overwrite:
            _check_unedited(self.path)
        common = _write_common(self.path.parent)
        body = self._body(common)
        line = " ".join(self.written_by.splitlines())
        head = f"#!/bin/bash{' -l' if self.site.modules else ''}\n# Written by: {line}\n"
        text = f"{head}{_HASH}{_digest(body)}\n{body}"
        # SLURM copies a script on submission, so later submissions may overwrite it.
        with file_errors(self.path, "cannot be written", _ELSEWHERE):
            write_text(self.path, text)
        return text

    def _body(self, common: Path) -> str:
        script = shlex.quote(str(self.path))
        lines = [f"# For changes beyond the options of submit, edit this file: sbatch {script}"]
        for key, value in self.options.items():
            lines.append(f"#SBATCH --{key}" + ("" if value is None else f"={shlex.quote(value)}"))
        lines.append("")
        if self.site.modules:
            lines.append(f"module load {shlex.join(self.site.modules)}")
        if self.container is None:
            lines.append(f"PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH")
        lines.append(f"launch=({shlex.join(self._launcher())})")
        lines.append(f"program=({shlex.join(self._program())})")
        words = [*map(shlex.quote, self.words), *self.expanded, *map(shlex.quote, self.last)]
        lines.append(f"set -- {' '.join(words)}")
        lines.append(f". {shlex.quote(str(common))}")
        return "\n".join(lines) + "\n"

    def _launcher(self) -> list[str]:
        words = shlex.split(self.site.launcher)
        if self.site.starts_by_srun:
            words += [] if self.site.mpi is None else [f"--mpi={self.site.mpi}"]
            # The ranks exit by themselves with one exit code; --wait ends those that cannot.
            words += ["--kill-on-bad-exit=0", "--wait=20"]
            if self.container is not None and self.site.container_runtime == "pyxis":
                mounts = ",".join(f"{folder}:{folder}" for folder in self.binds)
                words += [f"--container-image={self.container}", f"--container-mounts={mounts}"]
                words += [f"--container-workdir={self.binds[0]}", *self.site.container_options]
        return words

    def _program(self) -> list[str]:
        runtime = self.site.container_runtime
        if self.container is None or runtime == "pyxis":
            return ["prdp-hpc"]
        words = [runtime, "exec", *(["--nv"] if self._has_gpus() else [])]
        for folder in self.binds:
            words += ["--bind", str(folder)]
        return [*words, *self.site.container_options, self.container, "prdp-hpc"]

    def _has_gpus(self) -> bool:
        generic = [self.options.get(key) or "" for key in ("gres", "tres-per-task")]
        named = any(re.match("gpus(-per-|$)", key) for key in self.options)
        return named or any("gpu" in one for one in generic)


def freeze(text: str, folder: Path, name: str) -> Path:
    """Write a config to `folder/<name>.yaml`, or to `<name>-2.yaml`, … if that file has another
    content, which jobs in the queue may still have to read.
    """
    with file_errors(folder, "cannot be written", _ELSEWHERE):
        number = 1
        while True:
            path = folder / (f"{name}.yaml" if number == 1 else f"{name}-{number}.yaml")
            if not path.exists():
                write_text(path, text)
                return path
            if path.read_text(encoding="utf-8") == text:
                return path
            number += 1


def _check_unedited(path: Path) -> None:
    """Raise `InputError` if a script exists that differs from what was written into it."""
    with file_errors(path, "cannot be read", _ELSEWHERE):
        if not path.exists():
            return
        text = path.read_text(encoding="utf-8", errors="replace")
    found = re.search(rf"^{_HASH}([0-9a-f]{{{_DIGITS}}})\n", text, re.MULTILINE)
    if found is None or _digest(text[found.end() :]) != found[1]:
        raise InputError(
            f"{path} was edited, so it is not overwritten: submit it with sbatch, choose another "
            "name=…, or give --overwrite-script"
        )


def _write_common(folder: Path) -> Path:
    """Copy the common part beside the scripts, so that a job does not depend on the installed
    package; each version is a separate file.
    """
    source = resources.files("prdp_hpc.commands").joinpath("job_common.sh")
    text = source.read_text(encoding="utf-8")
    path = folder / f"job_common-{_digest(text)[:8]}.sh"
    with file_errors(path, "cannot be written", _ELSEWHERE):
        if not path.exists():
            write_text(path, text)
    return path


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]
