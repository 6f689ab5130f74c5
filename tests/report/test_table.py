"""Tables in terminals of any width: every word whole, no line too long, nothing left out."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich import box
from rich.console import RenderableType
from rich.table import Table

from cnnbench.formatting import clean
from cnnbench.report import comparison, run_list
from cnnbench.report import table as table_module
from cnnbench.report.layer_table import layer_table
from cnnbench.report.table import WrappedTable
from cnnbench.spec.loader import load_experiment
from tests.report.test_columns import three
from tests.report.test_comparison import CURVES, ENTRIES, shown
from tests.support.paths import EXPERIMENTS

TITLES = st.text("abc ", min_size=1, max_size=14).map(clean)  # as all tables have them
NAMES = st.lists(TITLES, min_size=1, max_size=4)


def folded(names: list[str], columns: int, *, edge: bool) -> WrappedTable:
    """A name and numbers that tell their places."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=edge, collapse_padding=True)
    table.add_column("Name")
    for column in range(columns):
        table.add_column(f"H{column}", justify="right", no_wrap=True)
    for row, name in enumerate(names):
        table.add_row(name, *(f"{row}.{column:03}" for column in range(columns)))
    return WrappedTable(table)


@settings(deadline=None)
@given(NAMES, st.integers(1, 12), st.integers(30, 90), st.booleans())
def test_every_cell_is_whole_and_no_line_is_too_long(
    names: list[str], columns: int, width: int, edge: bool
) -> None:
    text = shown(folded(names, columns, edge=edge), width)
    assert max(map(len, text.splitlines())) <= width
    assert sorted(re.findall(r"\d\.\d{3}", text)) == sorted(
        f"{row}.{column:03}" for row in range(len(names)) for column in range(columns)
    )
    parts = text.count("Name")
    words = [word for name in names for word in name.split()]
    assert sorted(re.findall(r"\b[abc]+\b", text)) == sorted(words * parts)
    order = [int(header) for header in re.findall(r"H(\d+)", text)]
    assert order == list(range(columns))


def test_what_fits_stays_one_table() -> None:
    text = shown(folded(["abc abc"], 3, edge=False), 30)
    assert text == (
        "Name        H0     H1     H2\n────────────────────────────\nabc abc  0.000  0.001  0.002\n"
    )
    assert shown(folded(["abc abc"], 3, edge=False), 27).count("Name") == 2  # the name is whole
    long = " ".join(["abc"] * 6)  # 23 characters
    assert shown(folded([long], 3, edge=False), 27).count("Name") == 1  # the name wraps


def test_a_word_that_is_longer_than_half_a_line_is_broken() -> None:
    text = shown(folded(["a" * 70], 1, edge=False), 40)
    assert max(map(len, text.splitlines())) <= 40
    assert text.count("a") == 70 + 1  # and the header's


@pytest.mark.parametrize("width", [40, 50, 60, 70, 80, 100])
def test_names_are_whole_in_every_table(width: int) -> None:
    plan = load_experiment(EXPERIMENTS / "modified.yaml").plan
    assert plan is not None
    tables: dict[str, RenderableType] = {
        "compare": comparison.terminal_table([three(target="0.97")], wide=True),
        "list": run_list.list_table(ENTRIES, CURVES, "utf-8"),
        "layers": layer_table(plan, "Modified"),
    }
    words = {
        "compare": ["Standard", "Modified", "Older", "1.98 ms", "3,072 MiB", "> 20.40 s, 0/2"],
        "list": ["autoencoder", "mnist_5k", "20251123T063012Z-a1b2", "interrupted"],
        "layers": ["flat1a", "max_pool", "24x24x32", "1,638,400", "3,390,912"],
    }
    for name, table in tables.items():
        lines = shown(table, width).splitlines()
        assert max(map(len, lines)) <= width
        for word in words[name]:
            assert any(word in line for line in lines), (name, word)
        if width >= 80:
            assert sum(line.split()[:1] in (["Layer"], ["Run"]) for line in lines) <= 1


@pytest.mark.parametrize("width", [40, 60, 80, 100])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_long_list_looks_as_rich_draws_it(
    width: int, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = shown(run_list.list_table(ENTRIES, CURVES, encoding), width)
    monkeypatch.setattr(table_module, "LONG", 0)
    quick = shown(run_list.list_table(ENTRIES, CURVES, encoding), width)
    assert [line.rstrip() for line in quick.splitlines()] == [
        line.rstrip() for line in drawn.splitlines()
    ]
