"""Runs with different engines: every output names them, and calls the difference in time theirs."""

import dataclasses
import io
import json
import re

from rich.console import Console

from cnnbench.comparisons.comparison import Comparison, compare
from cnnbench.comparisons.thresholds import Threshold, check_threshold
from cnnbench.comparisons.verdict import Effect
from cnnbench.comparisons.verdict_text import sentence
from cnnbench.report.comparison import markdown, notes, terminal_table
from cnnbench.report.csv_json import csv_text, json_text
from cnnbench.report.html import environment_grid, table_page
from cnnbench.report.latex import latex
from cnnbench.report.side_by_side import side_by_side
from cnnbench.runs.records import RunResult
from tests.support.samples import make_run, with_record

ENGINES = ["fast", "fast", "direct", "direct"]  # of the first and the last epoch of each run
WARNING = (
    "The runs trained with different engines (fast: Standard CNN; direct: Modified CNN), so a"
    " difference in time is an artifact; train all of them with one --engine to compare times."
)
ARTIFACT = "an epoch takes 1.00x as long, an artifact of the engines: direct, baseline fast."


def on_engine(run: RunResult, form: str) -> RunResult:
    assert run.record.engine is not None
    return with_record(run, engine=dataclasses.replace(run.record.engine, form=form))


def runs(form: str = "direct") -> list[RunResult]:
    return [make_run(), on_engine(make_run("modified", "Modified CNN", run_id="b"), form)]


def compared(form: str = "direct") -> Comparison:
    return compare(runs(form))


def terminal(comparison: Comparison, *, wide: bool) -> str:
    console = Console(width=80, file=io.StringIO(), color_system=None, legacy_windows=False)
    with console.capture() as capture:
        console.print(terminal_table([comparison], wide=wide))
    return " ".join(capture.get().split())


def test_the_sentence_calls_the_difference_an_artifact() -> None:
    (verdict,) = compared().verdicts
    assert verdict.engines == ("fast", "direct")
    assert sentence(verdict).endswith(f"; {ARTIFACT}")
    (same,) = compared("fast").verdicts
    assert same.engines == ()
    assert sentence(same).endswith("; an epoch takes 1.00x as long.")


def test_the_interval_comes_before_the_artifact() -> None:
    seeds = (0, 1)
    other = on_engine(make_run("modified", "M", run_id="b", seeds=seeds), "plain")
    (verdict,) = compare([make_run(seeds=seeds), other]).verdicts
    assert sentence(verdict).endswith(
        "an epoch takes 1.00x as long (1.00x to 1.00x), an artifact of the engines: plain,"
        " baseline fast."
    )


def test_an_unknown_engine_is_no_other_engine() -> None:
    comparison = compare([make_run(), with_record(make_run("modified", "M"), engine=None)])
    assert comparison.verdicts[0].engines == ()
    assert "engine" not in " ".join(warning.text for warning in comparison.warnings)


def test_terminal_tables_name_the_engines() -> None:
    narrow, wide = (terminal(compared(), wide=wide) for wide in (False, True))
    assert ARTIFACT in narrow
    assert ARTIFACT in wide
    assert "Warning: timings are not comparable (different engines" in narrow
    assert "Engine: algorithms of convolutions and pooling, which affect time and" in wide


def test_equal_engines_are_a_note() -> None:
    device = next(note for note in notes(compared("fast"), wide=True) if "Device" in note)
    assert device.endswith(" Engine: fast.")
    assert " Engine:" not in next(n for n in notes(compared(), wide=True) if "Device" in n)
    assert "| Engine" not in markdown([compared("fast")], wide=True)


def test_markdown_says_it() -> None:
    text = markdown([compared()], wide=True)
    header, _, *rows = [line.split("|") for line in text.splitlines()[:6]]
    assert [row[-2].strip() for row in (header, *rows)] == ["Engine", *ENGINES]
    assert ARTIFACT in text
    assert "different engines" in text


def test_html_says_it() -> None:
    text = table_page([compared()])
    assert ARTIFACT in text
    assert WARNING in re.sub("<[^>]*>", "", text)


def test_latex_says_it_in_comments() -> None:
    comments = [line for line in latex([compared()]).splitlines() if line.startswith("% ")]
    assert any(line.endswith(ARTIFACT) for line in comments)
    assert f"% Warning: {WARNING}" in comments


def test_files_have_the_engine_of_each_row() -> None:
    (found,) = json.loads(json_text([compared()]))["comparisons"]
    assert [row["engine"] for row in found["rows"]] == ENGINES
    assert found["verdicts"][0]["engines"] == ["fast", "direct"]
    assert found["verdicts"][0]["sentence"].endswith(ARTIFACT)
    assert WARNING in found["warnings"]
    header, *lines = csv_text([compared()]).splitlines()
    place = header.split(",").index("engine")
    assert [line.split(",")[place] for line in lines] == ENGINES


def test_the_environment_of_a_page_names_it() -> None:
    run = make_run()
    assert run.record.engine is not None
    chosen = dataclasses.replace(run.record.engine, chosen="measured", load=0.7)
    grid = environment_grid([("A", run), ("B", with_record(run, engine=chosen))])
    assert ("Engine", "fast (requested: auto)", BUSY) in grid.rows


BUSY = (
    "fast (requested: auto; measured on a busy machine: fast 0.0625 s, direct 0.125 s,"
    " plain 0.500 s a step)"
)


def test_side_by_side_no_time_is_better() -> None:
    times = next(row for row in side_by_side(compared()) if row.name == "Time per epoch")
    assert [cell.tone for cell in times.cells] == ["", ""]
    engines = next(row for row in side_by_side(compared()) if row.name == "Engine")
    assert [cell.text for cell in engines.cells] == ["fast", "direct"]


def test_a_threshold_of_time_says_it() -> None:
    (verdict,) = compared().verdicts
    found = check_threshold(Threshold("train_s", 1, Effect(0.1, "relative"), "slow"), verdict)
    assert found.text.endswith(", an artifact of the engines: direct, baseline fast")
