"""Files are whole or as before."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prdp_hpc.files import atomic_path, to_json, write_json, write_text

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def fail_after_writing(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text)
        raise OSError("disk full")


def test_a_failure_while_writing_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    write_text(path, "old")
    with pytest.raises(OSError, match="disk full"):
        fail_after_writing(path, "half of the ne")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_before_the_first_write_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="disk full"):
        fail_after_writing(tmp_path / "new.txt", "half")
    assert list(tmp_path.iterdir()) == []


def test_an_object_that_json_does_not_support_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    write_json(path, {"error": 1.0})
    with pytest.raises(TypeError, match="set cannot be written as JSON"):
        write_json(path, {"error": {1.0}})
    assert json.loads(path.read_text()) == {"error": 1.0}


def test_the_old_file_exists_until_the_new_one_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "figures" / "run.png"
    write_text(path, "old")
    with path.open() as reader:
        with atomic_path(path) as temporary:
            assert (temporary.parent, temporary.suffix) == (path.parent, ".png")
            temporary.write_text("new")
            assert path.read_text() == "old"
        assert path.read_text() == "new"
        assert (
            reader.read() == "old"
        )  # a process that is reading continues to read the complete old file


def test_the_file_can_be_read_by_the_same_people_as_any_other(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("x")
    write_text(tmp_path / "atomic", "x")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


@given(VALUES)
def test_json_is_strict(value: object) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    text = to_json(value)
    assert "\n" not in text
    again = json.loads(text, parse_constant=refuse)
    assert to_json(again) == text


def test_json_has_null_for_what_is_not_finite_and_numbers_for_numpys() -> None:
    value = {
        "nan": float("nan"),
        "inf": [np.float32("inf")],
        "count": np.int64(3),
        "error": np.float32(0.5),
        "level": (1, 2),
    }
    assert json.loads(to_json(value)) == {
        "nan": None,
        "inf": [None],
        "count": 3,
        "error": 0.5,
        "level": [1, 2],
    }
