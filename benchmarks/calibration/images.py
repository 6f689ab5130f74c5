"""Seeds and images: coverage of crossed intervals, the floor of the spread, McNemar and Tango."""

import math
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from scipy import special

from benchmarks.calibration.means import paired as paired_test
from benchmarks.calibration.means import unpaired as unpaired_test
from benchmarks.calibration.tables import ALPHA, figure, generator, rate, section, table
from cnnbench.statistics import crossed
from cnnbench.statistics.estimates import Interval, mean_interval
from cnnbench.statistics.matched_pairs import compare_pairs
from cnnbench.statistics.spread import spread

MEAN, SHARED = 2.8, 1.5  # of the scores: an accuracy of about 93%

Deviates = Callable[[np.random.Generator, tuple[int, ...]], Any]


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    """Standard normal values."""
    return rng.standard_normal(shape)


def heavy(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    """Student's t with 3 degrees of freedom, scaled to a standard deviation of 1."""
    return rng.standard_t(3, shape) / 3**0.5


class Networks(NamedTuple):
    """Two networks on a test set; an image is right if its score is positive.

    The score is the sum of a mean, what is easy about the image, for both networks and for one,
    what is good about the seed, for the pair and for one, and noise of its own.

    Args:
      name: of the case.
      images: number of images.
      seeds: number of seeds of each.
      seed_std: standard deviation over seeds of the score.
      pair_std: that of what a pair of equal seeds shares.
      image_std: that of what is easy about an image for one network.
      noise: the distribution of what is good about seeds, and easy about images.
      effect: how much better the second network's score is.
    """

    name: str
    images: int
    seeds: int = 10
    seed_std: float = 0.05
    pair_std: float = 0.0
    image_std: float = 0.5
    noise: Deviates = normal
    effect: float = 0.1


def draw(rng: np.random.Generator, networks: Networks) -> tuple[Any, Any]:
    """Right or wrong for the baseline and the other network, (seeds, images)."""
    noise, seeds, size = networks.noise, networks.seeds, networks.images
    shared = SHARED * noise(rng, (1, size))
    pairs = networks.pair_std * noise(rng, (seeds, 1))
    arms = []
    for mean in (MEAN, MEAN + networks.effect):
        own = mean + shared + networks.image_std * noise(rng, (1, size))
        score = own + pairs + networks.seed_std * noise(rng, (seeds, 1))
        arms.append(rng.random((seeds, size), np.float32) < special.ndtr(score))
    return arms[0], arms[1]


@lru_cache
def truth(networks: Networks) -> float:
    """The difference of the accuracies over all seeds and images."""
    stds = (SHARED, networks.image_std, networks.seed_std, networks.pair_std)
    if networks.noise is normal:
        total = (1 + sum(std**2 for std in stds)) ** 0.5
        return float(special.ndtr((MEAN + networks.effect) / total) - special.ndtr(MEAN / total))
    rng, number = np.random.default_rng(0), 2_000_000
    score = MEAN + sum(std * networks.noise(rng, (number,)) for std in stds)
    return float(np.mean(special.ndtr(score + networks.effect) - special.ndtr(score)))


NETWORKS = (
    *(Networks(f"{number:,} images", number) for number in (100, 500, 2000, 10_000)),
    Networks("500 images, 4 seeds", 500, seeds=4),
    Networks("500 images, 4 seeds that differ much", 500, seeds=4, seed_std=0.3),
    Networks("500 images, seeds that differ much", 500, seed_std=0.3),
    Networks("500 images, pairs correlate", 500, pair_std=0.3),
    Networks("500 images, heavy tails (t3)", 500, noise=heavy),
)
INTERVALS = (
    "over seeds and images, unpaired",
    "over seeds and images, paired",
    "over seeds alone, unpaired",
    "over seeds alone, paired",
)


def _intervals(base: Any, other: Any) -> Iterator[Interval]:
    """Those that a verdict shows by the unpaired and by the paired test, and without images.

    The sign-flip test has none with four seeds; then it is Student's t interval.
    """
    means = base.mean(axis=1), other.mean(axis=1)
    seeds = unpaired_test(*means).interval(1 - ALPHA)
    pairs = paired_test(*means).interval(1 - ALPHA)
    if math.isinf(pairs.low):
        student = mean_interval(means[1] - means[0], 1 - ALPHA)
        assert student is not None
        pairs = student
    yield crossed.unpaired(other, base).interval(1 - ALPHA, seeds)
    yield crossed.paired(other.astype(float) - base).interval(1 - ALPHA, pairs)
    yield seeds
    yield pairs


@lru_cache
def hits(simulations: int, networks: Networks) -> tuple[int, ...]:
    """How many of each kind of interval cover the difference on all images."""
    rng, true = generator(f"images {networks.name}"), truth(networks)
    counts = np.zeros(len(INTERVALS), int)
    for _ in range(simulations):
        arms = draw(rng, networks)
        counts += [ends.low <= true <= ends.high for ends in _intervals(*arms)]
    return tuple(map(int, counts))


@section("images")
def images(simulations: int) -> str:
    """Coverage of the difference on all images like these, by each kind of interval."""
    rows = [
        [each.name, *(rate(hit, simulations) for hit in hits(simulations, each))]
        for each in NETWORKS
    ]
    drawn = figure("images", lambda fig: _draw(fig, simulations), _TEXT)
    return f"{table(['Networks', *INTERVALS], rows)}\n\n{drawn}"


_TEXT = (
    "Coverage of 95% intervals against the number of images. Over seeds and images it is near 95%"
    " for all of them; over seeds alone it is far below with few images."
)


def _draw(fig: Any, simulations: int) -> None:
    axes, sized = fig.subplots(), NETWORKS[:4]
    numbers = [each.images for each in sized]
    looks = [("#0b5cad", "-"), ("#0b5cad", "--"), ("#b3541e", "-"), ("#b3541e", "--")]
    for place, (name, (color, dash)) in enumerate(zip(INTERVALS, looks, strict=True)):
        shares = [100 * hits(simulations, each)[place] / simulations for each in sized]
        axes.plot(numbers, shares, dash, marker="o", markersize=3, color=color, label=name)
    axes.axhline(100 * (1 - ALPHA), color="#999999", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xticks(numbers, [f"{number:,}" for number in numbers])
    axes.minorticks_off()
    axes.set_xlabel("images")
    axes.set_ylabel("coverage (%)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))


@section("floor")
def floor(simulations: int) -> str:
    """The standard deviation over seeds, its floor, and what more images would leave."""
    rows = []
    for images_, seed_std in ((500, 0.0), (500, 0.15), (10_000, 0.0), (10_000, 0.15)):
        networks = Networks("", images_, seed_std=seed_std)
        rng = generator(f"floor {images_} {seed_std}")
        found = [spread(draw(rng, networks)[0]) for _ in range(simulations)]
        columns = zip(*((s.std**2, s.floor**2, s.std**2 - s.floor**2) for s in found), strict=True)
        means = [max(0.0, float(np.mean(column))) ** 0.5 for column in columns]
        rows.append([f"{images_:,}", *(_points(each) for each in (_unlimited(networks), *means))])
    head = ["Images", "Unlimited images (true)", "Spread", "Floor", "Unlimited images (estimated)"]
    return table(head, rows)


def _points(value: float) -> str:
    return f"{100 * value:.2f} points"


@lru_cache
def _unlimited(networks: Networks) -> float:
    """The standard deviation over seeds of their accuracy on all images."""
    within = (1 + SHARED**2 + networks.image_std**2) ** 0.5
    nodes, weights = special.roots_hermitenorm(60)
    values = special.ndtr((MEAN + networks.seed_std * nodes) / within)
    mean = np.average(values, weights=weights)
    return float(np.average((values - mean) ** 2, weights=weights) ** 0.5)


@section("one-seed")
def one_seed(simulations: int) -> str:
    """Two trained networks on other images: McNemar's test and Tango's interval."""
    rng, rows = generator("one-seed"), []
    for number, only_base, only_other in (
        (100, 0.02, 0.02),
        (500, 0.02, 0.02),
        (500, 0.02, 0.05),
        (10_000, 0.005, 0.005),
        (10_000, 0.005, 0.008),
        (10_000, 0.05, 0.05),
    ):
        chances, true = [only_base, only_other, 1 - only_base - only_other], only_other - only_base
        drawn = rng.multinomial(number, chances, size=simulations).tolist()
        found = [compare_pairs(number, base, other, 1 - ALPHA) for base, other, _ in drawn]
        significant = sum(each.p <= ALPHA for each in found)
        covered = sum(each.interval.low <= true <= each.interval.high for each in found)
        shares = [f"{100 * share:g}%" for share in (only_base, only_other)]
        rates = rate(significant, simulations), rate(covered, simulations)
        rows.append([f"{number:,}", *shares, *rates])
    head = ["Images", "Only the baseline is right", "Only the other is right"]
    return table([*head, "p ≤ 0.05 (McNemar)", "Interval covers (Tango)"], rows)
