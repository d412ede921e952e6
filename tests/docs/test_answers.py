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
    "my data of another program": ("howto/formats.md", "netcdf"),
    "my matrix": ("howto/matrices.md", "from_scipy"),
    "my loop": ("tutorials/own_network.md", "solver.refine(level)"),
    "what does exit code 85 mean": ("reference/exit_codes.md", "has written a checkpoint"),
    "how do I run on my cluster": ("howto/slurm.md", "prdp-hpc submit"),
    "how do I run without SLURM": ("howto/cluster.md", "#PBS"),
    "how many ranks": ("concepts/ranks.md", "## How to choose"),
    "how do I resume": ("howto/resume.md", "--resume"),
    "how do I stop": ("howto/resume.md", "## Stop a run"),
    "which solver do I take": ("howto/choose_a_solver.md", "symmetric positive definite"),
    "what is a level": ("concepts/levels.md", "A *level* is the accuracy of a solve"),
    "which ladder do I take": ("faq.md", "Which ladder do I take"),
    "what does a word mean": ("reference/glossary.md", "**Ladder**"),
    "what does a key mean": ("howto/configuration.md", "../reference/configuration.md"),
    "why does the error message say": ("howto/messages.md", "remedy"),
    "how much will I save": ("faq.md", "solver iterations"),
    "why does my run save no time": ("faq.md", "the solver's share of the time"),
    "my training diverges": ("faq.md", "`training.clip_norm`"),
    "it runs out of memory": ("faq.md", "data.in_memory=false"),
    "where are my results": ("reference/metrics.md", "summary.json"),
    "how do I watch a run": ("howto/monitoring.md", "tensorboard --logdir"),
    "how do I use the network": ("howto/predict.md", "prdp-hpc export"),
    "does it run on GPUs": ("tutorials/gpus.md", "TORCH=cuda"),
    "which versions fit": ("howto/install.md", "PETSc ≥ 3.23.5"),
    "the command is not found": ("howto/install.md", "command not found"),
    "several values": ("howto/sweeps.md", "training.learning_rate=$rate"),
    "how do I cite": ("faq.md", "arXiv:2502.19611"),
    "the error does not fall": ("faq.md", "data.normalise=standard"),
    "what does it save and when not": ("concepts/prdp.md", "## When it saves little"),
    "MPI is missing": ("howto/install.md", "cannot be imported"),
    "my data are in netCDF": ("howto/formats.md", "kind: netcdf"),
    "my PETSc matrix": ("howto/matrices.md", "from_petsc(mat)"),
    "which licence": ("faq.md", "MIT"),
    "in a notebook": ("faq.md", "Jupyter"),
    "how long will it take": ("faq.md", "the time left"),
    "how do I update": ("howto/install.md", "git pull && make environment"),
    "how do I remove it": ("howto/install.md", "make clean"),
    "the paper's results": ("howto/configuration.md", "prdp-hpc paper --quick"),
    "my job hangs": ("howto/faults.md", "PRDP_WATCHDOG_SECONDS"),
    "PETSc's options": ("howto/petsc_options.md", "petsc_options:"),
    "what does the progress line mean": ("reference/metrics.md", "solver_share"),
}


def clicks(start, most):
    """The Markdown files that are at most so many links away from one; paths from the root."""
    found, border = {start}, {start}
    for _ in range(most):
        border = {target for page in border for target in _targets(page)} - found
        found |= border
    return found


@cache
def _targets(name):
    links = Page(pages.ROOT / name).links if (pages.ROOT / name).exists() else ()
    found = (os.path.join(os.path.dirname(name), link.partition("#")[0]) for link in links)
    return {os.path.normpath(target) for target in found if target.endswith(".md")}


@pytest.mark.parametrize("start", ["README.md", "docs/index.md"])
@pytest.mark.parametrize("question", QUESTIONS)
def test_an_answer_is_two_clicks_away(question, start):
    page, phrase = QUESTIONS[question]
    assert f"docs/{page}" in clicks(start, 2)
    assert phrase in (DOCS / page).read_text(encoding="utf-8")


@cache
def _messages():
    """All text of the program, with what is filled in left out."""
    text = []
    files = [*(pages.ROOT / "prdp_hpc").rglob("*.py"), *(pages.ROOT / "tools").glob("*.py")]
    for path in files:
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


EXPLAINED = ("howto/messages.md", "howto/slurm.md", "howto/cluster.md", "howto/install.md")


@pytest.mark.parametrize("name", EXPLAINED)
def test_explained_messages_are_those_of_the_program(name):
    shown = [
        message
        for _, row in Page(DOCS / name).rows
        for message in re.findall(r"`([^`]*)`", row[0])
        if " " in message
        and not message.startswith(("srun", "prdp-hpc", "--", "PENDING", "PETSC", "make"))
    ]
    fragments = {fragment for message in shown for fragment in _fragments(message)}
    assert not {fragment for fragment in fragments if fragment not in _messages()}
