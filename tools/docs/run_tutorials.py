"""Execute the tutorials: `python tools/docs/run_tutorials.py [NAME...]` writes their figures.

The Python blocks of a page share one namespace, in the order of the page. A block of the language
`text` right after a Python block is what that block prints, and so it is after a shell block that
begins with one of `COMMANDS`, which are quick and print the same everywhere. A block with a title
is the content of the file that the title names.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from markdown_page import Page

ROOT = Path(__file__).resolve().parents[2]
TUTORIALS = ROOT / "docs" / "tutorials"
FIGURES = TUTORIALS / "figures"
COMMANDS = ("prdp-hpc plan ",)
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")


@dataclass(frozen=True)
class Printed:
    """What a block printed, and what the page shows (None where it shows nothing)."""

    line: int
    found: str
    shown: str | None


def execute(path: Path, shell: Callable[[str], None] | None = None) -> list[Printed]:
    """Run the Python blocks of a page in the current folder; `shell` receives the lines of the
    shell blocks between them.
    """
    blocks = Page(path).blocks
    names: dict[str, object] = {"__name__": "__tutorial__"}
    results = []
    for block, following in zip_longest(blocks, blocks[1:]):
        if block.title is not None:
            Path(block.title).write_text(block.text + "\n", encoding="utf-8")
            continue
        shown = None if following is None or following.language != "text" else following.text
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            if block.language == "python":
                exec(compile("\n" * (block.line - 1) + block.text, str(path), "exec"), names)
            elif shown is not None and block.text.startswith(COMMANDS):
                main_of_prdp_hpc(shlex.split(block.text)[1:])
            elif block.language == "sh" and shell is not None:
                shown = None
                for line in block.text.splitlines():
                    shell(line)
            else:
                continue
        results.append(Printed(block.line, output.getvalue().rstrip("\n"), shown))
    return results


def _near(shown: str, found: str) -> bool:
    """Whether two numbers agree: to 1 % if three digits or more are shown. Numbers of fewer digits
    are results of trainings, which depend on rounding: they agree to 60 %.
    """
    digits = re.sub(r"e.*", "", shown).lstrip("-+0.")
    digits = digits if "." in shown else digits.rstrip("0")
    tolerance = 0.01 if len(digits.replace(".", "")) >= 3 else 0.6
    return abs(float(shown) - float(found)) <= tolerance * abs(float(shown)) + 1e-9


def main_of_prdp_hpc(words: list[str]) -> None:
    """Run a command in this process."""
    from prdp_hpc.cli import main

    main(words)


def differences(results: list[Printed]) -> Iterator[str]:
    """What a page shows otherwise than it was printed; for numbers see `_near`."""
    for result in results:
        if result.shown is None:
            continue
        words = NUMBER.sub("#", result.shown), NUMBER.sub("#", result.found)
        numbers = zip(NUMBER.findall(result.shown), NUMBER.findall(result.found), strict=False)
        if words[0].split() != words[1].split() or not all(_near(a, b) for a, b in numbers):
            yield f"line {result.line} prints\n{result.found}\nthe page shows\n{result.shown}"


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """An empty folder to run a tutorial in, as a reader does."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        modules = set(sys.modules)
        os.chdir(folder)
        sys.path.insert(0, name)
        try:
            yield folder
        finally:
            os.chdir(before)
            sys.path.remove(name)
            _forget_modules_of(folder, modules)


def _forget_modules_of(folder: Path, before: set[str]) -> None:
    """Remove the modules that a tutorial has written, since another may have one of that name."""
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None)
        if file is not None and Path(file).is_relative_to(folder):
            del sys.modules[name]


def main() -> None:
    """Run the tutorials that are named, or all, and keep their figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="e.g. emulator; default: all")
    wanted = parser.parse_args().names
    for path in sorted(TUTORIALS.glob("*.md")):
        if wanted and path.stem not in wanted:
            continue
        with scratch_folder() as folder:
            results = execute(path)
            for figure in sorted(folder.glob("*.png")):
                (FIGURES / figure.name).write_bytes(figure.read_bytes())
                print(f"wrote {FIGURES / figure.name}")
        for difference in differences(results):
            print(f"{path}: {difference}")


if __name__ == "__main__":
    main()
