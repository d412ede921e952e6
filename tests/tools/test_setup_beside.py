"""Packages are installed while PETSc is built: one pip at a time, and one error for both."""

import sys
import threading
import time

import pytest
import tiny

sys.path.insert(0, str(tiny.REPOSITORY / "tools"))

import setup_steps
from setup_steps import SetupError, beside, run

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


def fail():
    raise SetupError("the build failed")


def build():
    setup_steps._building.set()
    run(SLEEP)


def test_the_error_of_the_work_is_raised_before_the_block():
    with pytest.raises(SetupError, match="the build failed"), beside(fail):
        pytest.fail("the block started")


def test_the_block_runs_while_the_work_builds_and_the_error_comes_at_its_end():
    entered = threading.Event()

    def build_and_fail():
        setup_steps._building.set()
        assert entered.wait(30)
        fail()

    with pytest.raises(SetupError, match="the build failed"), beside(build_and_fail):
        entered.set()


def test_an_error_in_the_block_ends_the_build_and_what_would_follow():
    later = []

    def build_and_go_on():
        try:
            build()
        except SetupError:
            later.append("ended")
            run(SLEEP)

    def interrupt():
        while not setup_steps._RUNNING:
            time.sleep(0.01)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), beside(build_and_go_on):
        interrupt()
    assert later == ["ended"]
    run([sys.executable, "-c", ""])


def test_one_pip_at_a_time_changes_the_environment(monkeypatch):
    changing, most = [], []

    def change(command, env=None):
        changing.append(command)
        most.append(len(changing))
        time.sleep(0.05)
        changing.remove(command)

    monkeypatch.setattr(setup_steps, "run", change)
    threads = [
        threading.Thread(target=setup_steps.pip, args=(name, str(number)))
        for number, name in enumerate(["install", "uninstall", "install"])
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1]
