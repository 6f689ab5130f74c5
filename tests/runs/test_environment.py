"""What a run says about its software, its machine and its code."""

import socket
import subprocess
from dataclasses import replace
from importlib.metadata import version

import jax
import pytest

from cnnbench.runs import codec
from cnnbench.runs.environment import environment as environment_of
from cnnbench.runs.environment import machine
from cnnbench.runs.records import Environment
from cnnbench.system import host


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
    assert found.load_per_cpu == host.load_per_cpu()
    assert found.processor
    assert found.command == ("cnnbench", "run")


def test_no_host_name():
    name = socket.gethostname()
    if len(name) < 4:
        pytest.skip("this machine's name is too short to be told from other words")
    assert name not in repr(codec.encode_document({"environment": str(environment())}))


def test_the_machine_of_an_environment_is_that_of_its_seeds():
    assert environment().machine == machine(jax.devices())


def test_what_differs_between_machines_is_named():
    one = machine(jax.devices()[:1])
    assert one.changed(one) == ""
    assert one.changed(replace(one, processor="Other")) == ""  # `device` is what trains
    other = replace(one, device="H100", num_devices=4, jax="0.1")
    assert one.changed(other) == (
        f"device H100 instead of {one.device}, devices 4 instead of 1 and jax 0.1 instead of"
        f" {one.jax}"
    )


def test_a_machine_of_several_devices_says_how_many():
    one = machine(jax.devices()[:1])
    assert one.model == host.processor()
    assert replace(one, device_kind="gpu", device="H100", num_devices=4).model == "4 x H100"
