"""McNemar's test and Tango's interval against SciPy, published values and other algebra."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize
from scipy import stats as oracle

from cnnbench.statistics.matched_pairs import compare_pairs, mcnemar_p, tango_interval

tables = st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(1, 300)).map(
    lambda t: (t[0] + t[1] + t[2], t[0], t[1])
)


@settings(max_examples=40)
@given(st.integers(0, 300), st.integers(0, 300))
def test_p_is_that_of_an_exact_binomial_test(one: int, other: int) -> None:
    total = one + other
    want = oracle.binomtest(one, total, 0.5).pvalue if total else 1.0
    assert mcnemar_p(one, other) == pytest.approx(want, rel=1e-9)
    assert mcnemar_p(one, other) == mcnemar_p(other, one)


@pytest.mark.parametrize(
    ("number", "one", "other", "low", "high"),
    [
        (21, 1, 7, -0.517, -0.026),  # Fagerland et al. 2014, table 5: Bentur et al. 2009
        (100, 0, 0, -0.0370, 0.0370),  # z^2 / (N + z^2)
    ],
)
def test_the_interval_has_published_values(
    number: int, one: int, other: int, low: float, high: float
) -> None:
    found = tango_interval(number, one, other)
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-4)


def quartic(number: int, one: int, other: int, level: float) -> tuple[float, float]:
    """The ends as roots of a polynomial (Yang, Sun and Hardin, Statistics in Medicine 32, 2013)."""
    g, d, s = oracle.chi2.ppf(level, 1), one - other, one + other
    n = number
    # The squared score equation, N^2 (c - x)^2 = g V(x), without the root of V.
    coefficients = [
        n**2 * (n / g + 1) ** 2,
        -n * d * (n / g + 1) * (4 * n / g + 1),
        2 * n * d**2 * (3 * n / g + 2) / g - n**2 * (s / g + 1),
        n * d * (2 * s / g + 1) - d**3 * (4 * n / g + 1) / g,
        d**2 * (d**2 / g - s) / g,
    ]
    roots = np.roots(coefficients)
    real = np.sort(roots.real[abs(roots.imag) < 1e-6])
    return float(real[0]), float(real[-1])


@settings(max_examples=40)
@given(tables, st.sampled_from([0.9, 0.95, 0.99]))
def test_the_ends_are_roots_of_a_quartic(table: tuple[int, int, int], level: float) -> None:
    number, one, other = table
    if not one and not other:
        return
    found = tango_interval(number, one, other, level)
    assert (found.low, found.high) == pytest.approx(quartic(number, one, other, level), abs=1e-5)


@settings(max_examples=40)
@given(tables)
def test_the_ends_have_a_score_of_the_quantile(table: tuple[int, int, int]) -> None:
    """The nuisance parameter by maximizing the likelihood of the table numerically."""
    number, one, other = table
    found = tango_interval(number, one, other)
    for end in (found.low, found.high):
        least, most = max(0.0, -end), (1 - end) / 2

        def loss(share: float, end: float = end) -> float:
            chances = np.maximum([share + end, share, 1 - 2 * share - end], 1e-300)
            return -float(np.log(chances) @ [one, other, number - one - other])

        share = optimize.minimize_scalar(
            loss, bounds=(least, most), method="bounded", options={"xatol": 1e-12}
        ).x
        std = np.sqrt(number * (2 * share + end * (1 - end)))
        assert abs(one - other - number * end) == pytest.approx(1.959964 * std, rel=2e-3)


@settings(max_examples=40)
@given(tables)
def test_the_interval_is_symmetric_and_within_bounds(table: tuple[int, int, int]) -> None:
    number, one, other = table
    found, mirrored = tango_interval(number, one, other), tango_interval(number, other, one)
    assert (found.low, found.high) == pytest.approx((-mirrored.high, -mirrored.low), abs=1e-9)
    assert -1 <= found.low <= (one - other) / number <= found.high <= 1


@settings(max_examples=60)
@given(tables, st.sampled_from([0.9, 0.95, 0.99]))
def test_the_interval_shown_has_zero_if_and_only_if_the_test_does_not_reject(
    table: tuple[int, int, int], level: float
) -> None:
    number, one, other = table
    found = compare_pairs(number, other, one, level)
    assert (found.p > 1 - level) == (found.interval.low <= 0 <= found.interval.high)
    score = tango_interval(number, one, other, level)
    assert found.interval.low in {score.low, 0.0}
    assert found.interval.high in {score.high, 0.0}


def test_the_exact_test_may_not_reject_what_the_score_test_does() -> None:
    found = compare_pairs(200, 8, 18)
    assert (
        found.p == pytest.approx(oracle.binomtest(8, 26).pvalue) == pytest.approx(0.0755, abs=1e-4)
    )
    assert tango_interval(200, 18, 8).low > 0.0
    assert found.interval.low == 0.0


@pytest.mark.parametrize("sign", [1, -1])
def test_networks_that_disagree_on_every_image_have_an_interval(sign: int) -> None:
    found = tango_interval(10, 10 * (sign > 0), 10 * (sign < 0))
    inner, outer = sorted((found.low, found.high), key=abs)
    assert outer == sign
    assert 0 < sign * inner < 1


def test_coverage_of_other_images() -> None:
    """Images of the same two networks, of which 3% and 2% are right in one only."""
    rng = np.random.default_rng(20261128)
    tables = rng.multinomial(500, [0.03, 0.02, 0.95], size=2000)
    found = [tango_interval(500, int(b), int(c)) for b, c, _ in tables]
    hits = sum(each.low <= 0.01 <= each.high for each in found)
    assert oracle.binomtest(hits, 2000, 0.95).pvalue > 0.001


def test_false_positives_of_the_exact_test_are_at_most_alpha() -> None:
    rng = np.random.default_rng(20261128)
    counts = rng.binomial(60, 0.5, size=2000)
    rate = np.mean([mcnemar_p(int(b), 60 - int(b)) <= 0.05 for b in counts])
    assert rate <= 0.05
