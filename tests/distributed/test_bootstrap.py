"""Usability: importing the package changes nothing in a process but what MPI's start needs."""

import json
import subprocess
import sys

import tiny

SHOW = (
    "import json, os, signal, sys, threading, warnings\n"
    "def state():\n"
    "    handlers = [str(signal.getsignal(n)) for n in (signal.SIGTERM, signal.SIGUSR1)]\n"
    "    return [dict(os.environ), handlers, len(warnings.filters), str(sys.excepthook)]\n"
    "before = state()\n"
    "import prdp_hpc\n"
    "after = state()\n"
    "changed = {k for k in {*before[0], *after[0]} if before[0].get(k) != after[0].get(k)}\n"
    "loaded = {'torch', 'mpi4py.MPI', 'petsc4py.PETSc', 'numpy'} & set(sys.modules)\n"
    "print(json.dumps([sorted(changed), before[1:] == after[1:], sorted(loaded)]))\n"
)


def changes(**environment):
    """The variables that the import changes, whether all else stays, and what it loads."""
    ended = subprocess.run(
        [sys.executable, "-c", SHOW],
        capture_output=True,
        text=True,
        check=True,
        env=tiny.environment() | environment,
    )
    return json.loads(ended.stdout)


def test_a_process_of_its_own_is_left_as_it_is():
    assert changes() == [[], True, []]


def test_a_rank_is_marked_and_has_one_blas_thread():
    variables, same, loaded = changes(PMI_SIZE="2", PMI_RANK="0")
    assert (variables, same, loaded) == (["OPENBLAS_NUM_THREADS", "PRDP_RANK_PROCESS"], True, [])
    assert changes(PMI_SIZE="2", OPENBLAS_NUM_THREADS="3")[0] == ["PRDP_RANK_PROCESS"]


def test_all_of_it_can_be_switched_off():
    assert changes(PMI_SIZE="2", PMI_RANK="0", PRDP_BOOTSTRAP="0") == [[], True, []]
