"""All Markdown pages of the repository, and what their code blocks contain."""

import ast
import builtins
import re
import shlex
from importlib.util import find_spec

import tiny
from markdown_page import Page

ROOT = tiny.REPOSITORY
PATHS = sorted(
    [
        *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "examples").glob("*/README.md"),
    ]
)
PAGES = [Page(path) for path in PATHS]
GENERATED = {"reference/configuration.md", "reference/cli.md"}
"""Pages that the build makes."""
SHELL = {"sh", "bash"}


def name_of(page):
    """The path of a page in the repository."""
    return str(page.path.relative_to(ROOT))


def commands(page):
    """The `prdp-hpc` command lines of a page's shell blocks, as lists of words."""
    for block in page.blocks:
        if block.language in SHELL:
            for line in block.text.replace("\\\n", " ").splitlines():
                yield from _command(line)


def _command(line):
    words = shlex.split(line, comments=True)
    ends = [i for i, word in enumerate(words) if word in (">", "|", "&&", ";")]
    words = words[: ends[0]] if ends else words
    places = [i for i, word in enumerate(words) if word == "prdp-hpc"]
    if places and not {"docker", "apptainer", "spack"} & set(words[: places[-1]]):
        yield words[places[-1] + 1 :]


def python_blocks(page):
    """The Python blocks of a page."""
    return [block for block in page.blocks if block.language == "python"]


def is_complete(block):
    """Whether a block defines or imports every name that it uses, from what is installed."""
    tree = ast.parse(block.text)
    used, made = set(), set(dir(builtins))
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            (used if isinstance(node.ctx, ast.Load) else made).add(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            made.add(node.name)
        elif isinstance(node, ast.ImportFrom) and find_spec(node.module.partition(".")[0]) is None:
            return False
        elif isinstance(node, ast.alias):
            made.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.arg):
            made.add(node.arg)
    return used <= made


def sentences(page):
    """The prose of a page without code and links' targets, with the numbers of its lines."""
    for number, line in page.prose:
        text = re.sub(r"`[^`]*`", "", line)
        yield number, re.sub(r"\]\([^)]*\)", "]", text)
