"""How busy the machine is before a run trains."""

from pathlib import Path

import pytest

from cnnbench.system import host


def test_the_load_is_that_of_before_the_first_training(monkeypatch):
    host.load_per_cpu.cache_clear()
    loads = iter([(3.0, 0.0, 0.0), (99.0, 0.0, 0.0)])
    monkeypatch.setattr(host, "CPU_TIMES", Path("none"))
    monkeypatch.setattr("os.getloadavg", lambda: next(loads))
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    assert [host.load_per_cpu() for _ in range(2)] == [0.75, 0.75]
    host.load_per_cpu.cache_clear()


@pytest.mark.parametrize(("average", "load"), [(3.0, 0.25), (0.8, 0.2), (0.3, 0.075)])
def test_a_command_that_has_just_ended_is_no_load(monkeypatch, tmp_path, average, load):
    """A quarter of the CPUs' time is used by others while it looks."""
    times = tmp_path / "stat"
    times.write_text("cpu  100 0 100 1000 0 0 0 0 0 0\ncpu0 1 1 1\n")
    looked = "cpu  102 1 101 1010 5 0 1 0 0 0\ncpu0 2 2 2\n"
    monkeypatch.setattr(host, "CPU_TIMES", times)
    # Not the one that all threads call: another that slept before it was needed would end the look.
    monkeypatch.setattr(host, "sleep", lambda _: times.write_text(looked))
    monkeypatch.setattr("os.getloadavg", lambda: (average, 0.0, 0.0))
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    host.load_per_cpu.cache_clear()
    assert host.load_per_cpu() == pytest.approx(load)
    host.load_per_cpu.cache_clear()


def test_a_system_that_knows_no_load_has_none(monkeypatch):
    host.load_per_cpu.cache_clear()
    monkeypatch.delattr("os.getloadavg")
    assert host.load_per_cpu() is None
    host.load_per_cpu.cache_clear()
