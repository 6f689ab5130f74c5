"""Verdicts on runs that stopped at looks, compared with others or at several values."""

import dataclasses
from pathlib import Path

import pytest

from cnnbench.comparisons.comparison import compare
from cnnbench.comparisons.merge import all_seeds, finished_runs_of
from cnnbench.comparisons.over.points import compare_over
from cnnbench.comparisons.stopping import reason_to_stop
from cnnbench.comparisons.verdict import Criteria, Finding, Verdict
from cnnbench.runs.folder import read_run
from cnnbench.runs.records import TRIAL, RunResult
from cnnbench.statistics.estimates import mean_interval
from cnnbench.statistics.looks import Looks, Reason
from cnnbench.statistics.sequential import thresholds
from tests.support.samples import make_run, save, with_record

NUMBERS = (5, 8, 13, 20)
RULE = Looks(
    NUMBERS,
    thresholds(NUMBERS, 0.05, paired=False),
    0.05,
    "unpaired",
    1,
    "",
    "0",
    tuple(range(20)),
    (0.008,),
    Reason.DECIDED,
)


def stopped(name: str, start: float, rule: Looks | None = RULE, *, seeds: int = 5) -> RunResult:
    """A run that stopped at the first look, or one with a fixed number of seeds."""
    run = make_run(name, name.upper(), seeds=tuple(range(seeds)), start=start, run_id=name)
    return with_record(run, looks=rule)


def consistent(verdict: Verdict) -> bool:
    """A difference is found if and only if the interval excludes zero."""
    assert verdict.interval is not None
    return verdict.finding.differs == (verdict.interval.low * verdict.interval.high > 0)


def test_runs_that_were_stopped_apart_share_alpha_when_they_are_compared_together() -> None:
    together = compare([stopped("a", 0.91), stopped("b", 0.93), stopped("c", 0.89)]).verdicts
    (alone,) = compare([stopped("a", 0.91), stopped("b", 0.93)]).verdicts
    assert alone.stopped is not None
    assert alone.stopped.threshold == pytest.approx(RULE.thresholds[0])
    for verdict in together:
        assert verdict.stopped is not None
        assert verdict.stopped.comparisons == 2
        half = thresholds(NUMBERS, 0.05, paired=False, comparisons=2)
        assert verdict.stopped.threshold == pytest.approx(half[0])
        assert consistent(verdict)


def test_a_fixed_run_shares_alpha_with_those_that_were_stopped() -> None:
    runs = [stopped("a", 0.91, None), stopped("b", 0.93, None), stopped("c", 0.93)]
    fixed, _ = compare(runs).verdicts
    assert fixed.stopped is None
    assert (fixed.alpha, fixed.level) == (0.025, 0.975)


def test_a_look_that_cannot_decide_has_a_t_interval_and_no_p() -> None:
    # Alpha is shared by 20 comparisons: five seeds of each cannot reach it at the first look.
    rule = dataclasses.replace(RULE, comparisons=20, thresholds=(0.0, 0.001, 0.001, 0.001))
    (verdict,) = compare([stopped("a", 0.91, rule), stopped("b", 0.95, rule)]).verdicts
    assert (verdict.finding, verdict.p) == (Finding.FEW, None)
    assert verdict.fewest == 8


def test_a_test_that_is_valid_after_any_number_of_seeds_has_no_p_with_too_few() -> None:
    runs = [stopped(name, start, None, seeds=5) for name, start in (("a", 0.91), ("b", 0.93))]
    (verdict,) = compare(runs, Criteria(anytime=True)).verdicts
    assert (verdict.finding, verdict.p, verdict.needed) == (Finding.FEW, None, 6)
    assert verdict.interval == mean_interval(verdict.differences, 0.95)
    rule = dataclasses.replace(RULE, numbers=(), thresholds=(), min_effect="1")
    small = dataclasses.replace(verdict, min_effect=1.0)
    assert reason_to_stop(small, rule, 5) is None  # a t interval ends no training


def test_seeds_that_chose_the_best_trial_count_for_no_verdict(tmp_path: Path) -> None:
    def saved(seeds: range, *tags: str) -> RunResult:
        run = make_run(seeds=seeds, run_id=f"20251123T06301{seeds[0] % 9}Z-a1b2")
        return read_run(save(with_record(run, tags=tags), tmp_path))

    earlier, _, newest = saved(range(3)), saved(range(1000, 1002), TRIAL), saved(range(3, 6))
    assert finished_runs_of("standard", tmp_path) == [earlier, newest]
    (found,) = all_seeds([newest], tmp_path)
    assert found.record.seeds == tuple(range(6))


def test_values_of_a_key_share_alpha_with_looks() -> None:
    groups = [[stopped("a", 0.91), stopped("b", 0.93)] for _ in range(3)]
    over = compare_over("train.epochs", ("1", "2", "3"), groups, Criteria())
    level = thresholds(NUMBERS, 0.05 / 3, paired=False)[0]
    for row in over.rows:
        assert row.verdict.stopped is not None
        assert row.verdict.stopped.threshold == pytest.approx(level)
        assert row.verdict.alpha == pytest.approx(0.05 / 3)
        assert consistent(row.verdict)


@pytest.mark.parametrize(
    ("better", "said"),
    [
        (0.93, "on the test images, the findings are the same at every epochs."),
        (0.9101, "on the test images, other findings: at 1, better; at 2, better."),
    ],
)
def test_the_other_images_are_judged_in_one_family_too(better: float, said: str) -> None:
    def other(run: RunResult) -> RunResult:
        """The run with a higher accuracy on the test images."""
        assert run.summary is not None
        seeds = tuple(
            dataclasses.replace(s, test={**s.test, "accuracy": s.test["accuracy"] + 0.01})
            for s in run.summary.seeds
        )
        return dataclasses.replace(run, summary=dataclasses.replace(run.summary, seeds=seeds))

    group = [
        stopped("a", 0.91, None, seeds=6),
        other(stopped("b", better, None, seeds=6)),
    ]
    over = compare_over("train.epochs", ("1", "2"), [group, group], Criteria())
    assert over.grounds == f"Judged on the validation images; {said}"
    assert not any("Judged" in text for each in over.comparisons for text in each.remarks)
