"""Comparisons at several values of a key, for tests of what is printed."""

import dataclasses
from functools import cache

from cnnbench.comparisons.over.points import OverComparison, compare_over
from cnnbench.comparisons.verdict import Criteria
from cnnbench.runs.records import RunResult
from tests.support.samples import MNIST, make_run, with_record

SEEDS = tuple(range(6))


def run_at(run: str, title: str, value: str, start: float, **data: object) -> RunResult:
    """A run of six seeds at a value."""
    found = make_run(run, title, seeds=SEEDS, start=start, run_id=f"{run}-{value}")
    return with_record(found, dataset=dataclasses.replace(MNIST, **data))  # type: ignore[arg-type]


@cache
def over_examples() -> OverComparison:
    """Two networks on 1,000, 2,000 and 40,000 images: worse, equal and better."""
    groups = [
        [
            run_at(name, title, value, start, num_train=int(value))
            for name, title, start in (
                ("standard", "Standard CNN", 0.91),
                ("modified", "Modified CNN", other),
            )
        ]
        for value, other in (("1000", 0.90), ("2000", 0.9101), ("40000", 0.93))
    ]
    return compare_over("dataset.train_examples", ("1000", "2000", "40000"), groups, Criteria())


@cache
def over_datasets() -> OverComparison:
    """Three networks on three datasets."""
    starts = {"mnist": (0.91, 0.92, 0.93), "svhn": (0.8, 0.83, 0.81), "cifar10": (0.6, 0.62, 0.63)}
    groups = [
        [
            run_at(own, own.title(), value, start, name=value, digest=f"sha256:{value}")
            for own, start in zip(("small", "wide", "deep_5%"), row, strict=True)
        ]
        for value, row in starts.items()
    ]
    return compare_over("dataset.name", tuple(starts), groups, Criteria())
