"""Settings of all tests: fixed seeds, and parallel tests that end even if a rank fails or hangs."""

import gc
import os
import signal
import sys
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("repository", deadline=None, max_examples=25)
settings.load_profile("repository")

# mpi-pytest starts `mpiexec` by name: use that of this environment, with one thread per rank.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Several workers of pytest with several ranks each are more ranks than cores. MPICH's ranks wait
# without yielding their core, and a reduction on 4 ranks then takes 6 ms instead of 0.7.
os.environ.setdefault("MPIR_CVAR_ENABLE_HEAVY_YIELD", "1")

# These modules read their settings when they are loaded.
import torch  # noqa: E402
from empty_figures import empty_figures, real_figures  # noqa: E402
from mpi4py import MPI  # noqa: E402
from rank_starts import REPORTS, RankStarts, ranks_of, write_report  # noqa: E402
from shared_ranks import SharedRanks  # noqa: E402

_TESTS = Path(__file__).parent
# These tests take longest, and would run alone if they came last.
_FIRST = ("slurm", "docker", "faults", "parallel", "adversarial")
_UNDER_MPIEXEC = MPI.COMM_WORLD.size > 1


def pytest_collection_modifyitems(config, items):
    items.sort(key=_place)
    for item in items:
        if item.path.parent == _TESTS / "slurm" or "two_ranks" in item.fixturenames:
            # One worker has the daemons of SLURM, and the two ranks that tests share. It begins
            # with the tests of SLURM, which mostly wait, while those on several ranks, in the
            # other worker, use both cores.
            item.add_marker(pytest.mark.xdist_group("slurm"))
    is_long = [_is_long(item) for item in items]
    for item, long in zip(items, is_long, strict=True):
        factor = 10 if long else 1
        if item.get_closest_marker("parallel"):
            # A hanging rank is in C code, where only a thread can end it; in the parent process
            # that would end the whole session.
            seconds, method = (150, "thread") if _UNDER_MPIEXEC else (200, "signal")
            item.add_marker(pytest.mark.timeout(factor * seconds, method=method))
            # One worker runs them in sequence, and starts those with the same number of ranks
            # together.
            item.add_marker(pytest.mark.xdist_group("ranks"))
        elif long:
            item.add_marker(pytest.mark.timeout(factor * 100))
    if getattr(config.option, "loadgroup", False):
        _name_groups(items)
    # By an environment variable, which the ranks of a parallel test have too.
    if "PRDP_LONG_TESTS" not in os.environ:
        config.hook.pytest_deselected(
            items=[item for item, long in zip(items, is_long, strict=True) if long]
        )
        items[:] = [item for item, long in zip(items, is_long, strict=True) if not long]


def _name_groups(items):
    """Add groups to the names of tests, where xdist reads them. xdist 3.8 does so before the hook
    above has set the groups, and in an attribute that pytest 9.2 no longer reads. Without groups,
    all workers would start ranks and SLURM.
    """
    for item in items:
        mark = item.get_closest_marker("xdist_group")
        if mark is None:
            continue
        name = f"{item.nodeid}@{mark.args[0]}"
        if hasattr(item, "_id"):
            item._id = type(item._id).parse(name)
        else:
            item._nodeid = name


def _is_long(item):
    """Whether only `make test-all` runs a test: because of what it is, or on so many ranks."""
    numbers = item.get_closest_marker("long_on")
    on_these = numbers is not None and ranks_of(item) in numbers.args
    return on_these or item.get_closest_marker("long") is not None


def _place(item):
    """The position of a test in the order: tests on several ranks first, by their number."""
    folder = item.path.relative_to(_TESTS).parts[0]
    place = _FIRST.index(folder) if folder in _FIRST else len(_FIRST)
    ranks = ranks_of(item)
    return (ranks == 1, ranks, place)


@pytest.fixture(scope="session")
def rank_starts(request):
    """The starts of mpiexec for the tests of this session on several ranks."""
    starts = RankStarts(request.session.items)
    yield starts
    starts.close()


@pytest.fixture(scope="session")
def two_ranks():
    """Run command lines on two ranks: a function of the list of them, see `SharedRanks`. Not for
    those that end their ranks.
    """
    ranks = None

    def run(lines):
        nonlocal ranks
        if ranks is None or ranks.ended:
            ranks = SharedRanks(2)
        return ranks.run(lines)

    yield run
    if ranks is not None:
        ranks.close()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    if _UNDER_MPIEXEC or ranks_of(pyfuncitem) == 1:
        return None
    pyfuncitem._request.getfixturevalue("rank_starts").run(pyfuncitem)
    return True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if not _UNDER_MPIEXEC:
        return report
    if report.failed:
        # The other ranks may wait in a collective call that this rank has left.
        print(f"rank {MPI.COMM_WORLD.rank}, {item.name}:", file=sys.stderr)
        print(report.longreprtext, file=sys.stderr)
        sys.stderr.flush()
        MPI.COMM_WORLD.Abort(1)
    if REPORTS in os.environ and MPI.COMM_WORLD.rank == 0:
        write_report(item, report)
    return report


@pytest.fixture(scope="session", autouse=True)
def _empty_figures():
    """Empty files in place of figures, except in tests that use `figures`."""
    with empty_figures():
        yield


@pytest.fixture
def figures():
    """Figures are drawn."""
    with real_figures():
        yield


@pytest.fixture(scope="module", autouse=True)
def _frozen():
    """Python's collector does not look through what is there before the tests of a file: all
    modules and tests, half a million objects. Each mesh that is closed starts it, and it would take
    longer than most tests.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


@pytest.fixture
def handlers():
    """The handlers of this process, which ignores both signals after it has been preempted."""
    from prdp_hpc.distributed.signals import SIGNALS, take_held

    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    take_held()
    for number, handler in before.items():
        signal.signal(number, handler)
