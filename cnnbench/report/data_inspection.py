"""Texts of `cnnbench data inspect`."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from rich import box
from rich.table import Table

from cnnbench.data.adjustments import subset_size
from cnnbench.data.catalog import DatasetInfo, split_sizes
from cnnbench.data.inspection.arrays import ArrayInspection
from cnnbench.data.inspection.folder import FolderInspection, SameImages
from cnnbench.data.inspection.labels import LabelDistribution, TargetDistribution
from cnnbench.data.own.decoding import ImageHeader
from cnnbench.data.own.folder import LISTED, few
from cnnbench.data.splits import size_of_validation
from cnnbench.formatting import clean
from cnnbench.layers.base import shape_text
from cnnbench.report.sparkline import bars
from cnnbench.spec.experiment import DatasetSpec

_WORDS = ("Target", "Split", "Histogram")  # columns of words


def images_line(spec: DatasetSpec, info: DatasetInfo) -> str:
    """Number of images in each split, and how validation images are chosen; empty if unknown.

    Args:
      spec: the dataset of an experiment.
      info: its metadata.
    """
    split, pool, test = spec.random_split, info.num_train, spec.splits.test or info.num_test
    if pool is None or test is None or spec.classes:  # classes have unknown sizes
        return ""
    if split is None:
        own = info.num_validation
        sizes = spec.splits.model_dump(exclude_none=True)
        train, validation = split_sizes(sizes, pool - (own or 0), own)
    else:
        every = pool if info.own_test else pool + (info.num_test or 0)
        validation = size_of_validation(split, pool, every)
        train = pool - validation
    kept = _num_kept(spec, info, train)
    trained = f"{kept:,}" if kept == train else f"{kept:,} of {train:,}"
    held = f"{validation:,}"
    if split and split.folds and pool % split.folds:
        held = f"{validation - 1:,} or {held}"
    how = f" ({split.text})" if split else ""
    return f"Images: {trained} training, {held} validation and {test:,} test{how}"


def _num_kept(spec: DatasetSpec, info: DatasetInfo, number: int) -> int:
    """Training images of `train_examples` or `subset`; of some class sizes, they are not known."""
    if spec.subset is None or isinstance(spec.subset.per_class, dict):
        return spec.train_examples or number
    if spec.subset.per_class is not None:
        return spec.subset.per_class * info.num_classes
    return subset_size(spec.subset.size or 0, number)


def targets_table(
    names: Sequence[str], found: Sequence[Mapping[str, TargetDistribution]], encoding: str
) -> Table:
    """Distribution of each target, by split.

    Args:
      names: of the targets.
      found: the distributions of each target.
      encoding: of the output.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for head in ("Target", "Split", "Images", "Mean", "Std", "Min", "Max", "Histogram"):
        table.add_column(head, justify="left" if head in _WORDS else "right", no_wrap=True)
    for name, splits in zip(names, found, strict=True):
        for split, own in splits.items():
            numbers = (f"{value:.4g}" for value in (own.mean, own.std, own.low, own.high))
            histogram = bars(own.histogram, encoding)
            table.add_row(clean(name), split, f"{own.number:,}", *numbers, histogram)
    return table


def labels_lines(names: Sequence[str], found: LabelDistribution) -> Iterator[str]:
    """Number of labels per training image, and labels that occur together, a line each.

    Args:
      names: of the labels.
      found: labels of the training images.
    """
    share = 100 * found.without / max(found.number, 1)
    yield f"Labels per training image: mean {found.cardinality:.2f}, at most {found.most}."
    yield f"Training images without a label: {found.without:,} ({share:.1f}%)."
    pairs = [f"{clean(names[a])} and {clean(names[b])} {n:,}" for a, b, n in found.pairs[:LISTED]]
    if pairs:
        yield f"Most frequent pairs: {', '.join(pairs)}."


def classes_table(
    classes: Sequence[str], counts: Mapping[str, Sequence[int]], kind: str = "Class"
) -> Table:
    """Number of images of each class or label, by split.

    Args:
      classes: names of the classes or labels.
      counts: of each class or label, by split.
      kind: what they are.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in (kind, *(split.title() for split in counts)):
        table.add_column(name, justify="left" if name == kind else "right")
    for label, name in enumerate(classes):
        table.add_row(clean(name), *(f"{count[label]:,}" for count in counts.values()))
    return table


def header_lines(headers: Sequence[ImageHeader]) -> Iterator[str]:
    """Sizes, formats and modes of image files, a line each."""
    for side in ("height", "width"):
        values = sorted(getattr(each, side) for each in headers)
        middle = values[len(values) // 2]
        yield f"{side.title()}: {values[0]:,} to {values[-1]:,} pixels, median {middle:,}."
    kinds = Counter(f"{each.format} {each.mode}" for each in headers).most_common()
    yield f"Formats and modes: {', '.join(f'{kind} {number:,}' for kind, number in kinds)}."


def folder_lines(found: FolderInspection) -> Iterator[str]:
    """Sizes, modes, duplicates and statistics of a folder, a line each."""
    yield from header_lines(found.headers)
    if found.broken:
        yield f"Cannot be read: {len(found.broken):,}."
        yield from (f"  {clean(error)}" for error in found.broken[:LISTED])
        if len(found.broken) > LISTED:
            yield f"  and {len(found.broken) - LISTED:,} more"
    yield from _duplicate_lines("Exact duplicates", found.duplicates)
    if found.similar is not None:
        yield from _duplicate_lines("Near duplicates", found.similar)
    yield from _statistics_lines((found.mean, found.std))


def array_lines(info: DatasetInfo, found: ArrayInspection) -> Iterator[str]:
    """Size, duplicates and statistics of a dataset, a line each."""
    yield f"Images: {shape_text(info.shape)}."
    yield from _duplicate_lines("Exact duplicates", found.duplicates)
    yield from _statistics_lines(found.statistics)


def _duplicate_lines(title: str, groups: Sequence[SameImages]) -> Iterator[str]:
    """Number of duplicates, and those between splits, which make test results too good."""
    yield f"{title}: {sum(len(group) - 1 for group in groups):,}."
    leaks = [group for group in groups if len({split for _, split in group}) > 1]
    for group in leaks[:LISTED]:
        yield f"  In several splits: {few([_member(*member) for member in group])}."
    if len(leaks) > LISTED:
        yield f"  In several splits: {len(leaks) - LISTED:,} more."


def _member(name: str, split: str) -> str:
    return clean(name) if name.startswith(f"{split} ") else f"{clean(name)} ({split})"


def _statistics_lines(
    statistics: tuple[tuple[float, ...], tuple[float, ...]] | None,
) -> Iterator[str]:
    if statistics is None or 0.0 in statistics[1]:
        yield "Training images: all pixels of a channel have the same value."
        return
    mean, std = (
        ", ".join(f"{value:.3f}" for value in (values[:1] if len(set(values)) == 1 else values))
        for values in statistics
    )
    yield f"Training images, pixels from 0 to 1: mean {mean}, std {std}."
