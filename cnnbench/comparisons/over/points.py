"""Verdicts at several values of a key, in one family of tests, and what they say together."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from cnnbench.comparisons.comparability import TEST
from cnnbench.comparisons.comparison import Comparison, compare_points
from cnnbench.comparisons.over.datasets import DatasetSummary, summarize
from cnnbench.comparisons.verdict import Arm, Criteria, Finding, Verdict, find_baseline
from cnnbench.formatting import clean, enumeration, is_number, numbered
from cnnbench.runs.over import DATASET, short_key
from cnnbench.runs.records import Direction, RunResult
from cnnbench.statistics.estimates import Estimate, estimate
from cnnbench.statistics.improvement import Improvement
from cnnbench.statistics.meta import MeanEffect, equal_effects_p, paired_effect, unpaired_effect


@dataclass(frozen=True, slots=True)
class PointRow:
    """One experiment at one value of the key, compared with the baseline there.

    Args:
      value: the value, as an override.
      base: the metric of the baseline, over seeds.
      run: the metric of the experiment.
      verdict: the verdict, adjusted for all values and experiments.
    """

    value: str
    base: Estimate
    run: Estimate
    verdict: Verdict

    @property
    def improvement(self) -> Improvement | None:
        """Probability of improvement; None if a seed diverged."""
        return self.verdict.improvement


@dataclass(frozen=True, slots=True)
class OverComparison:
    """Comparisons of the same experiments at several values of a key.

    Args:
      key: dotted path of the key.
      values: the values, numbers in ascending order.
      direction: whether higher or lower values of the metric are better.
      comparisons: one for each value.
      rows: one for each value and experiment but the baseline.
      sentences: what the verdicts say together, one for each experiment but the baseline.
      changes: p-value of the test that the difference is the same at all values, for each of them;
        None if there is nothing to test.
      grounds: the images that the verdicts rest on, and whether the others agree; empty if there
        are no others.
      datasets: ranks and means over datasets, if the key is the dataset; otherwise None.
    """

    key: str
    values: tuple[str, ...]
    direction: Direction
    comparisons: tuple[Comparison, ...]
    rows: tuple[PointRow, ...]
    sentences: tuple[str, ...]
    changes: tuple[float | None, ...]
    grounds: str
    datasets: DatasetSummary | None

    @property
    def short(self) -> str:
        """The end of the key."""
        return short_key(self.key)

    @property
    def labels(self) -> tuple[str, ...]:
        """The experiments but the baseline."""
        return tuple(dict.fromkeys(row.verdict.label for row in self.rows))

    @property
    def metric(self) -> str:
        """The metric of the verdicts."""
        return self.rows[0].verdict.metric

    def rows_of(self, label: str) -> tuple[PointRow, ...]:
        """The rows of one experiment."""
        return tuple(row for row in self.rows if row.verdict.label == label)


def compare_over(
    key: str,
    values: Sequence[str],
    groups: Sequence[Sequence[RunResult]],
    criteria: Criteria,
) -> OverComparison:
    """Compare experiments at several values of a key.

    Args:
      key: dotted path of the key.
      values: at least two.
      groups: for each value, the runs of the experiments, in the same order everywhere.
      criteria: settings of the comparisons.

    Raises:
      IncomparableError: the runs at one value are not comparable.
      UsageError: a run does not have the metric, or no run matches the baseline.
    """
    points = compare_points(groups, criteria)
    comparisons = tuple(point.comparison for point in points)
    higher = comparisons[0].direction is Direction.HIGHER
    every = [point.arms for point in points]
    names = _names(every, groups[0])
    rows = tuple(
        row
        for value, point in zip(values, points, strict=True)
        for row in _rows(value, point.comparison, point.arms, criteria, names)
    )
    places = _others(every[0], criteria)
    base = find_baseline(every[0], criteria.baseline)
    every = [_named(arms, names) for arms in every]
    paired = criteria.test == "paired"
    effects = [[_effect(arms[base], arms[i], paired=paired) for arms in every] for i in places]
    labels = dict.fromkeys(row.verdict.label for row in rows)
    of_label = {label: [r.verdict for r in rows if r.verdict.label == label] for label in labels}
    datasets = key == DATASET and all(effect for own in effects for effect in own)
    return OverComparison(
        key=key,
        values=tuple(values),
        direction=comparisons[0].direction,
        comparisons=comparisons,
        rows=rows,
        sentences=tuple(over_sentence(short_key(key), values, v) for v in of_label.values()),
        changes=tuple(map(_change, effects)),
        grounds=grounds_over(short_key(key), values, [(p.comparison, p.others) for p in points]),
        datasets=summarize(every, base, effects, criteria.alpha, higher=higher)
        if datasets
        else None,
    )


def _others(arms: Sequence[Arm], criteria: Criteria) -> list[int]:
    base = find_baseline(arms, criteria.baseline)
    return [place for place in range(len(arms)) if place != base]


def _names(every: Sequence[Sequence[Arm]], runs: Sequence[RunResult]) -> list[str]:
    """What the experiments are called at all values: their labels, or titles if those differ."""
    labels = [{arm.names[0] for arm in column} for column in zip(*every, strict=True)]
    if all(len(own) == 1 for own in labels):
        return [arm.names[0] for arm in every[0]]
    return numbered([run.record.title for run in runs])


def _named(arms: Sequence[Arm], names: Sequence[str]) -> tuple[Arm, ...]:
    return tuple(
        arm._replace(names=(name, *arm.names[1:])) for arm, name in zip(arms, names, strict=True)
    )


def _rows(
    value: str,
    comparison: Comparison,
    arms: Sequence[Arm],
    criteria: Criteria,
    names: Sequence[str],
) -> Iterator[PointRow]:
    first = find_baseline(arms, criteria.baseline)
    places = _others(arms, criteria)
    for place, verdict in zip(places, comparison.verdicts, strict=True):
        own = [estimate(arms[at].values.values()) for at in (first, place)]
        named = replace(verdict, label=names[place], baseline=names[first])
        yield PointRow(value, own[0], own[1], named)


def _effect(base: Arm, arm: Arm, *, paired: bool) -> MeanEffect | None:
    """The difference with its variance; None if seeds are too few, dependent or diverged."""
    values = [list(each.values.values()) for each in (base, arm)]
    common = [seed for seed in base.values if seed in arm.values]
    few = len(common) < 2 if paired else min(map(len, values)) < 2
    if few or base.overlap or not all(map(math.isfinite, (v for own in values for v in own))):
        return None
    if paired:
        return paired_effect([arm.values[seed] - base.values[seed] for seed in common])
    return unpaired_effect(*values)


def _change(effects: Sequence[MeanEffect | None]) -> float | None:
    known = [effect for effect in effects if effect is not None and effect.variance > 0]
    return equal_effects_p(known) if len(known) == len(effects) > 1 else None


_CLAIMS: Mapping[Finding, str] = {
    Finding.BETTER: "better",
    Finding.WORSE: "worse",
    Finding.NOISE: "within the noise threshold",
    Finding.NONE: "no difference detected",
    Finding.FEW: "too few seeds",
    Finding.DIVERGED: "training diverged",
}


def over_sentence(key: str, values: Sequence[str], verdicts: Sequence[Verdict]) -> str:
    """What the verdicts on one experiment say together.

    Args:
      key: the key, for the text.
      values: its values.
      verdicts: the verdict at each.
    """
    label, base = clean(verdicts[0].label), clean(verdicts[0].baseline)
    places: dict[Finding, list[int]] = {}
    for place, verdict in enumerate(verdicts):
        places.setdefault(verdict.finding, []).append(place)
    decided = [finding for finding in Finding if finding.differs and finding in places]
    rest = [finding for finding in _CLAIMS if finding in places and finding not in decided]
    where = [_where(key, values, places[f], named=not n) for n, f in enumerate([*decided, *rest])]
    advice = dict.fromkeys(_CLAIMS, "")
    advice[Finding.FEW] = f": run both with --seeds {max(v.fewest for v in verdicts)}"
    open_ = [
        f"{place}, {_CLAIMS[finding]}{advice[finding]}"
        for place, finding in zip(where[len(decided) :], rest, strict=True)
    ]
    if not decided:
        first, *others = open_
        return f"{label} and {base}: {'; '.join([first, *others])}."
    claims = enumeration(
        [f"{_CLAIMS[finding]} {place}" for place, finding in zip(where, decided, strict=False)]
    )
    sign = "The sign changes: " if len(decided) > 1 else ""
    return "; ".join([f"{sign}{label} is {_than(claims, base)}", *open_]) + "."


def _than(claims: str, base: str) -> str:
    """Names the baseline after the first word, `better` or `worse`."""
    first, _, rest = claims.partition(" ")
    return f"{first} than {base} {rest}"


def _where(key: str, values: Sequence[str], places: Sequence[int], *, named: bool) -> str:
    """The values at some places, as a phrase.

    >>> [_where("epochs", ["1", "2", "5000"], p, named=True) for p in ([2], [1, 2], [0, 1, 2])]
    ['at epochs=5,000', 'from epochs=2 on', 'at every epochs (1, 2 and 5,000)']
    >>> _where("epochs", ["1", "2", "5000"], [0, 2], named=False)
    'at 1 and 5,000'
    """
    texts = [value_text(values[place]) for place in places]
    name = f"{key}=" if named else ""
    if len(places) == len(values):
        return f"at every {key} ({enumeration(texts)})"
    ordered = all(map(is_number, values))
    if ordered and len(places) > 1 and places[-1] - places[0] == len(places) - 1:
        if places[-1] == len(values) - 1:
            return f"from {name}{texts[0]} on"
        if places[0] == 0:
            return f"up to {name}{texts[-1]}"
    return f"at {name}{enumeration(texts)}"


def grounds_over(
    key: str,
    values: Sequence[str],
    points: Sequence[tuple[Comparison, Sequence[Verdict]]],
) -> str:
    """Which images the verdicts rest on, and where those on the other images differ.

    Args:
      key: the key, for the text.
      values: its values.
      points: for each value the comparison, and the verdicts on the other images.
    """
    if not all(others for _, others in points):
        return ""
    pairs = [
        (value, one, two)
        for value, (comparison, others) in zip(values, points, strict=True)
        for one, two in zip(comparison.verdicts, others, strict=True)
    ]
    on_test = pairs[0][1].metric.startswith(TEST)
    images, other = ("test", "validation") if on_test else ("validation", "test")
    several = len({one.label for _, one, _ in pairs}) > 1
    differ = [
        f"{f'{clean(two.label)} ' if several else ''}at {value_text(value)}, {_CLAIMS[two.finding]}"
        for value, one, two in pairs
        if one.finding is not two.finding
    ]
    judged = f"Judged on the {images} images; on the {other} images"
    if not differ:
        return f"{judged}, the findings are the same at every {key}."
    return f"{judged}, other findings: {'; '.join(differ)}."


def value_text(value: str) -> str:
    """A value for people.

    >>> value_text("4000"), value_text("0.01"), value_text("mnist")
    ('4,000', '0.01', 'mnist')
    """
    return f"{int(value):,}" if value.isdecimal() else value
