"""What the images add to verdicts: intervals over seeds and images, McNemar's test, spreads."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cnnbench.comparisons.comparability import TEST, Finished
from cnnbench.comparisons.verdict import ClassShare, Finding, ImageEvidence, Verdict
from cnnbench.comparisons.verdict_text import evidence, sentence, size, trained_finding
from cnnbench.formatting import clean, enumeration
from cnnbench.runs.folder import kept_seeds
from cnnbench.statistics.crossed import CrossedEstimate, paired, unpaired
from cnnbench.statistics.matched_pairs import compare_pairs
from cnnbench.statistics.multiple_tests import holm, holm_levels
from cnnbench.statistics.spread import Spread, spread

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MOST_CLASSES = 3  # that are named
_SETTLED = {Finding.BETTER, Finding.WORSE, Finding.NOISE, Finding.NONE}
_MOST = 0.5  # share of the images that the named classes have at least


@dataclass(frozen=True, slots=True)
class RunSpread:
    """The spread of a run's metric over seeds, and how much of it the number of images explains.

    Args:
      label: label of the run.
      images: number of images.
      spread: the spread and its floor.
    """

    label: str
    images: int
    spread: Spread


def array_name(judged_by: str) -> str:
    """Name of a metric in files of predictions.

    >>> array_name("accuracy"), array_name("test_loss")
    ('validation_accuracy', 'test_loss')
    """
    return judged_by if judged_by.startswith(TEST) else f"validation_{judged_by}"


def results(run: Finished, judged_by: str, seeds: Sequence[int] | None = None) -> Any:
    """Results for each image, (seeds, images); None if they are unknown or of different images.

    Args:
      run: the run.
      judged_by: the metric.
      seeds: the seeds, in this order; all if None.
    """
    import numpy as np

    split, name = run.record.dataset.split, array_name(judged_by)
    if split and split.varies and not judged_by.startswith(TEST):
        return None
    wanted = run.record.seeds if seeds is None else seeds
    rows = [run.predictions.get(seed, {}).get(name) for seed in wanted]
    known = [row for row in rows if row is not None and len(row) > 1]
    same = len({len(row) for row in known}) == 1
    return np.stack(known) if same and len(known) == len(rows) else None


def image_evidence(base: Finished, run: Finished, verdict: Verdict) -> ImageEvidence | None:
    """What the images add to a verdict; None if nothing.

    Args:
      base: the baseline.
      run: the run.
      verdict: the verdict on it.
    """
    if verdict.overlap or verdict.finding is Finding.DIVERGED or not all(verdict.numbers):
        return None
    of_pairs = verdict.test == "paired"
    seeds = verdict.seeds if of_pairs else None
    one, two = (results(each, verdict.metric, seeds) for each in (base, run))
    if one is None or two is None or one.shape[1] != two.shape[1]:
        return None
    evidence = ImageEvidence(one.shape[1])
    level = _level(verdict)
    if level and (found := _crossed(one, two, of_pairs=of_pairs)):
        ends = found.interval(level, verdict.interval)
        evidence = replace(
            evidence,
            interval=ends,
            std_error=found.std_error,
            df=found.df,
            negative=found.negative,
        )
    if one.dtype != bool or two.dtype != bool:
        return evidence
    return _with_counts(evidence, one, two, run, verdict)


def _level(verdict: Verdict) -> float | None:
    """Level of the interval over seeds and images, which looks at the results make stricter.

    Returns:
      None if the verdict is valid after every seed: this interval is not.
    """
    if verdict.stopped is None:
        return verdict.level
    return 1 - verdict.stopped.threshold if verdict.stopped.looks else None


def with_images(
    base: Finished, others: Sequence[Finished], verdicts: Sequence[Verdict]
) -> tuple[Verdict, ...]:
    """Verdicts with what the images add.

    Args:
      base: the baseline.
      others: the other runs.
      verdicts: one for each of them.
    """
    found = [image_evidence(base, run, v) for run, v in zip(others, verdicts, strict=True)]
    p_values = [each.pairs.p for each in found if each and each.pairs]
    alpha = verdicts[0].alpha if verdicts else 1.0
    adjusted = iter(zip(holm(p_values), holm_levels(p_values, alpha), strict=True))
    for place, each in enumerate(found):
        if each and each.pairs:
            p, own = next(adjusted)
            counts = each.images, each.pairs.only_base, each.pairs.only_arm
            found[place] = replace(each, pairs=replace(compare_pairs(*counts, 1 - own), p=p))
    return tuple(replace(v, images=each) for v, each in zip(verdicts, found, strict=True))


def _crossed(base: Any, run: Any, *, of_pairs: bool) -> CrossedEstimate | None:
    if min(len(base), len(run)) < 2:
        return None
    return paired(run.astype(float) - base) if of_pairs else unpaired(run, base)


def _with_counts(
    found: ImageEvidence,
    base: "NDArray[Any]",
    run: "NDArray[Any]",
    source: Finished,
    verdict: Verdict,
) -> ImageEvidence:
    """The images that only one of the runs gets right."""
    one, two = base.mean(axis=0), run.mean(axis=0)
    only_base, only_run = one * (1 - two), two * (1 - one)
    counts = float(only_base.sum()), float(only_run.sum())
    pairs = None
    if len(base) == len(run) == 1:
        pairs = compare_pairs(found.images, round(counts[0]), round(counts[1]), verdict.level)
    classes = tuple(_classes(source, verdict.metric, only_base + only_run))
    return replace(found, only_base=counts[0], only_run=counts[1], classes=classes, pairs=pairs)


def _classes(run: Finished, judged_by: str, weights: "NDArray[Any]") -> Iterator[ClassShare]:
    """The classes that make up most of the weights, if they are few."""
    import numpy as np

    split = "test" if judged_by.startswith(TEST) else "validation"
    labels = run.predictions[run.record.seeds[0]].get(f"{split}_label")
    if labels is None or not weights.sum():
        return
    shares = np.bincount(labels, weights) / weights.sum()
    order = np.argsort(-shares, kind="stable")
    count = int(np.searchsorted(np.cumsum(shares[order]), _MOST)) + 1
    if count <= min(_MOST_CLASSES, len(shares) / 3):
        data = run.record.dataset
        yield from (ClassShare(data.class_name(int(k)), float(shares[k])) for k in order[:count])


def run_spread(label: str, run: Finished) -> RunSpread | None:
    """The spread of a run over its seeds; None with one seed, or if results are unknown.

    Args:
      label: label of the run.
      run: the run.
    """
    import numpy as np

    found = results(run, run.judged_by)
    if found is None or len(found) < 2 or not np.isfinite(found.mean(axis=1)).all():
        return None
    return RunSpread(label, found.shape[1], spread(found))


def grounds(run: Finished, verdict: Verdict, other: Verdict, *, several: bool) -> str | None:
    """A sentence on the images that a verdict rests on, and the finding on the other ones.

    Args:
      run: the run.
      verdict: the verdict on it.
      other: the verdict on the test images, if validation images judge, or the reverse.
      several: True if there are verdicts on other runs, too.

    Returns:
      None if either has too few seeds, or diverged.
    """
    one, two = (trained_finding(each) or each.finding for each in (verdict, other))
    if not {one, two} <= _SETTLED:
        return None
    start = f"{clean(verdict.label)}: judged" if several else "Judged"
    return (
        f"{start} on the {_images(run, verdict.metric)} ({_use(run, verdict.metric)}); the"
        f" {_images(run, other.metric)} ({_use(run, other.metric)}) {_agreement(one, two, other)}"
    )


def _agreement(one: Finding, two: Finding, other: Verdict) -> str:
    """Whether the other images lead to the same finding, with their evidence."""
    if one == two:
        return f"agree: {evidence(other)}."
    if one.differs and not two.differs:
        return f"do not confirm it: {evidence(other)}."
    found = sentence(replace(other, time_ratio=float("nan")))
    if trained_finding(other):
        found = f"{evidence(other)}."
    return f"{'contradict it' if one.differs else 'differ'}: {found}"


def _images(run: Finished, judged_by: str) -> str:
    """The number and the kind of the images of a metric."""
    data = run.record.dataset
    if judged_by.startswith(TEST):
        return f"{data.num_test:,} test images"
    return f"{data.num_validation:,} validation images"


def _use(run: Finished, judged_by: str) -> str:
    """What else images are used for."""
    if judged_by.startswith(TEST):
        return "used for nothing else"
    if run.record.best_metric or run.record.stop_metric:
        return "optimistic: they also chose the epochs"
    return "optimistic if they also chose hyperparameters"


def image_notes(
    spreads: Sequence[RunSpread], verdicts: Sequence[Verdict], runs: Mapping[str, Finished]
) -> list[str]:
    """Footnotes: spreads with their floor, and images that only one of two runs gets right.

    Args:
      spreads: of the runs with several seeds.
      verdicts: the verdicts.
      runs: the runs by label.
    """
    judged = next(iter(runs.values()))
    metric, kind = judged.judged_by, _images(judged, judged.judged_by)
    texts = [f"{clean(each.label)} {_spread_text(metric, each.spread)}" for each in spreads]
    lines = [f"Spread over seeds, with its part from {kind}: {'; '.join(texts)}."] if texts else []
    lines += [text for v in verdicts if (text := _only_text(v, kind))]
    if any(v.images and v.images.interval for v in verdicts):
        lines.append(
            "Over seeds and images: crossed random effects, for any images like these; the other"
            " CI and p are for these images."
        )
    if any(v.images and v.images.pairs for v in verdicts):
        lines.append("p of two trained networks: McNemar's exact test; CI: Tango's score interval.")
    if any(v.interval for v in verdicts):
        lines += _missing(runs)
    return lines


def _missing(runs: Mapping[str, Finished]) -> list[str]:
    """A footnote on runs without results for each image, and how to get them."""
    lacking = {
        label: run
        for label, run in runs.items()
        if not set(run.record.seeds) <= set(run.predictions)
    }
    if not lacking:
        return []
    labels = enumeration([clean(label) for label in lacking])
    have = "has" if len(lacking) == 1 else "have"
    line = f"Intervals are over seeds alone: {labels} {have} no results for each image, as runs of"
    if not all(map(_has_weights, lacking.values())):
        return [f"{line} older versions; without weights, they cannot be computed."]
    return [f"{line} older versions; add --predictions to compute them from the weights."]


def _has_weights(run: Finished) -> bool:
    """True if all seeds without results for each image have weights."""
    missing = set(run.record.seeds) - set(run.predictions)
    return run.path is not None and missing <= set(kept_seeds(run.path))


def _spread_text(metric: str, found: Spread) -> str:
    """A spread and its floor.

    >>> _spread_text("accuracy", Spread(0.0112, 0.0103, 0.0044))
    '±1.12 points, of which 1.03'
    """
    std, floor = (size(metric, each).lstrip("+").split()[0] for each in (found.std, found.floor))
    unit = size(metric, found.std).partition(" ")[2]
    whole = f"±{std}{f' {unit}' if unit else ''}"
    return f"{whole}, all of it" if found.floor >= found.std else f"{whole}, of which {floor}"


def _only_text(v: Verdict, kind: str) -> str:
    """The images that only one of two runs gets right, over several seeds."""
    found = v.images
    if found is None or found.pairs or found.only_base is None or found.only_run is None:
        return ""
    base, run = f"{found.only_base:,.1f}", f"{found.only_run:,.1f}"
    classes = ""
    if found.classes:
        names = enumeration([each.name for each in found.classes])
        share = sum(each.share for each in found.classes)
        single = len(found.classes) == 1
        verb = f"class {names} makes" if single else f"classes {names} make"
        classes = f"; {verb} up {share:.0%} of them"
    return (
        f"Of the {kind}, only {clean(v.baseline)} gets {base} right, and only {clean(v.label)}"
        f" {run} (mean over seeds){classes}."
    )
