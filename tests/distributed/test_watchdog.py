"""The limit of the watchdog, and what it takes for a wait."""

import faulthandler
import threading
import time

import pytest

from prdp_hpc.distributed import watchdog
from prdp_hpc.errors import InputError


@pytest.mark.parametrize(("text", "seconds"), [("0", 0.0), ("2.5", 2.5), ("1e3", 1000.0)])
def test_a_limit(monkeypatch, text, seconds):
    monkeypatch.setenv(watchdog.VARIABLE, text)
    assert watchdog.limit() == seconds


@pytest.mark.parametrize("text", ["", "off", "-1", "nan", "inf", "5 s"])
def test_what_is_no_limit(monkeypatch, text):
    monkeypatch.setenv(watchdog.VARIABLE, text)
    with pytest.raises(InputError, match=r"PRDP_WATCHDOG_SECONDS must be .* 0 for no watchdog"):
        watchdog.limit()


def test_there_is_none_on_one_rank(monkeypatch):
    monkeypatch.setattr(watchdog, "_running", [])
    watchdog.start(0, 1, lambda: None)
    assert watchdog._running == []


CALLS = """
def wait(lock, seconds):
    return lock.acquire(True, seconds)

def work(call, arguments, times):
    for _ in range(times):
        calls[0] += 1
        call(*arguments)

def lend(call):
    call()
"""


@pytest.fixture
def package(monkeypatch):
    """A watchdog with a limit of 0.4 s, functions that it takes for this package's, and a lock
    that is free when it has ended the job.
    """
    lock = threading.Lock()
    lock.acquire()
    monkeypatch.setenv(watchdog.VARIABLE, "0.4")
    monkeypatch.setattr(watchdog, "_running", [])
    # On a busy machine it could end these tests.
    monkeypatch.setattr(faulthandler, "dump_traceback_later", lambda *_, **__: None)
    monkeypatch.setattr(faulthandler, "cancel_dump_traceback_later", lambda: None)

    def end_job():
        watchdog.stop()
        lock.release()

    functions = {"calls": watchdog.calls, "lock": lock}
    exec(compile(CALLS, watchdog._PACKAGE + "some.py", "exec"), functions)
    watchdog.start(0, 2, end_job)
    yield functions
    watchdog.stop()
    time.sleep(0.1)


def test_a_call_that_does_not_return_ends_the_job(package):
    assert package["wait"](package["lock"], 60)


def test_calls_of_others_and_calls_that_go_on_do_not(package):
    package["lend"](lambda: time.sleep(1.2))
    package["work"](time.sleep, (0.05,), 24)
    assert not package["wait"](package["lock"], 0)
