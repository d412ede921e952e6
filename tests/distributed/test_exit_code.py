"""Property: while Python exits, its exit code is available, for every way of exiting."""

import subprocess
import sys

import pytest

WATCHED = """
import atexit, sys
from prdp_hpc.distributed import exit_code
atexit.register(lambda: print("later"))
exit_code.watch(lambda: print("exits"))
exit_code.watch(lambda: None)
try:
    sys.exit(9)
except SystemExit as end:
    assert (end.code, end.args) == (9, (9,))
    end.code = 10
    assert end.code == 10
class Leave(SystemExit):
    def __init__(self):
        super().__init__(85)
atexit.register(lambda: print(exit_code.requested()))
"""

WAYS = [
    ("sys.exit(3)", 3),
    ("sys.exit()", 0),
    ("sys.exit('a message')", 1),
    ("raise SystemExit(4)", 4),
    ("raise SystemExit", 0),
    ("raise Leave", 85),
    ("exit(5)", 5),
    ("import argparse; argparse.ArgumentParser().parse_args(['--x'])", 2),
    ("try:\n    sys.exit(6)\nfinally:\n    print()", 6),
]


@pytest.mark.parametrize(("way", "code"), WAYS)
def test_a_code_is_known(way, code):
    ended = subprocess.run(
        [sys.executable, "-c", WATCHED + way], capture_output=True, text=True, check=False
    )
    assert ended.returncode == code
    assert ended.stdout.split() == ["exits", str(code), "later"]


@pytest.mark.parametrize(("way", "code"), [("1 / 0", 1), ("pass", 0)])
def test_without_one_nothing_is_known(way, code):
    ended = subprocess.run(
        [sys.executable, "-c", WATCHED + way], capture_output=True, text=True, check=False
    )
    assert ended.returncode == code
    assert ended.stdout.split() == ["None", "later"]
