"""Several datasets, several values of a key, and the probability of improvement."""

from collections.abc import Sequence

import numpy as np
from scipy import stats

from benchmarks.calibration.means import unpaired
from benchmarks.calibration.tables import ALPHA, generator, rate, section, table
from cnnbench.statistics.improvement import improvement
from cnnbench.statistics.meta import hartung_knapp, paired_effect, pool
from cnnbench.statistics.multiple_tests import holm
from cnnbench.statistics.permutation import TIES
from cnnbench.statistics.sequential import default_looks, thresholds


@section("datasets")
def datasets(simulations: int) -> str:
    """Coverage of the mean over datasets: over these, over others, and by Hartung and Knapp."""
    rng, rows = generator("datasets"), []
    for number in (3, 5, 10):
        for tau, unequal in ((0.0, 0.0), (0.5, 1.0), (2.0, 0.5)):
            hits = [0, 0, 0]
            for _ in range(simulations):
                truth, spread = rng.normal(0, tau, number), np.exp(rng.normal(0, unequal, number))
                seeds = truth[:, None] + spread[:, None] * rng.normal(0, 1, (number, 6))
                effects = [paired_effect([float(v) for v in row]) for row in seeds]
                found = pool(effects)
                ends = (found.these, found.others, hartung_knapp(effects)[1])
                for place, (each, true) in enumerate(zip(ends, (truth.mean(), 0, 0), strict=True)):
                    hits[place] += each is not None and each.low <= true <= each.high
            world = f"{tau:g}, {'unequal' if unequal else 'equal'}"
            rows.append([str(number), world, *(rate(hit, simulations) for hit in hits)])
    head = ["Datasets", "Deviation between datasets, spread of the seeds", "These datasets"]
    return table([*head, "Datasets like these", "Hartung and Knapp"], rows)


@section("over")
def over(simulations: int) -> str:
    """False alarms of verdicts at several values of a key, adjusted and not."""
    rng, rows = generator("over"), []
    for values in (3, 5):
        raw = adjusted = 0
        for _ in range(simulations):
            p = [unpaired(*point).p for point in rng.normal(0, 1, (values, 2, 8))]
            raw += min(p) <= ALPHA
            adjusted += min(holm(p)) <= ALPHA
        rows.append([str(values), rate(adjusted, simulations), rate(raw, simulations)])
    return table(["Values", "Adjusted (`--over`)", "Not adjusted"], rows)


@section("improvement")
def improvements(simulations: int) -> str:
    """Coverage of the interval of the probability of improvement."""
    rng, rows = generator("improvement"), []
    for number in (4, 6, 10):
        cells = []
        for shift in (0.0, 1.0, 2.0):
            truth, hits = float(stats.norm.cdf(shift / 2**0.5)), 0
            for _ in range(simulations):
                base, other = rng.normal(0, 1, number), rng.normal(shift, 1, number)
                found = improvement([float(v) for v in base], [float(v) for v in other])
                ends = found.interval if found else None
                hits += ends is not None and ends.low <= truth <= ends.high
            cells.append(rate(hits, simulations))
        rows.append([str(number), *cells])
    return table(["Seeds of each", "P = 50%", "P = 76%", "P = 92%"], rows)


@section("several-looks")
def several_looks(simulations: int) -> str:
    """Planned looks at three runs against a baseline: each stops once it is decided."""
    rng, rows = generator("several-looks"), []
    numbers = default_looks(ALPHA, paired=False, comparisons=3)
    shared = thresholds(numbers, ALPHA, paired=False, comparisons=3)
    alone = thresholds(numbers, ALPHA, paired=False)
    for effects in ((0, 0, 0), (0, 0, 3)):
        counts = [0, 0]
        for _ in range(simulations):
            base, *others = rng.normal(0, 1, (4, numbers[-1]))
            equal = [other for other, effect in zip(others, effects, strict=True) if not effect]
            p_values = [[unpaired(base[:n], each[:n]).p for n in numbers] for each in equal]
            for place, levels in enumerate((shared, alone)):
                counts[place] += any(_decides(own, levels) for own in p_values)
        name = ", ".join(map(str, effects))
        rows.append([name, *(rate(count, simulations) for count in counts)])
    names = ", ".join(map(str, numbers))
    return table(["Differences / sd", f"Looks at {names}, alpha shared", "Alpha for each"], rows)


def _decides(p_values: Sequence[float], levels: Sequence[float]) -> bool:
    """True if a run is decided at any look."""
    return any(p <= level * (1 + TIES) for p, level in zip(p_values, levels, strict=True))
