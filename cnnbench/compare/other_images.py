"""Verdicts held against the images that they do not rest on."""

from collections.abc import Iterator, Sequence

from cnnbench.compare.comparability import TEST, Finished, values
from cnnbench.compare.verdict import Arm, Criteria, Finding, Verdict, judge
from cnnbench.compare.verdict_text import sentence
from cnnbench.runs.records import Direction

_SETTLED = {Finding.BETTER, Finding.WORSE, Finding.NOISE, Finding.NONE}


def disagreements(
    runs: Sequence[Finished], samples: Sequence[Arm], verdicts: Sequence[Verdict], rules: Criteria
) -> Iterator[str]:
    """What is said where validation and test images come to different findings.

    An interval over seeds does not hold for other images: a few hundred of them favour one
    network by chance, in every seed alike.

    Args:
      runs: those that stand side by side.
      samples: what else each of them is judged by.
      verdicts: on every run but the baseline.
      rules: how they were judged.
    """
    metric, data = runs[0].metric, runs[0].record.dataset
    if not data.num_validation:
        return
    by_test = runs[0].judged_by != metric
    other = metric if by_test else f"{TEST}{metric}"
    others = [
        sample._replace(values=values(run, other), epoch_s={})
        for sample, run in zip(samples, runs, strict=True)
    ]
    higher = runs[0].summary.metrics[metric] is Direction.HIGHER
    images = "validation" if by_test else "test"
    for one, two in zip(verdicts, judge(others, other, rules, higher=higher), strict=True):
        if one.finding != two.finding and {one.finding, two.finding} <= _SETTLED:
            yield (
                f"By the {images} images: {sentence(two)} Intervals are over seeds, not over images"
                f" ({data.num_validation:,} validate, {data.num_test:,} test), so a difference that"
                " only some of them show may be theirs."
            )
