"""Files that are parsed block by block have the data of files that are parsed as a whole."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnbench.errors import SpecError
from cnnbench.runs.index import blocks
from cnnbench.runs.index.blocks import read_plain
from cnnbench.spec.document import dump_document, parse_document, read_document
from tests.support.many_runs import NAMES, resolved

words = st.sampled_from(
    ["a", "b", "null", "true", "12", "no", "x: y", "*a", "|", "é\u2028", "1e-3"]
)
values: st.SearchStrategy[Any] = st.recursive(
    st.one_of(words, st.integers(-9, 9), st.none(), st.booleans(), st.text(max_size=9)),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)
lines = st.sampled_from(
    [
        *(
            "a:",
            "a: 1",
            "b: 'x",
            "  b: y'",
            "  c: ''",
            "  a: |",
            "    b: 1",
            "  - a",
            "- a",
            "",
            "# a",
        ),
        *(
            "  b: &x 1",
            "c: *x",
            "  c: *x",
            "  b:",
            "    c: >-",
            "      d",
            "\ta: 1",
            "a: [1,",
            "b: 2]",
        ),
        *("<<: {a: 1}", "null: 1", "---", 'c: "x\\', "  word", "a: 1\r", "? a", "  b: 010"),
    ]
)


def whole(text: str) -> Any:
    try:
        return parse_document(text.encode(errors="replace"), "").data
    except SpecError:
        return SpecError


def by_blocks(path: Path, text: str) -> Any:
    path.write_bytes(text.encode(errors="replace"))
    try:
        return read_plain(path)
    except SpecError:
        return SpecError


@settings(max_examples=40)
@given(st.dictionaries(words, values, max_size=4))
def test_written_files_have_the_same_data(
    tmp_path_factory: pytest.TempPathFactory, data: dict[str, Any]
) -> None:
    text = dump_document(data)
    assert by_blocks(tmp_path_factory.getbasetemp() / "a.yaml", text) == whole(text)


@given(st.lists(lines, max_size=7))
def test_any_lines_have_the_same_data_or_error(
    tmp_path_factory: pytest.TempPathFactory, chosen: list[str]
) -> None:
    text = "\n".join([*chosen, ""])
    assert by_blocks(tmp_path_factory.getbasetemp() / "b.yaml", text) == whole(text)


@pytest.mark.parametrize("name", NAMES)
def test_resolved_experiments_are_blocks(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "resolved.yaml"
    path.write_text(resolved(name))
    expected = read_document(path).data
    monkeypatch.setattr(blocks, "read_document", None)
    assert read_plain(path) == expected


def test_equal_blocks_are_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks._block.cache_clear()
    parsed: list[bytes] = []

    def parse(text: bytes, path: str) -> Any:
        parsed.append(text)
        return parse_document(text, path)

    monkeypatch.setattr(blocks, "parse_document", parse)
    for rate in ("0.1", "0.2"):
        blocks.plain(resolved("standard").replace("learning_rate: 0.01", f"learning_rate: {rate}"))
        last, parsed = parsed, []
    assert last == [b"learning_rate: 0.2\n"]
