"""Pages of the public Python names, by the package that they are in; mkdocstrings fills them."""

from __future__ import annotations

import prdp_hpc

TITLES = {
    "linalg": ("Solving", "Operators, solvers and differentiable solves."),
    "grid": ("Grids", "Grids that are divided among the ranks."),
    "distributed": ("Processes", "The ranks of a job and its graceful shutdown."),
    "physics": ("PDEs", "Time steps of PDEs, conditions on sides, time schemes and rollouts."),
    "refinement": ("Refinement", "What chooses the accuracy of the solver."),
    "networks": ("Networks", "Networks that run on each rank's part of the fields."),
    "data": ("Data", "Trajectories."),
    "tasks": ("Tasks", "What is trained."),
    "training": ("Training", "The trainer, its checkpoints and trackers."),
    "experiments": ("Runs", "Runs of configs from Python."),
    "config": ("Configs", "Reading and validation of configs."),
    "errors": ("Errors", "The classes of errors that users can act on."),
}
"""Title and sentence of each page, by the first part of the names' home."""

MORE = {
    "errors": ("errors.PrdpError", "errors.InputError", "errors.FileError"),
    "refinement": ("refinement.Schedule", "refinement.ProbingSchedule"),
}
"""Public names that are not in the package `prdp_hpc` itself."""


PARTS = ("FromMatrices", "GridGeometry", "InitialGuesses")
"""Classes that are a part of one public class, in a separate file."""


def pages() -> dict[str, str]:
    """One page for each package, and a list of all names."""
    names: dict[str, list[str]] = {package: [] for package in TITLES}
    for name, home in prdp_hpc._HOMES.items():
        names[home.partition(".")[0]].append(name)
    for package, more in MORE.items():
        names[package] += more
    found = {f"reference/api/{package}.md": _page(package, names[package]) for package in TITLES}
    return {**found, "reference/api/index.md": _index(names)}


def _page(package: str, names: list[str]) -> str:
    title, sentence = TITLES[package]
    entries = "\n\n".join(_entry(name) for name in names)
    return f"# {title}\n\n{sentence}\n\n{entries}\n"


def _entry(name: str) -> str:
    """The directive for one name, with the members of the classes that it is put together from."""
    bases = getattr(getattr(prdp_hpc, name, None), "__bases__", ())
    members = sorted(
        member
        for base in bases
        if base.__name__ in PARTS
        for member in vars(base)
        if not member.startswith("_")
    )
    options = f"\n    options:\n      inherited_members: {members}" if members else ""
    return f"::: prdp_hpc.{name}{options}"


def _index(names: dict[str, list[str]]) -> str:
    lines = ["# Python API", "", "All names are imported from `prdp_hpc` itself.", ""]
    for package, (title, sentence) in TITLES.items():
        links = ", ".join(f"[`{name}`]({package}.md#prdp_hpc.{name})" for name in names[package])
        lines += [f"**[{title}]({package}.md).** {sentence}", links, ""]
    return "\n".join(lines)
