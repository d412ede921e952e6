"""Usability: a newcomer finds answers, and messages that pages explain are those of the program."""

import ast
import os
import re
from functools import cache

import pages
import pytest
from markdown_page import Page

DOCS = pages.ROOT / "docs"

# What a newcomer asks, and a phrase of the answer.
QUESTIONS = {
    "my own PDE": ("tutorials/own_pde.md", "A PDE is a class"),
    "my network": ("tutorials/own_network.md", "torch.nn.Module"),
    "my data": ("howto/data.md", "train/trajectories"),
    "what does exit code 85 mean": ("reference/exit_codes.md", "has written a checkpoint"),
    "how do I run on my cluster": ("howto/slurm.md", "prdp-hpc submit"),
    "how do I resume": ("howto/resume.md", "--resume"),
    "which solver do I take": ("howto/choose_a_solver.md", "symmetric positive definite"),
    "why does the error message say": ("howto/messages.md", "remedy"),
    "how much will I save": ("faq.md", "solver iterations"),
    "how do I cite": ("faq.md", "arXiv:2502.19611"),
}


def clicks(start, most):
    """The pages of docs/ that are at most so many links away from a page."""
    found, border = {start}, {start}
    for _ in range(most):
        border = {target for page in border for target in _targets(page)} - found
        found |= border
    return found


def _targets(name):
    path = DOCS / name
    for link in Page(path).links if path.exists() else ():
        target = os.path.normpath(os.path.join(os.path.dirname(name), link.partition("#")[0]))
        if target.endswith(".md") and not target.startswith(".."):
            yield target


@pytest.mark.parametrize("question", QUESTIONS)
def test_an_answer_is_two_clicks_away(question):
    page, phrase = QUESTIONS[question]
    assert page in clicks("index.md", 2)
    assert phrase in (DOCS / page).read_text(encoding="utf-8")


@cache
def _messages():
    """All text of the program, with what is filled in left out."""
    text = []
    for path in (pages.ROOT / "prdp_hpc").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [getattr(part, "value", None) for part in node.values]
                text.append("\0".join(part if isinstance(part, str) else "" for part in parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                text.append(node.value)
    text += [path.read_text(encoding="utf-8") for path in (pages.ROOT / "jobs").glob("*.sh")]
    text.append(
        (pages.ROOT / "prdp_hpc" / "commands" / "job_common.sh").read_text(encoding="utf-8")
    )
    return "\n".join(text)


def _fragments(message):
    """The parts of a message between what is filled in: names, numbers, "…" and N, G."""
    parts = re.split(r"…|'[^']*'|\b[NG]\b|\d+|\b\w+=|[\w.]*\w\.\w[\w.]*", message)
    return [part.strip(" :;,.()") for part in parts if len(part.strip(" :;,.()")) >= 8]


EXPLAINED = ("howto/messages.md", "howto/slurm.md", "howto/cluster.md")


@pytest.mark.parametrize("name", EXPLAINED)
def test_explained_messages_are_those_of_the_program(name):
    shown = [
        message
        for _, row in Page(DOCS / name).rows
        for message in re.findall(r"`([^`]*)`", row[0])
        if " " in message and not message.startswith(("srun", "prdp-hpc", "--", "PENDING"))
    ]
    fragments = {fragment for message in shown for fragment in _fragments(message)}
    assert not {fragment for fragment in fragments if fragment not in _messages()}
