"""Usability: text in the package and its tests is in standard terms, without private idiom."""

from pathlib import Path

import plain_english
import pytest
import tiny

import prdp_hpc

PACKAGE = Path(prdp_hpc.__file__).parent
TESTS = tiny.REPOSITORY / "tests"
PARTS = [
    part
    for part in sorted({file.parent for file in PACKAGE.rglob("*.py")} | set(PACKAGE.glob("*.py")))
    if part.parent == PACKAGE
]
PARTS += [TESTS / name for name in ("api", "distributed", "grid", "linalg", "networks", "physics")]


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_there_is_no_idiom(part):
    files = [part] if part.suffix == ".py" else sorted(part.rglob("*.py"))
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
