"""Usability: every key of a config has a description, which the reference and editors show."""

from __future__ import annotations

import sys

import pytest

from prdp_hpc.config import amortised, experiment, formats, networks, paper, physics
from prdp_hpc.config.models import Section

MODULES = (amortised, experiment, formats, networks, paper, physics)
"""Modules whose import defines all sections."""


def sections() -> list[type[Section]]:
    """All sections, without the copies that contain the keys of a component."""
    found, waiting = set(), [Section]
    while waiting:
        waiting += (new := set(waiting.pop().__subclasses__()) - found)
        found |= new
    return sorted(
        (one for one in found if getattr(sys.modules[one.__module__], one.__name__, None) is one),
        key=lambda one: one.__name__,
    )


@pytest.mark.parametrize("section", sections(), ids=lambda section: section.__name__)
def test_each_key_has_a_description(section: type[Section]) -> None:
    for key, field in section.model_fields.items():
        assert field.description, f"{section.__name__}.{key} has no description"
        assert field.description.endswith(".")
        # They are cells of a table in the reference, which have at most 80 characters.
        assert len(field.description) <= 80, key
