"""Networks over several datasets: average ranks, tests of them, and mean differences."""

from collections.abc import Sequence
from dataclasses import dataclass

from cnnbench.comparisons.verdict import Arm
from cnnbench.statistics.estimates import mean
from cnnbench.statistics.meta import MeanEffect, Pooled, pool
from cnnbench.statistics.multiple_tests import holm
from cnnbench.statistics.ranks import (
    average_ranks,
    cliques,
    conover_p,
    critical_difference,
    friedman,
    ranks_of,
)

FEWEST = 3  # networks with a Friedman test


@dataclass(frozen=True, slots=True)
class DatasetRow:
    """One network over all datasets.

    Args:
      label: its label.
      rank: average rank of its mean over seeds; 1 is the best.
      pooled: mean difference from the baseline; None for the baseline.
      p: Conover's test of the ranks against the baseline, Holm-adjusted and at least the p-value of
        Friedman's test; None for the baseline, and with fewer than three networks.
    """

    label: str
    rank: float
    pooled: Pooled | None
    p: float | None


@dataclass(frozen=True, slots=True)
class DatasetSummary:
    """Networks over several datasets.

    Args:
      datasets: number of datasets.
      rows: the networks, in the order of the runs.
      friedman: statistic and p-value of Friedman's test; None with fewer than three networks.
      critical: Nemenyi's critical difference of average ranks; None with fewer than three networks.
      groups: labels of networks that it does not tell apart, best first.
      alpha: significance level.
    """

    datasets: int
    rows: tuple[DatasetRow, ...]
    friedman: tuple[float, float] | None
    critical: float | None
    groups: tuple[tuple[str, ...], ...]
    alpha: float


def summarize(
    groups: Sequence[Sequence[Arm]],
    base: int,
    effects: Sequence[Sequence[MeanEffect | None]],
    alpha: float,
    *,
    higher: bool,
) -> DatasetSummary:
    """Ranks and mean differences over datasets.

    Args:
      groups: the networks on each dataset, in the same order.
      base: place of the baseline.
      effects: for each other network, its difference from the baseline on each dataset.
      alpha: significance level.
      higher: True if higher values are better.
    """
    scores = [[mean(list(arm.values.values())) for arm in arms] for arms in groups]
    ranks = ranks_of(scores, higher=higher)
    average = average_ranks(ranks)
    labels = [arm.names[0] for arm in groups[0]]
    others = [place for place in range(len(labels)) if place != base]
    tested = len(labels) >= FEWEST
    global_test = friedman(ranks) if tested else None
    # No pair is more significant than all networks together.
    p_values = (
        [max(p, global_test[1]) for p in holm([conover_p(ranks, base, place) for place in others])]
        if global_test
        else []
    )
    pooled = [pool([e for e in own if e], 1 - alpha) for own in effects]
    known = dict(zip(others, pooled, strict=True))
    adjusted = dict(zip(others, p_values, strict=False))
    critical = critical_difference(len(labels), len(groups), alpha) if tested else None
    found = cliques(average, critical) if critical else []
    return DatasetSummary(
        datasets=len(groups),
        rows=tuple(
            DatasetRow(label, average[i], known.get(i), adjusted.get(i))
            for i, label in enumerate(labels)
        ),
        friedman=global_test,
        critical=critical,
        groups=tuple(tuple(labels[i] for i in group) for group in found),
        alpha=alpha,
    )
