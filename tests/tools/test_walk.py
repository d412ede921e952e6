"""The way from `prdp-hpc run` to the first KSP solve, in files and changes of file."""

import sys

import tiny

from prdp_hpc.cli import main

sys.path.insert(0, str(tiny.REPOSITORY / "tools"))

from walk import walk

FILES, CHANGES = 74, 314
"""At most this many, so that the way of a reader who follows a run does not become longer.
`python tools/walk.py configs/heat_1d.yaml output=/tmp/walk --list` prints it.
"""


def test_the_way_to_the_first_solve_does_not_become_longer(tmp_path):
    found = walk(lambda: main(["run", "heat_1d", f"output={tmp_path}"]))
    assert "linalg/linear_system.py" in found.files
    assert len(found.files) <= FILES
    assert len(found.parts) - 1 <= CHANGES
