"""The simulations of docs/explanation/statistics.md: every table, and rates that must hold."""

import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks import calibration
from benchmarks.calibration import ALPHA, METHODS, PAGE, SECTIONS, WORLDS, rate, rendered


@pytest.fixture(autouse=True)
def figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(calibration, "FIGURES", tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", SECTIONS)
def test_every_table_can_be_made(name: str, figures: Path) -> None:
    text = SECTIONS[name](1)
    header, rule, *rows = text.partition("\n\n")[0].splitlines()
    assert rule.count("|") == header.count("|")
    assert rows
    assert {row.count("|") for row in rows} == {header.count("|")}
    shown = re.findall(r"\]\(\.\./images/(.*?)\)", text)
    assert [path.name for path in figures.iterdir()] == shown


def test_the_page_shows_every_table() -> None:
    page = PAGE.read_text()
    assert sorted(re.findall(r"<!-- calibration: ([\w-]+) -->", page)) == sorted(SECTIONS)
    for name in SECTIONS:
        assert rendered(page, name, "new") != page
    for name in re.findall(r"\]\(\.\./images/(.*?\.svg)\)", page):
        assert (PAGE.parents[1] / "images" / name).exists()


def test_tables_of_measured_values_are_up_to_date() -> None:
    page = PAGE.read_text()
    for name in ("correlations", "spreads"):
        assert rendered(page, name, SECTIONS[name](0)) == page


def test_rates_have_wilsons_interval() -> None:
    assert rate(0, 2000) == "0.0% (0.0 to 0.2)"
    assert rate(1900, 2000) == "95.0% (94.0 to 95.9)"


@pytest.mark.slow
@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.name)
@pytest.mark.parametrize("number", [4, 6, 8])
def test_permutation_tests_keep_alpha_and_their_intervals_cover(
    world: calibration.World, number: int
) -> None:
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
