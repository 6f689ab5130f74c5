"""Sweeps for programs and papers: CSV, JSON, Markdown and LaTeX."""

import csv
import io

from cnnbench.comparisons.sweeps.results import SweepResult, SweepRow
from cnnbench.formatting import csv_cell, escape_markdown
from cnnbench.report.latex import escape_latex
from cnnbench.report.sweeps.table import notes, sweep_grid
from cnnbench.report.table import markdown_table
from cnnbench.runs import codec


def csv_sweep(result: SweepResult) -> str:
    """One header, and a line for each trial and seed, unrounded, the best trial first."""
    lines = [
        {**_fields(result, row), "seed": seed, result.metric: score}
        for row in result.shown
        for seed, score in zip(row.seeds, row.scores, strict=True)
    ]
    names = ["trial", "title", *result.plan.keys, "run", "seconds", "seed", result.metric]
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=names, lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: csv_cell(value) for key, value in line.items()} for line in lines)
    return text.getvalue()


def _fields(result: SweepResult, row: SweepRow) -> dict[str, object]:
    values = dict(zip(result.plan.keys, row.values, strict=True))
    return {
        "trial": row.number,
        "title": row.title,
        **values,
        "run": row.run,
        "seconds": row.seconds,
    }


def json_sweep(result: SweepResult) -> str:
    """Everything, with the values of each seed."""
    trials = tuple(
        {
            "trial": row.number,
            "title": row.title,
            "values": dict(zip(result.plan.keys, row.values, strict=True)),
            "seeds": row.seeds,
            "scores": row.scores,
            "mean": row.trial.value.mean if row.scores else None,
            "std": row.trial.value.std if row.scores else None,
            "run": row.run or None,
            "seconds": row.seconds,
            "error": row.error or None,
        }
        for row in result.shown
    )
    expected = {title: result.expected(title) for title in result.titles if result.of(title)}
    document: dict[str, object] = {
        "sweep": result.plan.sweep,
        "command": result.plan.command,
        "keys": result.plan.keys,
        "metric": result.metric,
        "direction": "higher" if result.higher else "lower",
        "trials": trials,
        "expected_best": expected,
    }
    return codec.encode_document(document).decode()


def markdown_sweep(result: SweepResult) -> str:
    """The table, and the sentences below it."""
    header, *rows = ([*map(escape_markdown, row)] for row in sweep_grid(result))
    text = "\n".join(map(escape_markdown, notes(result)))
    return f"{markdown_table(header, rows)}\n{text}\n"


def latex_sweep(result: SweepResult) -> str:
    r"""The table, to be included with ``\input``, with the sentences as comments."""
    header, *rows = (" & ".join(map(escape_latex, row)) + r" \\" for row in sweep_grid(result))
    columns = "r" * (header.count("&") + 1)
    body = "\n".join(rows)
    comments = "".join(f"% {line}\n" for line in notes(result))
    return (
        "% Requires \\usepackage{booktabs}.\n"
        f"\\begin{{tabular}}{{{columns}}}\n\\toprule\n{header}\n\\midrule\n{body}\n\\bottomrule\n"
        f"\\end{{tabular}}\n{comments}"
    )
