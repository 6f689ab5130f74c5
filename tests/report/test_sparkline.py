"""Curves in a few characters."""

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnbench.report.sparkline import ASCII, BLOCKS, sparkline
from cnnbench.runs.folder import read_run_entry
from tests.support.samples import make_run, save, with_record

RISE = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]


@pytest.mark.parametrize(
    ("values", "curve"),
    [
        (RISE, "▁▂▃▄▅▆▇█"),
        ([*reversed(RISE)], "█▇▆▅▄▃▂▁"),
        ([n / 2 for n in range(16)], "▁▂▃▄▅▆▇█"),  # two a bin
        ([0.0, 7.0], "▁█"),
        ([3.0, 3.0, 3.0], "▅▅▅"),
        ([0.0, math.nan, 7.0], "▁ █"),
        ([math.nan, math.nan], "  "),
        ([0.0, math.inf, 7.0], "▁ █"),
        ([], "–"),  # noqa: RUF001
        ([0.5], "–"),  # noqa: RUF001
    ],
)
def test_curves(values: Sequence[float], curve: str) -> None:
    assert sparkline(values) == curve


@pytest.mark.parametrize("encoding", ["ascii", "iso-8859-1", "cp1252"])
def test_without_utf8_it_is_ascii(encoding: str) -> None:
    assert sparkline(RISE, encoding) == ASCII
    assert sparkline(RISE, encoding).isascii()
    assert sparkline([1.0], encoding) == "-"


@pytest.mark.parametrize("encoding", ["utf-8", "UTF-8", "utf8", "utf_8"])
def test_all_names_of_utf8(encoding: str) -> None:
    assert sparkline(RISE, encoding) == BLOCKS


@given(st.lists(st.floats(-1e300, 1e300), min_size=2, max_size=50))
def test_a_curve_never_fails_and_never_grows(values: list[float]) -> None:
    curve = sparkline(values)
    assert len(curve) == min(8, len(values))
    assert set(curve) <= set(BLOCKS)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=8))
def test_higher_values_never_look_lower(values: list[float]) -> None:
    places = [BLOCKS.index(c) for c in sparkline(values)]
    assert all(
        places[i] <= places[j]
        for i in range(len(values))
        for j in range(len(values))
        if values[i] <= values[j]
    )


def test_the_curve_of_a_run_is_the_mean_over_its_seeds(tmp_path) -> None:
    path = save(make_run(seeds=(0, 2)), tmp_path)
    assert read_run_entry(path).curve == pytest.approx((0.9305, 0.9505, 0.9705))


def test_an_unfinished_run_has_the_curve_so_far(tmp_path) -> None:
    path = save(with_record(make_run()), tmp_path)
    (path / "summary.json").unlink()
    lines = (path / "epochs.jsonl").read_text().splitlines(keepends=True)
    (path / "epochs.jsonl").write_text("".join(lines[:2]) + lines[2][:20])
    assert read_run_entry(path).curve == pytest.approx((0.93, 0.95))


def test_a_damaged_run_has_none(tmp_path) -> None:
    path = save(make_run(), tmp_path)
    (path / "epochs.jsonl").write_text("nothing\n")
    assert read_run_entry(path).curve == ()
