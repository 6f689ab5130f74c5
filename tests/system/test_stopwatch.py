"""The stopwatch, with a fake clock."""

import math

import pytest

from cnnbench.system.stopwatch import Stopwatch, Timing


class Clock:
    """Seconds since yesterday, say."""

    def __init__(self, start: float = 86_400.0) -> None:
        self.time = start

    def __call__(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds


def test_parts_add_up_and_the_rest_counts_in_the_total_only() -> None:
    clock = Clock()
    watch = Stopwatch(clock)
    for name, seconds in [("data_s", 2), ("compile_s", 3), ("train_s", 5), ("train_s", 7)]:
        with watch.part(name):
            clock.sleep(seconds)
        clock.sleep(0.5)
    assert watch.timing() == Timing(compile_s=3, data_s=2, train_s=12, eval_s=0, total_s=19)
    assert watch.now() == 19


def test_last_is_the_last_time() -> None:
    clock = Clock()
    watch = Stopwatch(clock)
    for seconds in (5, 7):
        with watch.part("train_s"):
            clock.sleep(seconds)
        assert watch.last("train_s") == seconds
    assert watch.timing().train_s == 12


def test_a_part_may_lie_within_another() -> None:
    clock = Clock()
    watch = Stopwatch(clock)
    with watch.part("train_s"):
        clock.sleep(1)
        with watch.part("data_s"):
            clock.sleep(2)
    assert (watch.timing().train_s, watch.timing().data_s) == (3, 2)


def test_a_part_that_is_cut_off_is_charged_all_the_same() -> None:
    """Interrupted runs report their timing."""
    clock = Clock()
    watch = Stopwatch(clock)
    with pytest.raises(KeyboardInterrupt), watch.part("train_s"):  # noqa: PT012
        clock.sleep(4)
        raise KeyboardInterrupt
    assert watch.timing() == Timing(compile_s=0, data_s=0, train_s=4, eval_s=0, total_s=4)


def test_the_first_step_is_noted_once_from_the_start() -> None:
    clock = Clock()
    watch = Stopwatch(clock)
    assert math.isnan(watch.first_step_s)
    for _ in range(2):
        clock.sleep(3)
        watch.mark_first_step()
    assert watch.first_step_s == 3


def test_a_paused_stopwatch_does_not_advance() -> None:
    clock = Clock()
    watch = Stopwatch(clock)
    for seconds in (1, 2):
        with watch.part("train_s"):
            clock.sleep(seconds)
        watch.pause()
        clock.sleep(40)
        told = watch.now()
        clock.sleep(2)
        assert watch.now() == told
        watch.resume()
    clock.sleep(5)
    watch.mark_first_step()
    assert watch.first_step_s == 8
    assert watch.timing() == Timing(compile_s=0, data_s=0, train_s=3, eval_s=0, total_s=8)


def test_the_real_clock_runs() -> None:
    watch = Stopwatch()
    with watch.part("eval_s"):
        sum(range(1000))
    assert 0 < watch.last("eval_s") <= watch.timing().total_s
