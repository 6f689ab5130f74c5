"""Validation and test images that come to different findings are told, and only those."""

import dataclasses

import pytest

from cnnbench.compare.comparison import compare
from cnnbench.compare.verdict import Criteria, Finding
from cnnbench.runs.records import RunResult
from tests.support.samples import make_run

SEEDS = tuple(range(8))


def run(name: str, *, validated: float, tested: float) -> RunResult:
    """A run of which each seed reaches about so much on either images."""
    made = make_run(name, name, seeds=SEEDS, start=validated, run_id=name)
    assert made.summary is not None
    seeds = tuple(
        dataclasses.replace(s, test={**s.test, "accuracy": tested + s.seed % 3 / 1000})
        for s in made.summary.seeds
    )
    return dataclasses.replace(made, summary=dataclasses.replace(made.summary, seeds=seeds))


@pytest.mark.parametrize("metric", ["accuracy", "test_accuracy"])
def test_what_only_some_images_show_is_told(metric: str) -> None:
    runs = [run("one", validated=0.91, tested=0.9), run("two", validated=0.92, tested=0.9)]
    found = compare(runs, Criteria(metric=metric))
    better = "two is better than one: accuracy +1.00 points (95 % interval +1.00 to +1.00)"
    none = "No difference detected between two and one: test accuracy +0.00 points"
    (remark,) = found.remarks
    if metric == "accuracy":
        assert found.verdicts[0].finding is Finding.BETTER
        assert remark.startswith(f"By the test images: {none}")
    else:
        assert found.verdicts[0].finding is Finding.NONE
        assert remark.startswith(f"By the validation images: {better}")
    assert "over seeds, not over images (10,000 validate, 10,000 test)" in remark
    assert "an epoch takes" not in remark


def test_images_that_agree_are_not_spoken_of() -> None:
    both = [run("one", validated=0.91, tested=0.9), run("two", validated=0.92, tested=0.91)]
    assert compare(both).remarks == ()
    same = [run("one", validated=0.91, tested=0.9), run("two", validated=0.91, tested=0.9)]
    assert compare(same).remarks == ()


def test_opposite_findings_are_told() -> None:
    runs = [run("one", validated=0.91, tested=0.9), run("two", validated=0.92, tested=0.89)]
    (remark,) = compare(runs).remarks
    assert remark.startswith("By the test images: two is worse than one: test accuracy -1.00")


def test_too_few_seeds_to_find_anything_contradict_nothing() -> None:
    runs = [run("one", validated=0.91, tested=0.9), run("two", validated=0.92, tested=0.9)]
    few = [dataclasses.replace(r, record=dataclasses.replace(r.record, seeds=(0,))) for r in runs]
    assert compare(few).remarks == ()
