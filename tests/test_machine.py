"""What a run says about the machine."""

import socket
import subprocess
from importlib.metadata import version
from pathlib import Path

import jax
import pytest

from cnnbench import codec, machine
from cnnbench.environment import environment as environment_of
from cnnbench.results import Environment


@pytest.fixture
def repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words in (
        ["init", "--quiet"],
        [
            "-c",
            "user.name=a",
            "-c",
            "user.email=a@b",
            "commit",
            "--quiet",
            "--allow-empty",
            "-m",
            "x",
        ],
    ):
        subprocess.run(["git", *words], check=True)
    return tmp_path


def environment() -> Environment:
    return environment_of(jax.devices(), ["cnnbench", "run"])


def test_commit_and_whether_it_was_dirty(repository):
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert (environment().commit, environment().dirty) == (head, False)
    (repository / "new.txt").write_text("x")
    assert environment().dirty is True


def test_outside_a_repository_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert (environment().commit, environment().dirty) == (None, None)


def test_without_git_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment().commit is None


def test_versions_are_those_installed():
    found = environment()
    assert found.jax == version("jax")
    assert found.numpy == version("numpy")
    assert found.num_cpus >= 1
    assert found.processor
    assert found.command == ("cnnbench", "run")


def test_no_host_name():
    name = socket.gethostname()
    if len(name) < 4:
        pytest.skip("this machine's name is too short to be told from other words")
    assert name not in repr(codec.encode_document({"environment": str(environment())}))


def test_the_load_is_that_of_before_the_first_training(monkeypatch):
    machine.load_per_cpu.cache_clear()
    loads = iter([(3.0, 0.0, 0.0), (99.0, 0.0, 0.0)])
    monkeypatch.setattr(machine, "CPU_TIMES", Path("none"))
    monkeypatch.setattr("os.getloadavg", lambda: next(loads))
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    assert [environment().load_per_cpu for _ in range(2)] == [0.75, 0.75]
    machine.load_per_cpu.cache_clear()


@pytest.mark.parametrize(("average", "load"), [(3.0, 0.25), (0.8, 0.2), (0.3, 0.075)])
def test_a_command_that_has_just_ended_is_no_load(monkeypatch, tmp_path, average, load):
    """A quarter of the CPUs' time is used by others while it looks."""
    times = tmp_path / "stat"
    times.write_text("cpu  100 0 100 1000 0 0 0 0 0 0\ncpu0 1 1 1\n")
    looked = "cpu  102 1 101 1010 5 0 1 0 0 0\ncpu0 2 2 2\n"
    monkeypatch.setattr(machine, "CPU_TIMES", times)
    # Not the one that all threads call: another that slept before it was needed would end the look.
    monkeypatch.setattr(machine, "sleep", lambda _: times.write_text(looked))
    monkeypatch.setattr("os.getloadavg", lambda: (average, 0.0, 0.0))
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    machine.load_per_cpu.cache_clear()
    assert environment().load_per_cpu == pytest.approx(load)
    machine.load_per_cpu.cache_clear()


def test_a_system_that_knows_no_load_has_none(monkeypatch):
    machine.load_per_cpu.cache_clear()
    monkeypatch.delattr("os.getloadavg")
    assert environment().load_per_cpu is None
    machine.load_per_cpu.cache_clear()
