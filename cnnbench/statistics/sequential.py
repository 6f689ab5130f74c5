"""Sequential tests: planned looks at the results, and tests that are valid after every seed.

Testing after every seed and stopping at the first p below alpha finds differences that do not exist
far more often than alpha. Both methods here keep alpha, whenever and why ever training stops:

- Planned looks (group sequential tests): a verdict only after fixed numbers of seeds, each at a
  smaller level, so that the levels together use up alpha.
- An e-process: a nonnegative supermartingale if there is no difference, which exceeds 1 / alpha
  with probability alpha at most, even if it is looked at after every seed, without end.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from cnnbench.statistics.estimates import Interval
from cnnbench.statistics.permutation import smallest_p

if TYPE_CHECKING:
    from numpy.typing import NDArray

PAIRED_LOOKS, UNPAIRED_LOOKS = (6, 10, 20), (5, 8, 13, 20)
MAX_SEEDS = 20
MOST_SPENT = 2 / 3  # of alpha, at the first look
_SAMPLES = 200_000
_SIGN, _SIZES = 0.65, (0.5, 1.0, 2.0)  # of the e-process: weight of the signs, and bets on sizes


def smallest(num_seeds: int, *, paired: bool) -> float:
    """Smallest p-value of the two-sided exact test of two runs.

    Args:
      num_seeds: number of seeds of each.
      paired: True for the sign-flip test, False for the permutation test of all values.

    >>> smallest(6, paired=True), round(smallest(4, paired=False), 4)
    (0.03125, 0.0286)
    """
    return smallest_p(num_seeds) if paired else min(1.0, 2 / math.comb(2 * num_seeds, num_seeds))


def fewest_for(alpha: float, *, paired: bool) -> int:
    """Fewest seeds at the first of several looks that can decide, see `thresholds`.

    >>> fewest_for(0.05, paired=True), fewest_for(0.05, paired=False)
    (6, 4)
    """
    return next(n for n in range(2, 99) if smallest(n, paired=paired) <= MOST_SPENT * alpha)


def default_looks(
    alpha: float, *, paired: bool, most: int = MAX_SEEDS, comparisons: int = 1
) -> tuple[int, ...]:
    """Numbers of seeds at which to look, up to `most`.

    Chosen by simulation, as a compromise: fewer looks detect small differences a little more
    often, more and earlier ones save seeds if differences are large.

    Args:
      alpha: probability of a false alarm at any look.
      paired: as for `smallest`.
      most: largest number of seeds; the last look.
      comparisons: number of comparisons that share alpha.

    >>> default_looks(0.05, paired=False), default_looks(0.05, paired=True, most=12)
    ((5, 8, 13, 20), (6, 10, 12))
    >>> default_looks(0.01, paired=True)
    (9, 10, 20)
    """
    least = fewest_for(alpha / comparisons, paired=paired)
    usual = PAIRED_LOOKS if paired else UNPAIRED_LOOKS
    return (*sorted({max(look, least) for look in usual if max(look, least) < most}), most)


@lru_cache(maxsize=64)
def thresholds(
    looks: tuple[int, ...], alpha: float, *, paired: bool, comparisons: int = 1
) -> tuple[float, ...]:
    """The p-value that decides at each look, so that all looks together keep alpha.

    The thresholds are equal (Pocock's boundary). An exact test of few seeds may not reach that
    level at the first look; then the threshold there is the smallest p-value that the test can
    reach, provided that it leaves a third of alpha to the later looks. Several comparisons share
    alpha equally (Bonferroni).

    Each p-value is exact by itself, but the joint distribution of p-values at several looks
    depends on that of the values. It is simulated once for normal values, 200,000 times with a
    fixed seed; the probability of a false alarm is alpha minus two standard errors of the
    simulation. For other values it differs a little, and is smaller for discrete ones: see the
    tables of docs/explanation/statistics.md.

    Args:
      looks: numbers of seeds of each run, increasing.
      alpha: probability that any comparison finds a difference at any look if there is none.
      paired: as for `smallest`.
      comparisons: number of comparisons with one baseline.

    Returns:
      A threshold for each look; 0 if no result can decide there.

    References:
      Pocock, "Group sequential methods in the design and analysis of clinical trials",
      Biometrika 64, 1977; Jennison and Turnbull, "Group Sequential Methods with Applications to
      Clinical Trials", 2000.

    >>> [round(p, 4) for p in thresholds((6, 10, 20), 0.05, paired=True)]
    [0.0312, 0.0142, 0.0142]
    >>> [round(p, 4) for p in thresholds((5, 8, 13, 20), 0.05, paired=False)]
    [0.0167, 0.0167, 0.0167, 0.0167]
    """
    import numpy as np

    share = alpha / comparisons
    least = [smallest(look, paired=paired) for look in looks]
    first = next((k for k, p in enumerate(least) if p <= MOST_SPENT * share), len(looks))
    able = len(looks) - first
    if able < 2:
        return (*[0.0] * first, *[share] * able)
    at_first, *others = _null_p_values(looks, paired=paired)[first:]
    later = np.min(others, axis=0)
    number = int((share - 2 * math.sqrt(share * (1 - share) / _SAMPLES)) * _SAMPLES)
    level = _quantile(np.minimum(at_first, later), number)
    if level < least[first]:
        rest = later[at_first > least[first]]
        level = _quantile(rest, number - (_SAMPLES - len(rest)))
    return (*[0.0] * first, max(level, least[first]), *[level] * (able - 1))


def _quantile(p_values: "NDArray[Any]", number: int) -> float:
    """The value below which there are `number` of the p-values, cut to three digits."""
    import numpy as np

    value = float(np.partition(p_values, number)[number])
    unit = 10.0 ** (math.floor(math.log10(value)) - 2)
    return float(f"{math.floor(value / unit) * unit:.3g}")


@lru_cache(maxsize=8)
def _null_p_values(looks: tuple[int, ...], *, paired: bool) -> "NDArray[Any]":
    """Two-sided p-values of Student's test at each look, (looks, samples), of equal runs.

    Means and sums of squares of the seeds between two looks are drawn, instead of each value.
    """
    import numpy as np
    from scipy.special import stdtr

    rng, arms = np.random.default_rng(0), 1 if paired else 2
    means, squares = np.zeros((2, arms, _SAMPLES))
    found = []
    for before, look in pairwise((0, *looks)):
        more = look - before
        shift = rng.normal(scale=1 / math.sqrt(more), size=means.shape) - means
        within = rng.chisquare(more - 1, means.shape) if more > 1 else 0.0
        squares += within + shift**2 * (before * more / look)
        means += shift * (more / look)
        freedom = arms * (look - 1)
        error = np.sqrt(squares.sum(axis=0) / freedom * arms / look)
        difference = means[0] - (means[1] if arms > 1 else 0.0)
        found.append(2 * stdtr(freedom, -np.abs(difference) / error))
    return np.array(found)


def e_values(differences: Sequence[float], center: float = 0.0) -> tuple[float, ...]:
    """Evidence against "the differences are symmetric about `center`", after each of them.

    A bet on the sign of every difference, whose size may be seen first: a coin decides whether
    each factor below is paid out, so that the product is a martingale under the null hypothesis.
    By Ville's inequality, the probability that it ever reaches 1 / alpha is at most alpha. With
    signs `s_i` and sizes `z_i = |d_i| / median(|d_1|, ..., |d_i|)`,

        E_n = 1/2 sum_(side = +-1) [0.65 prod_i 2 [s_i = side]
              + 0.35 mean_(c in 1/2, 1, 2) prod_i exp(side s_i c z_i) / cosh(c z_i)]

    Six differences of one sign decide at alpha 0.05, as in the sign-flip test.

    Args:
      differences: one per pair, in the order in which they became known; finite.
      center: the difference under the null hypothesis.

    References:
      Ville, "Etude critique de la notion de collectif", 1939; Ramdas et al., "Game-theoretic
      statistics and safe anytime-valid inference", Statistical Science 38, 2023.

    >>> [round(e, 2) for e in e_values([0.2, 0.1, 0.3, 0.1, 0.2, 0.4])]
    [1.0, 1.82, 3.53, 6.74, 13.19, 26.26]
    """
    import numpy as np

    return tuple(map(float, _e_values(np.asarray(differences, float), np.array([center]))[:, 0]))


def one_sided_e_values(differences: Sequence[float]) -> tuple[float, ...]:
    """Evidence against "a difference is positive no more often than negative", after each.

    The part of `e_values` that bets on positive differences: a supermartingale if, given its size,
    no difference is positive with a probability above one half.

    Args:
      differences: one per pair, in the order in which they became known; finite.

    >>> [round(e, 2) for e in one_sided_e_values([0.2, 0.1, 0.3, 0.1, 0.2, 0.4])]
    [1.91, 3.58, 7.04, 13.47, 26.38, 52.53]
    """
    import numpy as np

    values = np.asarray(differences, float)
    return tuple(map(float, _e_values(values, np.zeros(1), sides=(1,))[:, 0]))


def _e_values(
    differences: "NDArray[Any]", centers: "NDArray[Any]", sides: tuple[int, ...] = (1, -1)
) -> "NDArray[Any]":
    """E-values after each difference for several centers, (differences, centers)."""
    import numpy as np

    values = differences[:, None] - centers
    signs, sizes = np.sign(values), np.abs(values)
    scales = np.array([np.median(sizes[: n + 1], axis=0) for n in range(len(sizes))])
    scaled = np.divide(sizes, scales, out=np.zeros_like(sizes), where=scales > 0)
    total: NDArray[Any] = np.zeros_like(sizes)
    for side in sides:
        # A difference of exactly zero is no evidence: its factor is 1.
        coins = np.where(signs == 0, 1.0, np.where(signs == side, 2.0, 0.0))
        total += _SIGN / len(sides) * np.cumprod(coins, axis=0)
        for bet in _SIZES:
            # exp(x) / cosh(x) = 2 / (1 + exp(-2 x))
            gains = math.log(2) - np.logaddexp(0, -2 * side * bet * signs * scaled)
            total += (1 - _SIGN) / len(_SIZES) / len(sides) * np.exp(np.cumsum(gains, axis=0))
    return total


def confidence_sequence(differences: Sequence[float], alpha: float) -> Interval:
    """Interval of the center of the differences, valid after every seed at the same time.

    It contains the centers that no e-value has rejected so far; the probability that it ever
    excludes the true one is at most alpha. It never widens as seeds are added.

    Args:
      differences: as for `e_values`; at least one.
      alpha: 1 minus the confidence level.

    Returns:
      The interval; infinite as long as no center can be rejected.

    >>> confidence_sequence([0.2, 0.1, 0.3, 0.1, 0.2], 0.05)
    Interval(low=-inf, high=inf)
    >>> interval = confidence_sequence([0.2, 0.1, 0.3, 0.1, 0.2, 0.4], 0.05)
    >>> round(interval.low, 3), round(interval.high, 3)
    (0.1, 0.4)
    """
    import numpy as np

    values = np.asarray(differences, float)
    low, high = values.min(), values.max()
    wide = max(high - low, abs(high), abs(low), 1e-300)
    outside = _rejected(values, np.array([low - wide, high + wide]), alpha)
    return Interval(
        _end(values, low - wide, high + wide, alpha) if outside[0] else -math.inf,
        _end(values, high + wide, low - wide, alpha) if outside[1] else math.inf,
    )


def _rejected(values: "NDArray[Any]", centers: "NDArray[Any]", alpha: float) -> "NDArray[Any]":
    import numpy as np

    return np.asarray((_e_values(values, centers) >= 1 / alpha).any(axis=0))


def _end(values: "NDArray[Any]", outer: float, inner: float, alpha: float) -> float:
    """The last of the rejected centers between one outside the interval and one beyond it."""
    import numpy as np

    for _ in range(6):  # each step narrows the range to a hundredth
        centers = np.linspace(outer, inner, 101)
        accepted = np.flatnonzero(~_rejected(values, centers, alpha))
        if not len(accepted):
            break
        place = max(1, int(accepted[0]))
        outer, inner = centers[place - 1], centers[place]
    return float(outer)


def race_threshold(arms: int, alpha: float) -> float:
    """The evidence that drops an arm.

    The best of k arms is dropped only if the evidence of one of the k - 1 others against it reaches
    the threshold after any seed. By Ville's inequality and Bonferroni's, with the threshold
    (k - 1) / alpha this happens with probability alpha at most, after any number of seeds, whoever
    leads.

    Args:
      arms: number of arms at the start, at least 2.
      alpha: probability that the best arm is dropped.

    >>> race_threshold(12, 0.05)
    220.0
    """
    return (arms - 1) / alpha


def fewest_seeds(arms: int, alpha: float) -> int:
    """Number of seeds after which an arm can be dropped at the earliest.

    >>> fewest_seeds(2, 0.05), fewest_seeds(12, 0.05)
    (5, 9)
    """
    number = 1
    while one_sided_e_values([1.0] * number)[-1] < race_threshold(arms, alpha):
        number += 1
    return number


def losers(
    scores: Sequence[Sequence[float]], arms: int, alpha: float, *, higher: bool = True
) -> tuple[int, ...]:
    """The arms that are decided worse than the leader.

    The leader is the arm with the best mean. An arm loses if the differences of equal seeds, from
    the first to any seed so far, are evidence above `race_threshold`, or if a seed diverged while
    the leader did not.

    Args:
      scores: for each arm that is still in the race, a value per seed; equally many. NaN for a
        seed that diverged.
      arms: number of arms at the start.
      alpha: probability that the best arm is dropped.
      higher: True if higher values are better.

    Returns:
      Their places in `scores`.

    References:
      Maron and Moore, "Hoeffding races", NIPS 1993; Ville, "Etude critique de la notion de
      collectif", 1939.

    >>> fast, slow = [0.9, 0.92, 0.91, 0.9, 0.93], [0.8, 0.81, 0.83, 0.8, 0.8]
    >>> losers([slow, fast], 2, 0.05), losers([slow[:4], fast[:4]], 2, 0.05)
    ((0,), ())
    """
    sign = 1 if higher else -1
    means = [math.fsum(own) / len(own) for own in scores]
    finite = [place for place, mean in enumerate(means) if math.isfinite(mean)]
    if not finite:
        return ()
    leader = max(finite, key=lambda place: sign * means[place])
    least = race_threshold(arms, alpha)
    return tuple(
        place
        for place, own in enumerate(scores)
        if place != leader
        and (place not in finite or max(_evidence(scores[leader], own, sign)) >= least)
    )


def _evidence(leader: Sequence[float], own: Sequence[float], sign: int) -> tuple[float, ...]:
    return one_sided_e_values([sign * (a - b) for a, b in zip(leader, own, strict=True)])
