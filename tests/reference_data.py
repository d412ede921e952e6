"""The reference data: the whole files beside this checkout where they are, else the excerpts."""

from pathlib import Path

EXCERPTS = Path(__file__).parent / "reference"
WHOLE = Path(__file__).resolve().parents[2] / "shared" / "reference"


def reference(name):
    """The path of a file of reference data."""
    whole = WHOLE / name
    return whole if whole.exists() else EXCERPTS / name
