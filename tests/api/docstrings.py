"""What the docstrings of the public names must have, by numpydoc's own checks and a few more."""

from __future__ import annotations

import ast
import importlib
import inspect
import textwrap
from collections.abc import Iterator
from typing import Any

import numpydoc.validate
from numpydoc.docscrape import NumpyDocString

import prdp_hpc

# The checks are numpydoc's; https://numpydoc.readthedocs.io/en/latest/validation.html has the list.
LAYOUT = ("GL03", "GL05", "GL06", "GL07", "GL08", "GL09", "GL10")
SUMMARY = ("SS01", "SS02", "SS03", "SS04", "SS06")
PARAMETERS = ("PR02", "PR03", "PR04", "PR05", "PR06", "PR07", "PR08", "PR09", "PR10")
RETURNS = ("RT02", "RT03", "RT04", "RT05")
FOR_METHODS = (*LAYOUT, *SUMMARY, *PARAMETERS, *RETURNS)
FOR_NAMES = (*FOR_METHODS, "ES01", "PR01", "RT01", "EX01")

_CONSTRUCTORS = ("__init__", "__post_init__", "__new__", "__call__")
_RAISING = ("raise_", "require", "check", "validate", "wrong", "call_together")


def public_methods(thing: Any) -> Iterator[str]:
    """The methods and properties of a class that this package defines, without private ones."""
    if not inspect.isclass(thing):
        return
    for name in dir(thing):
        if name.startswith("_"):
            continue
        home = next(cls for cls in thing.__mro__ if name in vars(cls))
        member = vars(home)[name]
        is_method = inspect.isfunction(member) or isinstance(
            member, property | classmethod | staticmethod
        )
        if is_method and home.__module__.startswith("prdp_hpc."):
            yield name


def is_protocol(thing: Any) -> bool:
    """Whether a class is an interface, which cannot be called."""
    return bool(getattr(thing, "_is_protocol", False))


def violations(name: str, codes: tuple[str, ...]) -> list[str]:
    """numpydoc's findings for a dotted name, as "code: text"."""
    found = numpydoc.validate.validate(name)["errors"]
    return [f"{name}: {code}: {text}" for code, text in found if code in codes]


def problems_of(name: str) -> list[str]:
    """All findings for one public name and its methods."""
    thing = getattr(prdp_hpc, name)
    left_out = {"RT01"} if inspect.isclass(thing) else set()
    left_out |= {"PR01"} if is_protocol(thing) else set()
    codes = tuple(code for code in FOR_NAMES if code not in left_out)
    found = violations(f"prdp_hpc.{name}", codes)
    for method in public_methods(thing):
        complete = ("PR01", "RT01") if has_sections(getattr(thing, method)) else ()
        found += violations(f"prdp_hpc.{name}.{method}", (*FOR_METHODS, *complete))
    return found


def has_sections(method: Any) -> bool:
    """Whether a method documents its parameters or results, which must then be all of them.

    Methods for users do. Methods that the package calls, e.g. those of the operator interface, may
    have a summary only.
    """
    doc = sections_of(method)
    return bool(doc["Parameters"] or doc["Returns"])


def sections_of(thing: Any) -> NumpyDocString:
    """The parsed docstring."""
    return NumpyDocString(inspect.getdoc(thing) or "")


def arrays_without_shape(thing: Any) -> list[str]:
    """Names of documented tensors and arrays for which no shape is given."""
    doc = sections_of(thing)
    missing = []
    for section in ("Parameters", "Returns", "Attributes"):
        for entry in doc[section]:
            is_array = any(word in entry.type for word in ("Tensor", "array"))
            text = " ".join([entry.type, *entry.desc])
            if is_array and "shape" not in text:
                missing.append(entry.name or entry.type)
    return missing


def raises_errors(thing: Any) -> bool:
    """Whether the source of a function, or what makes and calls an instance, raises errors."""
    if is_protocol(thing):
        return False
    functions = [thing] if inspect.isfunction(thing) else list(_constructors(thing))
    return any(_raises(function) for function in functions)


def _constructors(cls: Any) -> Iterator[Any]:
    for name in _CONSTRUCTORS:
        home = next(base for base in cls.__mro__ if name in vars(base) or base is object)
        function = vars(home).get(name)
        if home.__module__.startswith("prdp_hpc.") and inspect.isfunction(function):
            yield function


def _raises(function: Any) -> bool:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except OSError:  # made by a dataclass
        return False
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise):
            return True
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func).rsplit(".", 1)[-1].lstrip("_")
            if called.startswith(_RAISING):
                return True
    return False


def modules_with_examples() -> list[Any]:
    """The modules of the public names whose own docstring has an example."""
    homes = sorted({getattr(prdp_hpc, name).__module__ for name in prdp_hpc.__all__})
    modules = [importlib.import_module(home) for home in homes]
    return [module for module in modules if ">>>" in (module.__doc__ or "")]
