"""Usability: text in the package and its tests is in standard terms, without private idiom."""

from pathlib import Path

import plain_english
import pytest
import tiny

import prdp_hpc

PACKAGE = Path(prdp_hpc.__file__).parent
PARTS = [part for part in sorted(PACKAGE.iterdir()) if any(part.glob("*.py"))]
PARTS += [
    PACKAGE,
    *(tiny.REPOSITORY / name for name in ("tests", "examples", "benchmarks", "tools")),
]
# This file has idiom on purpose.
EXCEPT = Path(__file__)


def files_of(part):
    """The Python files of a part; of the package itself those outside its subpackages."""
    found = part.glob("*.py") if part == PACKAGE else part.rglob("*.py")
    return [file for file in sorted(found) if file != EXCEPT]


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_there_is_no_idiom(part):
    files = files_of(part)
    assert files
    assert [found for file in files for found in plain_english.findings(file)] == []


@pytest.mark.parametrize(
    "text",
    [
        "# The right-hand sides who still iterate.",
        "# Each rank finds its seat.",
        "# The launcher is deaf to it.",
        "# One file a rank.",
        '"""What the loss\nowes to a scalar."""',
        "raise ValueError('a config that does not do')",
        "raise ValueError(f'{name}: whatever it is')",
    ],
)
def test_idiom_is_found(text, tmp_path):
    file = tmp_path / "code.py"
    file.write_text(text, encoding="utf-8")
    assert len(plain_english.findings(file)) == 1
