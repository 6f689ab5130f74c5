import pytest

from cnnbench import errors
from cnnbench.errors import (
    CnnbenchError,
    Diagnostic,
    Location,
    SpecError,
    did_you_mean,
    nearest,
    or_list,
    quoted,
)


def problem(path: str, line: int | None, column: int | None, where: str = "") -> Diagnostic:
    return Diagnostic(Location(path, line, column), where, "is wrong", "write it right")


def test_spec_error_lists_problems_in_file_order() -> None:
    error = SpecError(
        [
            problem("b.yaml", 2, 9),
            problem("b.yaml", 10, 1, "train"),
            problem("b.yaml", 2, 1),
            problem("b.yaml", None, None),
            problem("a.yaml", 7, 7),
        ]
    )
    assert str(error).splitlines() == [
        "a.yaml:7:7: is wrong; write it right.",
        "b.yaml: is wrong; write it right.",
        "b.yaml:2:1: is wrong; write it right.",
        "b.yaml:2:9: is wrong; write it right.",
        "b.yaml:10:1: train: is wrong; write it right.",
    ]
    assert [p.location.line for p in error.problems] == [7, None, 2, 2, 10]


def test_exit_codes_are_those_of_the_manual() -> None:
    codes = {kind.__name__: kind.exit_code for kind in CnnbenchError.__subclasses__()}
    assert {name: codes[name] for name in ("UsageError", "SpecError", "DataError")} == {
        "UsageError": 2,
        "SpecError": 2,
        "DataError": 1,
    }
    assert errors.StoreError.exit_code == 1
    assert errors.IncomparableError.exit_code == 4


@pytest.mark.parametrize(
    ("word", "choices", "expected"),
    [
        ("kernal", ["kernel", "stride"], "kernel"),
        ("Kernel", ["kernel", "stride"], "kernel"),
        ("maxpool", ["max_pool", "avg_pool"], "max_pool"),
        ("conv2", ["conv1", "dense1"], "conv1"),
        ("", ["kernel"], None),
        ("zebra", ["kernel", "stride"], None),
        ("kernel", [], None),
    ],
)
def test_nearest(word: str, choices: list[str], expected: str | None) -> None:
    assert nearest(word, choices) == expected
    assert did_you_mean(word, choices) == (f" (did you mean '{expected}'?)" if expected else "")


@pytest.mark.parametrize(
    ("names", "expected"),
    [(["a"], "a"), (["a", "b"], "a or b"), (["a", "b", "c"], "a, b or c")],
)
def test_listing(names: list[str], expected: str) -> None:
    assert or_list(names) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "an empty value"),
        ({}, "a mapping"),
        (False, "false"),
        (3, "3"),
        (1e-9, "1e-09"),
        (float("inf"), ".inf"),
        (float("-inf"), "-.inf"),
        (float("nan"), ".nan"),
        ("it's", '"it\'s"'),
        ("two\nlines", r"'two\nlines'"),
        ("\x1b[31mred", r"'\x1b[31mred'"),
        ([None, True, "a", {"b": 1}, [2]], "[null, true, 'a', {...}, [2]]"),
        ((1, 2), "[1, 2]"),
        ("x" * 38, "'" + "x" * 38 + "'"),
        ("x" * 39, "'" + "x" * 35 + "...'"),
        (list(range(10_000)), "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 1..."),
    ],
)
def test_shown_is_short_and_printable(value: object, expected: str) -> None:
    assert quoted(value) == expected
    assert len(expected) <= 40
