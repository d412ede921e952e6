"""Property: what an interrupted set-up leaves is never used, and nothing else is removed."""

import fcntl
import sys
import threading

import pytest
import tiny

sys.path.insert(0, str(tiny.REPOSITORY / "tools"))

import environment_state
import petsc_source
import prepare_environment
import setup_steps

RUNTIME = ("create", "petsc", "packages.txt", "torch", "prdp-hpc")
STEPS = (*RUNTIME, "dev.txt")


class Machine:
    """A set-up whose steps only write their names; the one named `interrupted` raises."""

    def __init__(self, folder, monkeypatch):
        self.venv, self.done, self.interrupted = folder / ".venv", [], None
        for module in (environment_state, prepare_environment, petsc_source):
            monkeypatch.setattr(module, "VENV", self.venv)
        monkeypatch.setattr(environment_state, "run", self._create)
        monkeypatch.setattr(prepare_environment, "install_locked", self.step)
        monkeypatch.setattr(prepare_environment, "install_torch", lambda: self.step("torch"))
        monkeypatch.setattr(prepare_environment, "install_petsc", lambda: self.step("petsc"))
        monkeypatch.setattr(prepare_environment, "install", lambda *_: self.step("prdp-hpc"))
        monkeypatch.setattr(prepare_environment, "compile_modules", lambda: None)
        monkeypatch.setattr(prepare_environment, "check_build_is_possible", lambda: None)
        for name in prepare_environment._SETTINGS:
            monkeypatch.delenv(name, raising=False)

    def _create(self, command):
        """What `python -m venv` writes first: the settings, before pip is there."""
        folder = environment_state.VENV
        (folder / "bin").mkdir()
        (folder / "bin" / "python").touch()
        version = sys.version.split()[0]
        (folder / "pyvenv.cfg").write_text(f"version = {version}\n")
        self.step("create")

    def step(self, name):
        if name == self.interrupted:
            raise KeyboardInterrupt
        self.done.append(name)

    def prepare(self, interrupted=None, is_for_development=True):
        """The steps that a set-up does; it is interrupted at one of them, or not."""
        self.done, self.interrupted = [], interrupted
        if interrupted is None:
            prepare_environment.prepare(is_for_development)
        else:
            with pytest.raises(KeyboardInterrupt):
                prepare_environment.prepare(is_for_development)
        return self.done


@pytest.fixture
def machine(tmp_path, monkeypatch):
    return Machine(tmp_path, monkeypatch)


@pytest.mark.parametrize("step", STEPS)
def test_the_set_up_after_an_interrupt_makes_the_environment_again(machine, step):
    assert machine.prepare(interrupted=step) == list(STEPS[: STEPS.index(step)])
    (machine.venv / "half a package").touch()
    assert machine.prepare() == list(STEPS)
    assert not (machine.venv / "half a package").exists()
    assert machine.prepare() == []


@pytest.mark.parametrize("step", RUNTIME)
def test_an_environment_without_tools_is_for_training_only(machine, step):
    assert machine.prepare(step, is_for_development=False) == list(RUNTIME[: RUNTIME.index(step)])
    assert machine.prepare(is_for_development=False) == list(RUNTIME)
    assert machine.prepare(is_for_development=False) == []
    assert machine.prepare() == ["dev.txt"]
    assert machine.prepare() == []
    assert machine.prepare(is_for_development=False) == []


def test_tools_that_were_interrupted_are_not_used(machine):
    machine.prepare(is_for_development=False)
    assert machine.prepare(interrupted="dev.txt") == []
    assert machine.prepare(is_for_development=False) == list(RUNTIME)


def test_other_tools_leave_the_rest_as_it_is(machine, monkeypatch, tmp_path):
    machine.prepare()
    for file in setup_steps.TOOLS.glob("*.[pt][yx]*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "dev.txt").write_text("pytest==0.0.1\n")
    monkeypatch.setattr(prepare_environment, "TOOLS", tmp_path)
    assert machine.prepare(is_for_development=False) == []
    assert machine.prepare() == ["dev.txt"]


def test_an_environment_on_another_disk_keeps_its_link(machine, tmp_path):
    (tmp_path / "disk").mkdir()
    machine.venv.symlink_to(tmp_path / "disk")
    machine.prepare(interrupted="torch")
    assert machine.prepare() == list(STEPS)
    assert machine.venv.is_symlink()


@pytest.mark.parametrize("step", STEPS[1:])
def test_an_interrupted_change_is_not_taken_for_the_earlier_environment(machine, step, monkeypatch):
    machine.prepare()
    monkeypatch.setenv("PETSC", "build")
    machine.prepare(interrupted=step)
    monkeypatch.delenv("PETSC")
    assert machine.prepare() == list(STEPS)


def test_a_change_of_settings_keeps_a_complete_environment(machine, monkeypatch):
    machine.prepare()
    monkeypatch.setenv("PETSC", "build")
    assert machine.prepare() == list(STEPS[1:])


def test_an_environment_that_was_moved_is_made_again(machine, monkeypatch):
    """Its scripts have the path of the interpreter at the earlier place."""
    machine.prepare()
    elsewhere = machine.venv.rename(machine.venv.with_name("elsewhere"))
    for module in (environment_state, prepare_environment):
        monkeypatch.setattr(module, "VENV", elsewhere)
    assert machine.prepare() == list(STEPS)


def test_an_environment_by_another_path_is_the_same(machine, monkeypatch, tmp_path):
    machine.prepare()
    (tmp_path / "link").symlink_to(machine.venv)
    for module in (environment_state, prepare_environment):
        monkeypatch.setattr(module, "VENV", tmp_path / "link")
    assert machine.prepare() == []


def test_the_environment_of_an_earlier_version_is_changed_in_place(machine):
    """Its stamp has no place."""
    machine.prepare()
    (machine.venv / "prdp-environment").write_text("0123456789abcdef")
    assert machine.prepare() == list(STEPS[1:])


def test_an_environment_whose_interpreter_is_gone_is_made_again(machine):
    machine.prepare()
    (machine.venv / "bin" / "python").unlink()
    assert machine.prepare() == list(STEPS)


@pytest.mark.parametrize("content", ["thesis.txt", "pyvenv.cfg"])
def test_a_folder_that_the_set_up_has_not_made_is_not_removed(machine, content):
    machine.venv.mkdir()
    (machine.venv / content).write_text("version = 3.11.0")
    with pytest.raises(setup_steps.SetupError, match=r"not replaced: remove it, or .* PRDP_VENV"):
        machine.prepare()
    assert (machine.venv / content).exists()


@pytest.mark.parametrize("removed", ["bin", "lib"])
def test_an_interrupt_while_an_unfinished_environment_is_removed(machine, monkeypatch, removed):
    machine.prepare(interrupted="torch")
    (machine.venv / "lib").mkdir()
    (machine.venv / "lib" / "half a package").touch()
    remove = environment_state.shutil.rmtree

    def interrupted(path):
        if path.name == removed:
            raise KeyboardInterrupt
        remove(path)

    monkeypatch.setattr(environment_state.shutil, "rmtree", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare_environment.prepare(is_for_development=True)
    monkeypatch.setattr(environment_state.shutil, "rmtree", remove)
    assert machine.prepare() == list(STEPS)
    assert not (machine.venv / "lib").exists()


def test_an_interrupt_before_the_first_stamp(machine):
    machine.venv.mkdir()
    (machine.venv / "prdp-environment.new").touch()
    assert machine.prepare() == list(STEPS)


def test_an_empty_folder_is_used(machine):
    machine.venv.mkdir()
    assert machine.prepare() == list(STEPS)


def test_a_second_set_up_waits_for_the_first_one(machine, capsys):
    lock = machine.venv.with_name(".venv.lock").open("a")
    fcntl.flock(lock, fcntl.LOCK_EX)
    second = threading.Thread(target=machine.prepare)
    second.start()
    second.join(0.5)
    assert second.is_alive()
    assert machine.done == []
    lock.close()
    second.join()
    assert machine.done == list(STEPS)
    assert "another set-up" in capsys.readouterr().out


def test_a_set_up_that_has_waited_uses_what_the_first_one_made(machine, monkeypatch):
    """The environment becomes complete while the second set-up waits for the lock."""
    wanted = prepare_environment.fingerprints(is_for_development=True)
    machine.prepare()
    (machine.venv / "prdp-environment").write_text(f"{machine.venv}\nunfinished\n")
    locked = environment_state.locked

    def first_one_ends():
        environment_state.write_state(*wanted)
        return locked()

    monkeypatch.setattr(environment_state, "locked", first_one_ends)
    assert machine.prepare() == []


def test_an_interrupt_ends_with_one_sentence(machine, capsys):
    machine.interrupted = "torch"
    with pytest.raises(SystemExit) as end:
        prepare_environment.main([])
    assert end.value.code == 130
    assert "interrupted" in capsys.readouterr().out


def test_an_error_of_the_file_system_ends_with_one_sentence(machine):
    machine.venv.parent.joinpath("file").touch()
    environment_state.VENV = machine.venv.parent / "file" / ".venv"
    with pytest.raises(SystemExit, match=r"cannot be prepared: .*file"):
        prepare_environment.main([])
