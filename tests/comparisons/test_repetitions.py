"""Repeated runs with different results, and the explanations given."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cnnbench.cli.app import app
from cnnbench.comparisons.comparison import compare
from cnnbench.comparisons.repetitions import repeats
from cnnbench.report import csv_json
from cnnbench.report.comparison import doubts, markdown
from cnnbench.runs.records import RunResult
from tests.support.samples import make_run, on_device, save, with_record

SETTINGS = {"jax_enable_x64": "false"}
NAMES = "Standard CNN #1 and Standard CNN #2"
FLAGS = "--xla_cpu_enable_fast_math=true"
Change = Callable[[RunResult], RunResult]


def pair(change: Change = lambda run: run, start: float = 0.93) -> tuple[RunResult, RunResult]:
    """Two runs of one experiment with different results."""
    first = on_device(make_run(seeds=(0, 1)), settings=SETTINGS)
    second = make_run(seeds=(0, 1), start=start, run_id="20251124T063012Z-c3d4")
    return first, change(on_device(second, settings=SETTINGS))


def engine(**changes: object) -> Change:
    def apply(run: RunResult) -> RunResult:
        assert run.record.engine is not None
        return with_record(run, engine=dataclasses.replace(run.record.engine, **changes))  # type: ignore[arg-type]

    return apply


REASONS: dict[str, tuple[Change, str]] = {
    "nothing": (
        lambda run: run,
        "nothing in their records explains it: engine, device, versions and settings are the"
        " same; check for a damaged run with cnnbench check",
    ),
    "variable": (
        lambda run: on_device(run, settings=SETTINGS | {"XLA_FLAGS": FLAGS}),
        f"they differ in XLA_FLAGS (not set; {FLAGS})",
    ),
    "a variable that nothing reads": (
        lambda run: on_device(run, settings=SETTINGS | {"JAX_CACHE_DIR": "x", "FLAX_NOPE": "1"}),
        "nothing in their records explains it: engine, device, versions and settings are the"
        " same except for FLAX_NOPE and JAX_CACHE_DIR, which JAX does not read; check for a"
        " damaged run with cnnbench check",
    ),
    "one of two variables": (
        lambda run: on_device(run, settings=SETTINGS | {"JAX_CACHE_DIR": "x", "XLA_FLAGS": FLAGS}),
        f"they differ in XLA_FLAGS (not set; {FLAGS})",
    ),
    "pin": (
        lambda run: on_device(run, settings={"jax_enable_x64": "true"}),
        "they differ in jax_enable_x64 (false; true)",
    ),
    "older": (
        lambda run: on_device(run, settings=None),
        "they differ in possibly JAX settings (one run is from a version that did not record them)",
    ),
    "engine": (
        engine(form="direct", row=None),
        "they differ in engine (fast; direct) and micro-batch size (25; None)",
    ),
    "machine": (
        lambda run: on_device(run, jax="0.12.0", num_devices=4),
        "they differ in num devices (1; 4) and jax (0.10.2; 0.12.0)",
    ),
    "resumed": (
        lambda run: with_record(run, resumed_with=({}, {"jax": "0.11.0", "num_devices": "4"})),
        "they differ in the resumed part (20251124T063012Z-c3d4 was resumed with jax 0.11.0"
        " and num_devices 4)",
    ),
    "commit": (
        lambda run: on_device(run, dirty=True),
        "the only recorded difference is the git commit, 0123456789ab and 0123456789ab with"
        " local changes",
    ),
}


@pytest.mark.parametrize("reason", REASONS)
def test_different_results_are_explained(reason: str) -> None:
    change, why = REASONS[reason]
    comparison = compare(pair(change))
    assert comparison.contradictions == (
        f"{NAMES} are the same experiment with the same seeds, but their results differ (validation"
        f" accuracy of seed 0: 97.00% and 99.00%): {why}.",
    )
    assert not [text for text in comparison.remarks if text.startswith("A/A")]


def test_equal_results_measure_the_noise() -> None:
    comparison = compare(pair(start=0.91))
    assert comparison.contradictions == ()
    assert [text for text in comparison.remarks if text.startswith(f"A/A: {NAMES} are the same")]


def test_a_loss_that_differs_in_its_last_digit_is_found() -> None:
    def nudged(run: RunResult) -> RunResult:
        epochs = list(run.epochs)
        epochs[4] = dataclasses.replace(epochs[4], train_loss=epochs[4].train_loss + 1e-16)
        return dataclasses.replace(run, epochs=tuple(epochs))

    (text,) = compare(pair(nudged, start=0.91)).contradictions
    assert "(training loss of seed 1 after epoch 2: 0.25 and 0.2500000000000001)" in text


def test_differing_test_metrics_are_found() -> None:
    def other(run: RunResult) -> RunResult:
        assert run.summary is not None
        seeds = [dataclasses.replace(seed, test={"accuracy": 0.5, "loss": 1.0})
                 for seed in run.summary.seeds]  # fmt: skip
        return dataclasses.replace(
            run, summary=dataclasses.replace(run.summary, seeds=tuple(seeds))
        )

    (text,) = compare(pair(other, start=0.91)).contradictions
    assert "(test accuracy of seed 0: 98.00% and 50.00%)" in text


def test_seeds_in_common_are_enough() -> None:
    first, _ = pair()
    second = make_run(seeds=(1, 2), start=0.93, run_id="20251124T063012Z-c3d4")
    (text,) = compare([first, on_device(second, settings=SETTINGS)]).contradictions
    assert text.startswith(
        f"{NAMES} are the same experiment with common seed 1, but their results differ"
        " (validation accuracy of seed 1: 97.05% and 99.05%): nothing"
    )
    assert not repeats(first.record, make_run(seeds=(5,)).record)
    assert not repeats(first.record, first.record)
    assert not repeats(first.record, make_run("modified", seeds=(0, 1)).record)


def test_contradictions_are_reported_first() -> None:
    comparison = compare(pair())
    (text,) = comparison.contradictions
    assert doubts(comparison)[0] == text
    assert markdown([comparison], wide=False).startswith(text)
    assert text in csv_json.json_text([comparison])


def test_compare_prints_it_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    for run in pair():
        save(run, Path("results"))
    done = CliRunner().invoke(app, ["compare", "standard", "standard"], catch_exceptions=False)
    assert done.exit_code == 0
    assert done.stdout.startswith(f"{NAMES} are the same experiment with the same seeds,\nbut")
    page = CliRunner().invoke(app, ["compare", "standard", "standard", "--format", "html"]).stdout
    assert page.index("<b>different results</b>") < page.index("<b>too few seeds</b>")
