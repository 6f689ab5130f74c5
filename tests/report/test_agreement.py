"""Interval and test agree in everything that is printed, for random runs, tests and rules."""

import csv
import io
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from cnnbench.cli.tuned_text import json_fields
from cnnbench.comparisons.comparison import Comparison, compare
from cnnbench.comparisons.over.points import compare_over
from cnnbench.comparisons.stopping import reason_to_stop
from cnnbench.comparisons.thresholds import (
    Threshold,
    ThresholdStatus,
    check_threshold,
    parse_threshold,
)
from cnnbench.comparisons.tuning import TunedComparison
from cnnbench.comparisons.verdict import Criteria, Effect, Finding, Verdict
from cnnbench.comparisons.verdict_text import look_line, sentence
from cnnbench.report.comparison import markdown, terminal_table
from cnnbench.report.csv_json import json_text
from cnnbench.report.html import table_page
from cnnbench.report.latex import latex
from cnnbench.report.over.files import csv_over
from cnnbench.report.over.series import all_series
from cnnbench.report.over.table import over_grid
from cnnbench.runs.records import RunResult
from cnnbench.statistics.looks import Looks, Reason
from cnnbench.statistics.permutation import TIES
from cnnbench.statistics.sequential import default_looks, thresholds
from tests.report.test_html import Page
from tests.support.samples import make_run, with_record
from tests.support.tunings import make_tuning

P = re.compile(r"p = [\d.e-]+|p < 0\.001(?! takes)")  # not the p that more seeds could reach


@dataclass(frozen=True)
class Case:
    """Runs and how they are judged."""

    runs: tuple[RunResult, ...]
    criteria: Criteria


def valued(name: str, values: Sequence[float], looks: Looks | None) -> RunResult:
    """A run with these accuracies on the validation and on the test images."""
    run = make_run(name, f"Run {name}", seeds=range(len(values)), run_id=name)
    assert run.summary is not None
    own = dict(enumerate(values))
    epochs = tuple(replace(e, metrics={"accuracy": own[e.seed]}) for e in run.epochs)
    seeds = tuple(
        replace(s, test={**s.test, "accuracy": own[s.seed]}, final={"accuracy": own[s.seed]})
        for s in run.summary.seeds
    )
    summary = replace(run.summary, seeds=seeds)
    return with_record(replace(run, epochs=epochs, summary=summary), looks=looks)


@st.composite
def cases(draw: Any) -> Case:
    """Two or three runs; rounded values have ties, and few seeds cannot decide."""
    digits = draw(st.sampled_from([2, 4, 8]))
    test = draw(st.sampled_from([None, "unpaired", "paired"]))
    alpha = draw(st.sampled_from([0.01, 0.05, 0.3]))
    stop = draw(st.sampled_from(["", "", "looks", "anytime"]))
    arms = draw(st.integers(2, 3))
    number = draw(st.integers(1, 8))
    looks = None
    if stop == "looks":
        paired = test == "paired"
        numbers = default_looks(alpha, paired=paired, most=20, comparisons=arms - 1)
        levels = thresholds(numbers, alpha, paired=paired, comparisons=arms - 1)
        rule = (alpha, test or "unpaired", arms - 1, "", "0", tuple(range(20)))
        looks = Looks(numbers, levels, *rule, (0.5,), Reason.LAST)
    if stop == "anytime":
        test = None
    value = st.floats(0, 1).map(lambda x: round(x, digits))
    shift = draw(st.sampled_from([0.0, 0.5, 2.0]))
    counts = [number if stop else draw(st.integers(1, 8)) for _ in range(arms)]
    runs = []
    for place, count in enumerate(counts):
        values = draw(st.lists(value, min_size=count, max_size=count))
        runs.append(valued("abc"[place], [v + shift * place for v in values], looks))
    effect = Effect(draw(st.sampled_from([0.0, 0.1])))
    return Case(tuple(runs), Criteria(None, None, alpha, effect, None, test, stop == "anytime"))


def check(verdict: Verdict) -> None:
    """What the words mean, and that they are about one test."""
    ends, p = verdict.interval, verdict.p
    assert (p is None) == (verdict.finding in {Finding.FEW, Finding.DIVERGED})
    if p is None:
        assert not P.search(sentence(verdict))
        return
    assert ends is not None
    assert min(verdict.numbers) >= min(verdict.fewest, 2)
    if verdict.test != "resampled" and not verdict.stopped:
        assert min(verdict.numbers) >= verdict.fewest  # a test that cannot decide has no p
    level = verdict.stopped.threshold if verdict.stopped else verdict.alpha
    excludes, significant = not ends.low <= 0 <= ends.high, p <= level * (1 + TIES)
    assert significant or not excludes
    if significant and not excludes:
        # E-values jump where a difference is exactly the center, here at zero.
        assert verdict.stopped is not None
        assert not verdict.stopped.looks
        assert min(-ends.low, ends.high) < 1e-6
    beyond = ends.low > verdict.min_effect or ends.high < -verdict.min_effect
    assert verdict.finding.differs == (excludes and beyond)
    assert not (verdict.finding is Finding.NONE and excludes)
    assert check_gate(verdict)


def check_gate(verdict: Verdict) -> bool:
    """A gate fails or holds by the interval of the verdict."""
    assert verdict.interval is not None
    limit = parse_threshold("accuracy:-1pp")
    assert isinstance(limit, Threshold)
    outcome = check_threshold(limit, verdict).outcome
    if outcome is ThresholdStatus.FAILED:
        return verdict.interval.high < -0.01
    if outcome is ThresholdStatus.INCONCLUSIVE:
        return verdict.interval.low < -0.01 <= verdict.interval.high
    return verdict.interval.low >= -0.01


def texts(comparison: Comparison) -> Iterator[str]:
    """Everything that shows a verdict in words, without line breaks."""
    out = io.StringIO()
    Console(file=out, width=200).print(terminal_table([comparison], wide=True))
    yield " ".join(out.getvalue().split())
    yield markdown([comparison], wide=True).replace("\\", "")
    yield latex([comparison])
    yield Page(table_page([comparison])).text


@settings(max_examples=20, deadline=None)
@given(cases())
def test_a_verdict_is_about_one_test_wherever_it_is_printed(case: Case) -> None:
    comparison = compare(case.runs, case.criteria)
    shown = list(texts(comparison))
    fields = json.loads(json_text([comparison]))["comparisons"][0]["verdicts"]
    for verdict, one in zip(comparison.verdicts, fields, strict=True):
        check(verdict)
        said = " ".join(sentence(verdict).split())
        assert one["sentence"] == sentence(verdict)
        assert one["p"] == verdict.p
        assert (one["interval"] is None) == (verdict.interval is None)
        for text in shown:
            assert said in " ".join(text.split())
        if verdict.stopped and verdict.stopped.looks:
            rule = case.runs[1].record.looks
            assert rule is not None
            reason = reason_to_stop(verdict, rule, verdict.stopped.number)
            line = look_line(verdict, 1, reason, several=True)
            assert bool(P.search(line)) == (verdict.p is not None)
            assert line.endswith("decided") or not verdict.finding.differs


@settings(max_examples=15, deadline=None)
@given(cases(), st.integers(2, 3))
def test_verdicts_at_several_values_agree_in_every_form(case: Case, number: int) -> None:
    if case.criteria.anytime:
        return
    values = [str(2**place) for place in range(number)]
    over = compare_over("train.epochs", values, [case.runs] * number, case.criteria)
    lines = list(csv.DictReader(io.StringIO(csv_over(over))))
    header, *grid = over_grid(over)
    points = [s.points[place] for place in range(number) for s in all_series(over)]
    for row, line, cells, point in zip(over.rows, lines, grid, points, strict=True):
        verdict = row.verdict
        check(verdict)
        assert (cells[header.index("p")] == "–") == (verdict.p is None)  # noqa: RUF001
        assert (line["p"] == "") == (verdict.p is None)
        assert cells[header.index("Finding")] == line["finding"] == str(verdict.finding)
        assert point.decided == verdict.finding.differs
        if point.decided:
            assert point.low is not None
            assert point.high is not None
            assert point.low * point.high > 0
        if verdict.p is not None:
            assert math.isclose(float(line["p"]), verdict.p, rel_tol=1e-9)
            assert cells[header.index("P(better)")] != "–"  # noqa: RUF001


@settings(max_examples=20, deadline=None)
@given(cases(), cases())
def test_both_verdicts_of_a_tuning_are_those_of_their_comparisons(one: Case, two: Case) -> None:
    written, best = (compare(case.runs[:2], case.criteria) for case in (one, two))
    tuned = TunedComparison(make_tuning(), written, best)
    differ = written.verdicts[0].finding is not best.verdicts[0].finding
    assert bool(tuned.headlines) == differ
    found = json_fields(tuned)["comparisons"]
    assert isinstance(found, tuple)
    for comparison, own in zip((written, best), found, strict=True):
        assert [v["sentence"] for v in own["verdicts"]] == [*map(sentence, comparison.verdicts)]
