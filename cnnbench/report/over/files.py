"""Comparisons at several values of a key for programs: CSV and JSON, unrounded."""

import csv
import dataclasses
import io
from collections.abc import Mapping

from cnnbench.comparisons.over.points import OverComparison, PointRow
from cnnbench.comparisons.verdict_text import fields
from cnnbench.formatting import csv_cell
from cnnbench.runs import codec


def csv_over(over: OverComparison) -> str:
    """One header, and one line for each value and experiment but the baseline."""
    lines = over_lines(over)
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: csv_cell(value) for key, value in line.items()} for line in lines)
    return text.getvalue()


def over_lines(over: OverComparison) -> list[Mapping[str, object]]:
    """The lines of a CSV file, unrounded."""
    return [_line(over, row) for row in over.rows]


def _line(over: OverComparison, row: PointRow) -> Mapping[str, object]:
    verdict, better = row.verdict, row.improvement
    ends = verdict.interval
    bounds = better.interval if better else None
    return {
        "key": over.key,
        "value": row.value,
        "label": verdict.label,
        "baseline": verdict.baseline,
        "metric": verdict.metric,
        "baseline_mean": row.base.mean,
        "mean": row.run.mean,
        "difference": verdict.difference,
        "low": ends.low if ends else None,
        "high": ends.high if ends else None,
        "p": verdict.p,
        "alpha": verdict.alpha,
        "finding": str(verdict.finding),
        "improvement": better.share if better else None,
        "improvement_low": bounds.low if bounds else None,
        "improvement_high": bounds.high if bounds else None,
    }


def json_over(over: OverComparison) -> str:
    """Everything, with the values of each seed."""
    document = {
        "over": {
            "key": over.key,
            "values": over.values,
            "metric": over.metric,
            "direction": over.direction,
            "sentences": over.sentences,
            "changes": over.changes,
            "grounds": over.grounds,
            "rows": tuple(map(_row, over.rows)),
            "datasets": over.datasets and dataclasses.asdict(over.datasets),
        }
    }
    return codec.encode_document(document).decode()


def _row(row: PointRow) -> Mapping[str, object]:
    return {
        "value": row.value,
        "baseline": row.base.values,
        "run": row.run.values,
        "verdict": fields(row.verdict),
    }
