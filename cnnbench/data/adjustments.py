"""Settings that change the images or labels of a dataset: classes, subset, imbalance and noise."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from cnnbench.data.classes import Classes, ClassRef, members
from cnnbench.formatting import enumeration

ImbalanceKind = Literal["long_tailed", "step"]
NoiseKind = Literal["symmetric", "pair"]
LONGEST = 60  # letters of a list of classes


@dataclass(frozen=True, slots=True)
class Subset:
    """Some of the training images, drawn at random.

    Args:
      size: number of images, or a fraction of all; None if `per_class` is set.
      per_class: number of images of each class, or by class (all images of other classes).
      stratified: keep the proportions of the classes.
      seed: of the random draw; a smaller subset of the same seed is part of a larger one.
    """

    size: int | float | None = None
    per_class: int | Mapping[str, int] | None = None
    stratified: bool = True
    seed: int = 0

    def __str__(self) -> str:
        match self.per_class:
            case None if isinstance(self.size, float):
                text = f"subset of {percent(self.size)}"
            case None:
                text = f"subset of {self.size:,}"
            case int(number):
                text = f"subset of {number:,} per class"
            case by_class:
                few = [f"{number:,} of {name}" for name, number in by_class.items()]
                text = f"subset of {enumeration(few)}"
        plain = "" if self.stratified or self.per_class else ", not stratified"
        return f"{text}{plain}{_seed(self.seed)}"


@dataclass(frozen=True, slots=True)
class Imbalance:
    """Training classes of different sizes.

    Args:
      ratio: size of the largest class relative to the smallest.
      kind: ``long_tailed`` for sizes that decrease exponentially (Cui et al. 2019), ``step`` for
        a larger first half of the classes and a smaller second one (Buda et al. 2018).
      order: classes from the largest to the smallest; None for the order of their labels.
      seed: of the random draw.
    """

    ratio: float
    kind: ImbalanceKind = "long_tailed"
    order: tuple[ClassRef, ...] | None = None
    seed: int = 0

    def __str__(self) -> str:
        kind = "long-tailed" if self.kind == "long_tailed" else "step imbalance"
        return f"{kind}, ratio {self.ratio:g}{_seed(self.seed)}"


@dataclass(frozen=True, slots=True)
class LabelNoise:
    """Wrong training labels.

    Args:
      rate: fraction of the images of each class whose label is changed.
      kind: ``symmetric`` for another class, each with the same probability, ``pair`` for the next
        class; None for `to`, or else ``symmetric``.
      to: the wrong class by the true one, for some of the classes.
      seed: of the random draw; the labels changed at a lower rate are part of those at a higher.
    """

    rate: float
    kind: NoiseKind | None = None
    to: Mapping[str, ClassRef] | None = None
    seed: int = 0

    def __str__(self) -> str:
        kind: str = self.kind or "symmetric"
        if self.to:
            kind = enumeration([f"{one} to {other}" for one, other in self.to.items()])
        return f"label noise {percent(self.rate)}, {kind}{_seed(self.seed)}"


@dataclass(frozen=True, slots=True)
class Adjustments:
    """Everything that an experiment changes in its dataset, in the order of the changes.

    Args:
      classes: classes to keep, or classes to merge by the name of the merged class.
      subset: some of the training images.
      imbalance: training classes of different sizes.
      label_noise: wrong training labels.
    """

    classes: Classes | None = None
    subset: Subset | None = None
    imbalance: Imbalance | None = None
    label_noise: LabelNoise | None = None

    def texts(self) -> Iterator[str]:
        """A line for each change."""
        if self.classes is not None:
            yield classes_text(self.classes)
        for change in (self.subset, self.imbalance, self.label_noise):
            if change is not None:
                yield str(change)


NONE = Adjustments()


def classes_text(classes: Classes) -> str:
    """The classes of an experiment in a few words.

    >>> classes_text(["cat", "dog"])
    'classes cat and dog'
    >>> classes_text({"pet": ["cat", "dog"], "car": ["automobile"]})
    'classes pet (cat, dog) and car (automobile)'
    """
    groups = members(classes)
    names = [str(name) for name in classes]
    if isinstance(classes, Mapping):
        names = [f"{name} ({', '.join(map(str, group))})" for name, group in classes.items()]
    text = enumeration(names)
    if len(text) <= LONGEST:
        return f"classes {text}"
    count = sum(map(len, groups))
    merged = f" merged from {count}" if count > len(groups) else ""
    return f"{len(groups)} classes{merged}"


def subset_size(size: int | float, number: int) -> int:
    """Number of images of a subset.

    Args:
      size: number of images, or a fraction.
      number: number of training images.

    >>> subset_size(0.25, 10), subset_size(5, 10)
    (3, 5)
    """
    return max(1, int(size * number + 0.5)) if isinstance(size, float) else size


def percent(share: float) -> str:
    """A fraction as a percentage, without trailing zeros.

    >>> percent(0.2), percent(0.125)
    ('20%', '12.5%')
    """
    return f"{100 * share:.10g}%"


def _seed(seed: int) -> str:
    return f", seed {seed}" if seed else ""
