"""Tunings with plausible numbers, for tests of what is said about them."""

from collections.abc import Sequence
from dataclasses import replace

from cnnbench.comparisons.comparison import compare
from cnnbench.comparisons.tuning import Trial, TunedArm, TunedAxis, TunedComparison, TuningResult
from cnnbench.comparisons.verdict import Criteria
from cnnbench.runs.records import TUNED, RunResult
from cnnbench.runs.summary import summarize_seed
from tests.support.samples import make_run, with_record

AXIS = TunedAxis("learning_rate", ("x0.1", "x0.3", "x1", "x3", "x10"))
NAN = float("nan")
STANDARD = ((0.93, 0.94), (0.961, 0.963), (0.977, 0.979), (0.97, 0.972), (NAN, NAN))
MODIFIED = ((0.90, 0.92), (0.95, 0.952), (0.97, 0.968), (0.981, 0.983), (0.975, NAN))


def make_arm(label: str, values: Sequence[Sequence[float]], *, higher: bool = True) -> TunedArm:
    """An experiment tried at each point of `AXIS`, or the first of them."""
    name = label.split(maxsplit=1)[0].lower()
    rates = ("0.001", "0.003", "0.01", "0.03", "0.1")
    trials = (
        Trial(
            (place,),
            (f"train.optimizer.learning_rate={rates[place]}",),
            place == AXIS.points.index("x1"),
            tuple(own),
            f"{name}/20251123T06301{place}Z-a1b2",
            20.0,
        )
        for place, own in enumerate(values)
    )
    return TunedArm(label, tuple(trials), higher)


def make_tuning(*arms: TunedArm) -> TuningResult:
    """A tuning by accuracy."""
    known = arms or (make_arm("Standard CNN", STANDARD), make_arm("Modified CNN", MODIFIED))
    points = AXIS.points[: len(known[0].trials)]
    return TuningResult((TunedAxis(AXIS.key, points),), "accuracy", (1000, 1001), 3, known)


def make_tuned() -> TunedComparison:
    """A tuning that changes the finding."""
    seeds = tuple(range(6))
    low = [0.97 + seed % 2 / 1000 for seed in seeds]
    standard = _run("standard", "Standard CNN", [value + 0.008 for value in low], "aa01")
    modified = _run("modified", "Modified CNN", low, "aa02")
    better = _run("modified", "Modified CNN", [0.979, 0.978, 0.979, 0.977, 0.98, 0.978], "aa03")
    better = with_record(better, tags=(TUNED,))
    criteria = Criteria(metric="test_accuracy")
    written = compare([standard, modified], criteria)
    return TunedComparison(make_tuning(), written, compare([standard, better], criteria))


def _run(name: str, title: str, tests: Sequence[float], end: str) -> RunResult:
    """A run with these accuracies on the test images."""
    run = make_run(name, title, seeds=range(len(tests)), run_id=f"20251123T063012Z-{end}")
    assert run.summary is not None
    metrics = run.summary.metrics
    seeds = tuple(
        summarize_seed(
            [epoch for epoch in run.epochs if epoch.seed == seed],
            metrics=metrics,
            test={"accuracy": value, "loss": 1 - value},
            compile_s=1.5,
        )
        for seed, value in enumerate(tests)
    )
    return replace(run, summary=replace(run.summary, seeds=seeds))
