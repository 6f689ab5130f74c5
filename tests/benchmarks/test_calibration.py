"""The simulations of docs/explanation/statistics.md: every table, and rates that must hold."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from benchmarks.calibration import SECTIONS, __main__, measured, tables
from benchmarks.calibration.means import METHODS, WORLDS, World
from benchmarks.calibration.tables import ALPHA, PAGE, SIMULATIONS, rate, rendered
from tests.support.samples import make_run

FEW = 4  # simulations
EXACT = ("correlations", "spreads")  # made of measured values: nothing is simulated
QUICK = (
    "one-seed",
    "floor",
    "overlap",
    "several-runs",
    "over",
    "improvement",
)  # less than a minute each
_RATE = re.compile(r"([\d.]+)% \(([\d.]+) to ([\d.]+)\)")


@pytest.fixture(autouse=True)
def figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tables, "FIGURES", tmp_path)
    return tmp_path


def shown(name: str) -> str:
    """What the page shows for a name."""
    found = re.search(
        rf"<!-- calibration: {name} -->\n\n(.*?)\n\n<!-- end -->", PAGE.read_text(), re.DOTALL
    )
    assert found
    return found[1]


def cells(text: str) -> list[list[str]]:
    """The cells of a Markdown table, without its rule."""
    head, _, *rows = text.partition("\n\n")[0].splitlines()
    return [row.strip("| ").split(" | ") for row in (head, *rows)]


def alike(one: str, other: str) -> Iterator[tuple[float, float, int]]:
    """Rates at the same place of two cells, in percent, with the number of simulations."""
    for first, second in zip(_RATE.finditer(one), _RATE.finditer(other), strict=True):
        yield float(first[1]), float(second[1]), FEW


@pytest.mark.parametrize("name", SECTIONS)
def test_the_page_has_the_table_that_the_command_writes(name: str, figures: Path) -> None:
    """With a few simulations: the same rows and columns, and rates that can be the same."""
    text = SECTIONS[name](FEW)
    made, page = cells(text), cells(shown(name))
    assert made[0] == page[0]
    assert [len(row) for row in made] == [len(row) for row in page]
    assert [row[0] for row in made] == [row[0] for row in page]
    for own, other in zip(made[1:], page[1:], strict=True):
        for one, two in zip(own, other, strict=True):
            assert _RATE.sub("", one).count("cannot") == _RATE.sub("", two).count("cannot")
            for few, many, number in alike(one, two):
                count = round(few * number / 100)
                chance = min(max(many / 100, 0.5 / SIMULATIONS), 1 - 0.5 / SIMULATIONS)
                assert stats.binomtest(count, number, chance).pvalue > 1e-4, (name, own, other)
    drawn = re.findall(r"\]\(\.\./images/(.*?)\)", text)
    assert [path.name for path in figures.iterdir()] == drawn
    assert re.findall(r"\]\(\.\./images/(.*?)\)", shown(name)) == drawn
    if name in EXACT:
        assert text == shown(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_the_page_has_the_numbers_that_the_command_writes(name: str) -> None:
    assert SECTIONS[name](SIMULATIONS) == shown(name)


def test_the_page_shows_every_table_and_no_other_simulation() -> None:
    page = PAGE.read_text()
    assert sorted(re.findall(r"<!-- calibration: ([\w-]+) -->", page)) == sorted(SECTIONS)
    for name in re.findall(r"\]\(\.\./images/(.*?\.svg)\)", page):
        assert (PAGE.parents[1] / "images" / name).exists()
    rest = re.sub(r"<!-- calibration: .*?<!-- end -->", "", page, flags=re.DOTALL)
    tables_of_numbers = re.findall(r"^\|[^\n]*\d%[^\n]*\|$", rest, re.MULTILINE)
    assert not [row for row in tables_of_numbers if _RATE.search(row)]


def test_the_command_writes_the_named_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- calibration: one-seed -->\nold\n<!-- end -->\n")
    monkeypatch.setattr(__main__, "PAGE", page)
    monkeypatch.setattr("sys.argv", ["calibration", "one-seed", "--simulations", "3"])
    __main__.main()
    text = SECTIONS["one-seed"](3)
    assert page.read_text() == f"<!-- calibration: one-seed -->\n\n{text}\n\n<!-- end -->\n"
    monkeypatch.setattr("sys.argv", ["calibration", "ones"])
    with pytest.raises(SystemExit):
        __main__.main()
    assert "no table named ones; known: false-alarms, " in capsys.readouterr().err


def test_only_the_table_of_a_name_is_replaced() -> None:
    page = PAGE.read_text()
    for name in SECTIONS:
        assert rendered(page, name, shown(name)) == page
        assert rendered(page, name, "new") != page


def test_measured_values_are_those_of_the_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the seeds with all epochs."""
    run = make_run("one", "One", seeds=(0, 1, 2))
    last = max(epoch.epoch for epoch in run.epochs)
    epochs = [e for e in run.epochs if (e.seed, e.epoch) != (2, last)]
    monkeypatch.setattr(measured, "read_run", lambda _: replace(run, epochs=tuple(epochs)))
    measured.write_measured(tmp_path / "values.csv", [tmp_path])
    found = measured.measured(tmp_path / "values.csv")
    assert {(name, metric) for name, _, metric in found} == {("one", "accuracy"), ("one", "loss")}
    for (_, epoch, metric), values in found.items():
        own = [e.validation(metric) for e in epochs if e.epoch == epoch and e.seed < 2]
        assert values == pytest.approx(own, rel=1e-5)


def test_rates_have_wilsons_interval() -> None:
    assert rate(0, 2000) == "0.0% (0.0 to 0.2)"
    assert rate(1900, 2000) == "95.0% (94.0 to 95.9)"


@pytest.mark.slow
@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.name)
@pytest.mark.parametrize("number", [4, 6, 8])
def test_permutation_tests_keep_alpha_and_their_intervals_cover(world: World, number: int) -> None:
    """With unequal spreads or skewed values the tests are approximate: 1.5 points are allowed."""
    rng = np.random.default_rng(number)
    samples = [world.draw(rng, number) for _ in range(2000)]
    for method in METHODS[:2]:
        if number < method.least:
            continue
        found = [method.evidence(*pair) for pair in samples]
        alarms = sum(p <= ALPHA * (1 + 1e-9) for p, _ in found)
        covered = sum(end is not None and end.low <= 0 <= end.high for _, end in found)
        assert covered == 2000 - alarms
        assert alarms / 2000 <= ALPHA + 0.015 + 3 * (0.05 * 0.95 / 2000) ** 0.5
