"""Values of a sweep: Hydra's commas and functions, ranges, and every message."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnbench.errors import UsageError
from cnnbench.spec.sweeps import Choices, Range, parse_values, split_values

KEY = "train.epochs"


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1,2", ("1", "2")),
        (" 1 , 2 ", ("1", "2")),
        ("3,[3,5],7", ("3", "[3,5]", "7")),
        ("'a,b',c", ("'a,b'", "c")),
        ('{a: "x,y"},null', ('{a: "x,y"}', "null")),
        ("it's,its", ("it's", "its")),
        ("choice(1,[2,3])", ("1", "[2,3]")),
        ("choice(1)", ("1",)),
        ("range(3)", ("0", "1", "2")),
        ("range(2,5)", ("2", "3", "4")),
        ("range(1,10,4)", ("1", "5", "9")),
        ("range(1,0,-0.25)", ("1", "0.75", "0.5", "0.25")),
        ("range(0.1,0.4,0.1)", ("0.1", "0.2", "0.3")),
    ],
)
def test_values(text, values):
    assert parse_values(KEY, text) == Choices(values)


@pytest.mark.parametrize("text", ["1", "[1,2]", "{a: 1, b: 2}", "'1,2'", "f(1)", "", "(1,2)"])
def test_a_single_value_is_no_sweep(text):
    assert parse_values(KEY, text) is None


def test_a_title_may_have_commas():
    assert parse_values("title", "small, fast") is None


def test_ranges():
    assert parse_values(KEY, "log(1e-3..0.1)") == Range(0.001, 0.1, True, "log(1e-3..0.1)")
    assert parse_values(KEY, " uniform(-1 .. 2) ") == Range(-1, 2, False, "uniform(-1 .. 2)")


MESSAGES = {
    "1,,2": "a value is missing in '1,,2'; write, for example, train.epochs=1,2, or null for no"
    " value.",
    "1,": "a value is missing in '1,'; write, for example, train.epochs=1,2, or null for no value.",
    "1,1.0": "1.0 is given twice; remove one of them.",
    "choice(a,A)": "A is given twice; remove one of them.",
    "range(1,2,0)": "range(1,2,0) has no values; write another start, stop or step.",
    "range(5,1)": "range(5,1) has no values; write another start, stop or step.",
    "range(1e9)": "range(1e9) has 1,000,000,000 values; at most 1,000; write another start, stop or"
    " step.",
    "range(a,b)": "'range(a,b)' is not range(START,STOP,STEP) in numbers; write, for example,"
    " range(1,10,2), which ends before 10.",
    "log(0.1)": "'log(0.1)' is not log(LOW..HIGH) in numbers; write, for example, log(0.001..0.1).",
    "log(0.1,1)": "'log(0.1,1)' is not log(LOW..HIGH) in numbers; write, for example,"
    " log(0.001..0.1).",
    "log(0..1)": "log(0..1) has an end that is not positive, and no logarithm; write a positive low"
    " end, or uniform(0..1).",
    "uniform(2..1)": "in uniform(2..1) the low end is not below the high end; write, for example,"
    " uniform(0.001..0.1).",
    "1,log(1..2)": "log(1..2) stands among other values; write either values or a function.",
    "interval(0,1)": "interval(..) is not a function of sweeps; write uniform(0.1..0.5).",
    "loguniform(0.01,0.1)": "loguniform(..) is not a function of sweeps; write log(0.01..0.1).",
    "0.01..0.1": "0.01..0.1 does not say how to draw from it; write log(0.01..0.1) or"
    " uniform(0.01..0.1).",
    "-1..1": "-1..1 does not say how to draw from it; write uniform(-1..1).",
    "unifrom(0..1)": "unknown function 'unifrom' (did you mean 'uniform'?); write choice(..),"
    " range(..), log(..) or uniform(..).",
}


@pytest.mark.parametrize("text", MESSAGES)
def test_messages(text):
    with pytest.raises(UsageError) as error:
        parse_values(KEY, text)
    assert str(error.value) == f"{KEY}: {MESSAGES[text]}"


@given(st.lists(st.sampled_from(["1", "[1,2]", "'a,b'", "{x: 1, y: [2,3]}", "adam"])))
def test_splitting_is_the_inverse_of_joining(parts):
    assert split_values(",".join(parts)) == (parts or [""])


@given(st.floats(1e-6, 1e6), st.floats(1.001, 1e6), st.floats(0, 1), st.booleans())
def test_values_lie_in_the_range(low, factor, share, log):
    found = float(Range(low, low * factor, log, "").at(share, whole=False))
    assert low * (1 - 1e-3) <= found <= low * factor * (1 + 1e-3)


def test_every_integer_of_a_linear_range_has_an_equal_share():
    shares = [(i + 0.5) / 3000 for i in range(3000)]
    found = [Range(1, 3, False, "").at(share, whole=True) for share in shares]
    assert [found.count(str(n)) for n in (1, 2, 3)] == [1000, 1000, 1000]


def test_the_middle_of_a_logarithmic_range_is_the_geometric_mean():
    assert float(Range(2, 8, True, "").at(0.5, whole=False)) == math.sqrt(2 * 8)
    found = {Range(1, 64, True, "").at(i / 999, whole=True) for i in range(1000)}
    assert {"1", "2", "64"} <= found
    assert all(1 <= int(n) <= 64 for n in found)
