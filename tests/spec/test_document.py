"""YAML parsing: scalars of YAML 1.2, locations, limits, and errors."""

import contextlib
import errno
import json
import math
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cnnbench.errors import Location, SpecError
from cnnbench.spec.document import Document, dotted, dump_document, parse_document, read_document
from cnnbench.spec.yaml_parser import (
    MAX_BYTES,
    MAX_DEPTH,
    MAX_DIGITS,
    MAX_NODES,
    is_number,
    is_text,
    plain_scalar,
)
from tests.support.limits import in_time


def parse(text: str) -> Document:
    return parse_document(text.encode(), "a.yaml")


# YAML 1.2.2, chapter 10.3.2: the table of the core schema and its example 10.9, then the
# words that YAML 1.1 (and PyYAML) reads otherwise.
CORE_SCHEMA: list[tuple[str, Any]] = [
    ("", None),
    ("~", None),
    ("null", None),
    ("Null", None),
    ("NULL", None),
    ("nULL", "nULL"),
    ("true", True),
    ("True", True),
    ("TRUE", True),
    ("false", False),
    ("False", False),
    ("FALSE", False),
    ("tRUE", "tRUE"),
    ("0", 0),
    ("-19", -19),
    ("+12", 12),
    ("0o7", 7),
    ("0o17", 15),
    ("0x3A", 58),
    ("0xff", 255),
    ("-0o7", "-0o7"),
    ("-0x1", "-0x1"),
    ("0.", 0.0),
    ("-0.0", -0.0),
    (".5", 0.5),
    ("-.5", -0.5),
    ("+12e03", 12000.0),
    ("-2E+05", -200000.0),
    ("1e-3", 0.001),
    ("1E3", 1000.0),
    ("1.5e3", 1500.0),
    (".", "."),
    ("e3", "e3"),
    (".inf", math.inf),
    ("-.Inf", -math.inf),
    ("+.INF", math.inf),
    ("inf", "inf"),
    ("nan", "nan"),
    ("-.nan", "-.nan"),
    ("yes", "yes"),
    ("no", "no"),
    ("No", "No"),
    ("on", "on"),
    ("off", "off"),
    ("y", "y"),
    ("1_000", "1_000"),
    ("0b11", "0b11"),
    ("0o8", "0o8"),
    ("0xg", "0xg"),
    ("1:30", "1:30"),
    ("190:20:30.15", "190:20:30.15"),
    ("2001-12-14", "2001-12-14"),
    ("=", "="),
    ("\u0663", "\u0663"),  # a digit to Python's \\d, not to YAML
]


@pytest.mark.parametrize(("text", "value"), CORE_SCHEMA)
def test_plain_scalars_follow_the_core_schema(text: str, value: Any) -> None:
    found = parse(f"key: {text}\n").data["key"]
    assert (type(found), found) == (type(value), value)
    assert math.copysign(1, found) == math.copysign(1, value) if value == 0.0 else True


@pytest.mark.parametrize("text", [".nan", ".NaN", ".NAN"])
def test_not_a_number(text: str) -> None:
    assert math.isnan(parse(f"[{text}]").data[0])


@pytest.mark.parametrize(("text", "value"), CORE_SCHEMA)
def test_quoted_scalars_and_keys_are_text(text: str, value: Any) -> None:
    assert parse(f"'{text}': \"{text}\"\n").data == {text: text}
    assert list(parse(f"{{? {text} : 1}}").data) == [text]
    assert parse(f"- |-\n  {text}\n").data == [text]


@given(st.text(st.sampled_from("+-.0123456789eExXoOaAfF_nNiI~tTrRuUlLsS")))
def test_every_plain_scalar_is_a_number_or_text_or_a_word(text: str) -> None:
    value = plain_scalar(text[:MAX_DIGITS])
    assert is_text(text[:MAX_DIGITS]) == isinstance(value, str)
    assert is_number(text[:MAX_DIGITS]) == (type(value) in {int, float})


@pytest.mark.parametrize(
    ("text", "message", "value"),
    [
        (
            "010",
            "010 starts with a zero, which YAML versions interpret differently; "
            "use 10, 0o10 if it is octal, or '010' for a string.",
            10,
        ),
        (
            "00",
            "00 starts with a zero, which YAML versions interpret differently; "
            "use 0, 0o0 if it is octal, or '00' for a string.",
            0,
        ),
        (
            "-08",
            "-08 starts with a zero, which YAML versions interpret differently; "
            "use -8 or '-08' for a string.",
            -8,
        ),
        ("9" * 41, "a number with 41 characters is too long; use at most 40.", 1),
        ("0x" + "f" * 9_000, "a number with 9,002 characters is too long; use at most 40.", 1),
        ("1" * 9_000 + ".0", "a number with 9,002 characters is too long; use at most 40.", 1),
    ],
)
def test_doubtful_numbers_are_problems_that_leave_the_rest_readable(
    text: str, message: str, value: int
) -> None:
    document = parse(f"a:\n  b: {text}\nc: 3\n")
    assert document.data == {"a": {"b": value}, "c": 3}
    assert [str(problem) for problem in document.problems] == [f"a.yaml:2:6: a.b: {message}"]


def test_quoted_numbers_may_be_long() -> None:
    assert parse(f"'{'9' * 5_000}'").data == "9" * 5_000
    assert parse("'010'").data == "010"


def test_places_of_keys_and_values() -> None:
    document = parse("a: 1\nb:\n  - x\n  - {c: é, d: [2]}\n'e f':\n    g: >\n      text\n")
    place = {at: (p.line, p.column) for at, p in document.values.items()}
    assert place == {
        (): (1, 1),
        ("a",): (1, 4),
        ("b",): (3, 3),
        ("b", 0): (3, 5),
        ("b", 1): (4, 5),
        ("b", 1, "c"): (4, 9),
        ("b", 1, "d"): (4, 15),
        ("b", 1, "d", 0): (4, 16),
        ("e f",): (6, 5),
        ("e f", "g"): (6, 8),
    }
    keys = {at: (p.line, p.column) for at, p in document.keys.items()}
    assert keys == {
        ("a",): (1, 1),
        ("b",): (2, 1),
        ("b", 1, "c"): (4, 6),
        ("b", 1, "d"): (4, 12),
        ("e f",): (5, 1),
        ("e f", "g"): (6, 5),
    }


def test_alias_repeats_a_value_and_its_place() -> None:
    document = parse("a: &x {k: 3}\nb: *x\n")
    assert document.data == {"a": {"k": 3}, "b": {"k": 3}}
    assert document.values[("b", "k")] == Location("a.yaml", 1, 11)


def test_a_byte_order_mark_and_windows_line_ends_change_nothing() -> None:
    document = parse_document("\ufeffa: 1\r\nb: 2\r\n".encode(), "a.yaml")
    assert document.data == {"a": 1, "b": 2}
    assert document.keys[("b",)] == Location("a.yaml", 2, 1)


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n", "---\n", "null\n"])
def test_nothing_is_none(text: str) -> None:
    assert parse(text).data is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: @x", "1:4: a value cannot start with this character; quote it."),
        ("a: [1, 2", "1:4: unclosed bracket; close it."),
        ("a: [1\nb: 2", "2:2: the bracket on line 1 is still open; close it, or add a comma."),
        ("a: 'x", "1:4: unclosed quote; close it."),
        (
            "a:\n  - 1\n b: 2",
            "3:2: wrong indentation for the block that starts on line 1; align it with the lines"
            " around it.",
        ),
        (
            "name: x\n  task: y",
            "2:7: unexpected ':'; quote the text, or fix the indentation.",
        ),
        ("a:\n\tb: 1", "2:1: a tab where YAML allows only spaces; indent with spaces."),
        ("a: 1\n---\nb: 1", "2:1: a second document starts here; write one document per file."),
        ("a: *b", "1:4: this alias has no anchor; define the anchor first, or quote the '*'."),
        ("a: &b 1\nb: &b 2", "2:4: this anchor is defined twice; rename one of the two."),
        ("a: !int 3", "1:4: a: the tag '!int' is not allowed; write the value without a tag."),
        ("a: !!str 3", "1:4: a: the tag '!!str' is not allowed; write the value without a tag."),
        ("a: ! '3'", "1:4: the tag '!' is not allowed; write the value without a tag."),
        ("!!str a: 3", "1:1: the tag '!!str' is not allowed; write the value without a tag."),
        ("[a, b]: 3", "1:1: a key must be a single word; write 'key: value'."),
        (
            "a: &a {b: 1}\nc: {<<: *a}",
            "2:5: c: merge keys ('<<') are not part of YAML 1.2; "
            "write out the keys, or use 'extends'.",
        ),
        (
            "a: &a [*a]",
            "1:4: a.0: contains itself through an alias; write out the values without aliases.",
        ),
        ('a: "\\U00110000"', "1:7: is not valid YAML (no such character); fix the escape."),
        ("a: é\x00", "1:5: the character U+0000 is not allowed in YAML; remove it."),
        (
            '"\\q"',
            "1:3: is not valid YAML (while scanning a double-quoted scalar: found unknown escape "
            "character 'q'); check the indentation, colons, quotes and brackets here.",
        ),
        ("[" * 40, f"1:33: is nested deeper than {MAX_DEPTH} levels; flatten it."),
    ],
)
def test_text_that_cannot_be_read(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=re.escape(message)) as caught:
        parse(text)
    assert str(caught.value) == f"a.yaml:{message}"


def test_all_invalid_values_are_reported_together() -> None:
    with pytest.raises(SpecError) as caught:
        parse("a: !x 1\na: 2\nb: 010\n<<: {}\n")
    assert [(p.location.line, p.where) for p in caught.value.problems] == [
        (1, "a"),
        (2, "a"),
        (3, "b"),
        (4, ""),
    ]


def test_every_duplicate_key_is_reported_and_the_first_value_kept() -> None:
    document = parse("a: 1\nb: {c: 1, c: 2}\n'a': 3\n")
    assert document.data == {"a": 1, "b": {"c": 1}}
    assert [str(problem) for problem in document.problems] == [
        "a.yaml:2:11: b.c: duplicate key 'c' (first defined on line 2); remove one.",
        "a.yaml:3:1: a: duplicate key 'a' (first defined on line 1); remove one.",
    ]


def test_half_a_character_is_refused_before_it_reaches_a_terminal() -> None:
    document = parse(r'a: "\uD83D\uDE00"')
    assert [str(problem) for problem in document.problems] == [
        r"a.yaml:1:4: a: '\ud83d\ude00' contains half a character (a lone surrogate); "
        "write the full character."
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "\n".join(
                ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
                + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
            ),
            f"expands to more than {MAX_NODES:,} values; write out the values without aliases.",
        ),
        (
            "\n".join(["a0: &a0 [x]"] + [f"a{i}: &a{i} [*a{i - 1}]" for i in range(1, 200)]),
            f"is nested deeper than {MAX_DEPTH} levels; write out the values without aliases.",
        ),
        (
            "[" + "1, " * (MAX_NODES + 1) + "]",
            f"contains more than {MAX_NODES:,} keys and values; shorten it.",
        ),
        ("[" * 100_000, f"is nested deeper than {MAX_DEPTH} levels; flatten it."),
        (
            "#" * (MAX_BYTES + 1),
            f"is too large for an experiment file; keep it below {MAX_BYTES:,}",
        ),
    ],
    ids=["billion laughs", "alias chain", "many values", "many brackets", "many bytes"],
)
def test_bombs_are_refused_quickly(text: str, message: str) -> None:
    with in_time(), pytest.raises(SpecError, match=re.escape(message)):
        parse(text)


def test_bytes_that_are_not_utf8_are_placed() -> None:
    message = "a.yaml:2:4: is not UTF-8 text; save the file as UTF-8."
    with pytest.raises(SpecError, match=re.escape(message)):
        parse_document("é: 1\nü: ".encode() + b"\xe9\n", "a.yaml")


class TestFiles:
    def test_reads_a_file_and_keeps_its_text(self, tmp_path: Path) -> None:
        path = tmp_path / "a.yaml"
        path.write_bytes(b"a: 1 # one\n")
        document = read_document(path)
        assert (document.data, document.text) == ({"a": 1}, b"a: 1 # one\n")
        assert document.values[("a",)] == Location(str(path), 1, 4)

    def test_missing_file(self, tmp_path: Path) -> None:
        path = tmp_path / "none.yaml"
        with pytest.raises(SpecError) as caught:
            read_document(path)
        assert str(caught.value) == (
            f"{path}: cannot be read: no such file or directory; check the file name."
        )

    @pytest.mark.parametrize(
        ("name", "file"),
        [
            ("standard", "experiments/standard.yaml"),
            ("experiments/standard", "experiments/standard.yaml"),
            ("standart.yml", "experiments/standard.yaml"),
            ("idae.yaml", "idea.yaml"),
        ],
    )
    def test_missing_file_that_is_almost_there(
        self, name: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        Path("experiments").mkdir()
        for path in ("experiments/standard.yaml", "experiments/modified.yaml", "idea.yaml"):
            Path(path).touch()
        with pytest.raises(SpecError) as caught:
            read_document(Path(name))
        assert str(caught.value) == (
            f"{name}: cannot be read: no such file or directory (did you mean '{file}'?); check"
            " the file name."
        )

    def test_folder(self, tmp_path: Path) -> None:
        with pytest.raises(SpecError) as caught:
            read_document(tmp_path)
        assert str(caught.value) == f"{tmp_path}: is a folder; specify a .yaml file."

    def test_unreadable_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: Any) -> None:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

        path = tmp_path / "a.yaml"
        monkeypatch.setattr(Path, "open", refuse)  # root may read any file
        with pytest.raises(SpecError) as caught:
            read_document(path)
        message = "cannot be read: permission denied; check the file name."
        assert str(caught.value) == f"{path}: {message}"

    def test_name_too_long(self, tmp_path: Path) -> None:
        path = tmp_path / ("x" * 300)
        with pytest.raises(SpecError) as caught:
            read_document(path)
        assert str(caught.value) == (
            f"{path}: cannot be read: file name too long; check the file name."
        )

    def test_endless_file_is_not_read_to_its_end(self) -> None:
        with pytest.raises(SpecError, match="is too large for an experiment file"):
            read_document(Path("/dev/zero"))


SAFE_TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
# Where YAML 1.1 and 1.2 agree: no number or word that one of them takes for text.
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False)
    | SAFE_TEXT.filter(is_text)
)
# PyYAML loses line breaks other than its own inside text.
KEYS = SAFE_TEXT.filter(lambda key: key.isprintable())
DATA = st.recursive(
    SCALARS.filter(lambda value: not isinstance(value, str) or value.isprintable()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner),
    max_leaves=12,
)


@given(DATA)
@settings(max_examples=200)
def test_reads_output_of_pyyaml(data: Any) -> None:
    """PyYAML is the oracle for everything but scalars."""
    text = yaml.safe_dump(data, allow_unicode=True)
    document = parse(text)
    assert (document.data, document.problems) == (data, ())


ANY_DATA = st.recursive(
    SCALARS | SAFE_TEXT | st.sampled_from([text for text, _ in CORE_SCHEMA]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(SAFE_TEXT, inner),
    max_leaves=12,
)


@given(ANY_DATA)
@example({"\x85": "a\x85b", "\u2028": ["\ufeff"]})
@settings(max_examples=200)
def test_dump_reads_back_as_it_was_in_yaml_1_2_and_1_1(data: Any) -> None:
    text = dump_document(data)
    document = parse(text)
    assert (document.data, document.problems) == (data, ())
    assert yaml.safe_load(text) == data


@given(ANY_DATA)
def test_every_value_has_a_place_inside_the_text(data: Any) -> None:
    text = dump_document(data)
    document = parse(text)
    lines = text.split("\n")
    for at, place in document.values.items():
        assert place.line is not None
        assert place.column is not None
        assert 1 <= place.line <= len(lines), dotted(at)
    for at in document.keys:
        assert at in document.values


# Read alike by the JavaScript library yaml 2.9.1; all but some by YAMLStar 0.1.26 and libyaml.
WITH_TABS: list[tuple[str, Any]] = [
    ("a:\t1", {"a": 1}),
    ("a: \t1", {"a": 1}),
    ("a\t:\t1", {"a": 1}),
    ("'a' \t: 1", {"a": 1}),
    ("-\t1\n-\t'x'\n- \t-1", [1, "x", -1]),
    ("-\t[1]\n-\t{a:\tb}", [[1], {"a": "b"}]),
    ("a: 1\t# c\nb: x\t#y\nc: x#y", {"a": 1, "b": "x", "c": "x#y"}),
    ("a: 'x'\t# c\nb: [1]\t# c", {"a": "x", "b": [1]}),
    ("a: 1\t\nb: 2 \t", {"a": 1, "b": 2}),
    ("a: 1\n\t# c\n \t # d\nb: 2", {"a": 1, "b": 2}),
    ("\t\na: 1\n\t\n \t\nb: 2\n\t", {"a": 1, "b": 2}),
    ("a:\t\n  b: 1", {"a": {"b": 1}}),
    ("a:\t# c\n \t\n  b: 1", {"a": {"b": 1}}),
    ("a:\n  -\t\n    b: 1", {"a": [{"b": 1}]}),
    ("a: [\t1,\t2\t]", {"a": [1, 2]}),
    ("a: {\tb:\t1\t,\tc\t: 2}", {"a": {"b": 1, "c": 2}}),
    ("a: [1,\t# c\n  \t2]", {"a": [1, 2]}),
    ("a: {\n  b: 1\n\t}", {"a": {"b": 1}}),
    ("[\n\t]", []),
    ("a: x\ty", {"a": "x\ty"}),
    ("a: x\n  \ty\nb: 1", {"a": "x y", "b": 1}),
    ("a: x\n\t\n  y", {"a": "x\ny"}),
    ('a: "x\ty"', {"a": "x\ty"}),
    ("a: |\t\n  x\nb: >-\t# c\n  x\n  y", {"a": "x\n", "b": "x y"}),
    ("a: |-\n  \tx\n  y\t", {"a": "\tx\ny\t"}),
    ("a: &x\t1\nb: *x\t", {"a": 1, "b": 1}),
    ("---\t# c\na: 1\n...\t", {"a": 1}),
]


@pytest.mark.parametrize(("text", "data"), WITH_TABS)
def test_tabs_between_the_parts_of_a_line_are_white_space(text: str, data: Any) -> None:
    for ending in ("", "\n"):
        document = parse(text + ending)
        assert (document.data, document.problems) == (data, ())


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("\ta: 1", "1:1"),
        ("a:\n\tb: 1", "2:1"),
        ("a:\n  \tb: 1", "2:3"),
        ("a:\n  b: 1\n\tc: 2", "3:1"),
        ("a:\n  b: 1\n  \tc: 2", "3:3"),
        ("a:\n\t- 1", "2:1"),
        ("a:\n\tb", "2:1"),
        ("a: x\n\ty", "2:1"),
        ("a: |\n\tx", "2:1"),
        ("-\ta: 1", "1:2"),
        ("- \ta: 1", "1:3"),
        ("-\t- 1", "1:2"),
        ("-\ta: 1\n \tb: 2", "1:2"),
        ("a:\n  - 1\n \t- 2", "3:2"),
        ("?\t- a", "1:2"),
        ("a: 1\n\t? b", "2:1"),
    ],
)
def test_tabs_are_no_indentation(text: str, place: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse(text)
    message = "a tab where YAML allows only spaces; indent with spaces."
    assert str(caught.value) == f"a.yaml:{place}: {message}"


WHITE = st.text(" \t", min_size=1, max_size=3)
ENDS = st.sampled_from(["\n", "\t\n", "\t# c\n", " \t# c: [\n", "\n\t\n", "\n \t# c\n"])
FLOW = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.text("ab \t#:,", max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", min_size=1), inner),
    max_leaves=6,
)
BLOCK = st.dictionaries(
    st.sampled_from("abc"),
    st.lists(FLOW, min_size=1, max_size=3) | st.dictionaries(st.sampled_from("abc"), FLOW) | FLOW,
    min_size=1,
)


def flow_text(data: Any, draw: Any) -> str:
    """JSON with white space of all kinds between its parts."""
    gap = st.sampled_from(["", " ", "\t", "\n   \t", " \t# c\n  ", "\n\t\n "])
    if isinstance(data, dict):
        items = [
            f"{json.dumps(k)}{draw(WHITE)}:{draw(WHITE)}{flow_text(v, draw)}"
            for k, v in data.items()
        ]
    elif isinstance(data, list):
        items = [flow_text(value, draw) for value in data]
    else:
        return json.dumps(data)
    joined = ",".join(f"{draw(gap)}{item}{draw(gap)}" for item in items)
    return f"{{{joined}}}" if isinstance(data, dict) else f"[{joined}]"


def block_text(data: dict[str, Any], draw: Any) -> str:
    lines = []
    for key, value in data.items():
        lines.append(f"{key}{draw(st.just('') | WHITE)}:")
        if isinstance(value, dict) and value:
            entries = [f"  {k}:{draw(WHITE)}{flow_text(v, draw)}" for k, v in value.items()]
        elif isinstance(value, list) and value:
            entries = [f"  -{draw(WHITE)}{flow_text(v, draw)}" for v in value]
        else:
            lines[-1] += f"{draw(WHITE)}{flow_text(value, draw)}{draw(ENDS)}"
            continue
        lines += [draw(ENDS), *(f"{entry}{draw(ENDS)}" for entry in entries)]
    return "".join(lines)


@given(BLOCK, st.data())
@settings(max_examples=200)
def test_tabs_change_nothing_wherever_white_space_may_be(data: Any, source: Any) -> None:
    """The generated text is the oracle, and so is libyaml where it treats tabs as in YAML 1.2."""
    text = block_text(data, source.draw)
    document = parse(text)
    assert (document.data, document.problems) == (data, ())
    with contextlib.suppress(yaml.YAMLError):  # it refuses some, such as a tab after '-'
        assert yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)) == data


def test_dotted_paths_stay_short_and_printable() -> None:
    assert dotted(("model", "layers", "a\nb", 0, "", "x" * 60)) == (
        r"model.layers.'a\nb'.0.''.'" + "x" * 35 + "...'"
    )
