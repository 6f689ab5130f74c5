"""Output whose encoding lacks characters: nothing fails, nothing is lost, tables stay aligned."""

import html
import io
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from cnnbench.cli.console import LegibleConsole
from cnnbench.comparisons.comparison import compare
from cnnbench.report.comparison import terminal_table
from cnnbench.report.html import table_page
from cnnbench.system.ascii_forms import (
    ERRORS,
    ascii_form,
    html_in_ascii,
    in_encoding,
    json_in_ascii,
)
from tests.support.environments import said
from tests.support.samples import make_run, save

TITLE = "5 × 5 — 中文 naïve"  # noqa: RUF001
IN_ASCII = r"5 x 5 - \u4e2d\u6587 na\xefve"
TINY = f"""\
name: tiny
title: {TITLE}
task: classify
dataset: {{name: mnist_5k, train_examples: 200}}
model: {{layers: {{flat: {{op: flatten}}, out: {{op: dense, units: 10}}}}}}
train: {{epochs: 1, batch_size: 100}}
seeds: [0, 1]
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    (tmp_path / "tiny.yaml").write_text(TINY, "utf-8")


def stored() -> None:
    for number, name in enumerate(("one", "two")):
        run_id = f"2025112{number}T063012Z-a1b2"
        save(make_run(name, f"{TITLE} {name}", seeds=(0, 1), run_id=run_id), Path("results"))


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "cp437", "shift_jis", "utf-8"])
def test_every_character_has_a_form_in_every_encoding(encoding: str) -> None:
    """Including lone surrogates, which represent undecodable bytes of file names."""
    every = "".join(map(chr, range(0x11000))) + "\U0001f642"
    every.encode(encoding, ERRORS)
    assert all(ascii_form(char).isascii() for char in every)
    assert not any(ascii_form(char) == "" for char in every)


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("98.97 ± 0.05%", "98.97 +/- 0.05%"),
        ("“quoted” ‘so’ …", "\"quoted\" 'so' ..."),  # noqa: RUF001
        ("▁▂▃▄▅▆▇█", "_.-=+*#@"),
        ("┌─┬╌╮│╰═╝┃", "+-+-+|+-+|"),
        ("a → b ≤ c", "a -> b <= c"),
        ("é中🙂", r"\xe9\u4e2d\U0001f642"),
        ("\udce9.yaml", r"\udce9.yaml"),
    ],
)
def test_symbols_have_their_usual_form_and_letters_their_escape(text: str, form: str) -> None:
    assert in_encoding(text, "ascii") == form
    assert text.encode("ascii", ERRORS).decode() == form


def test_only_unsupported_characters_are_replaced() -> None:
    assert in_encoding("5 × 5 ± 1 – é", "latin-1") == "5 × 5 ± 1 - é"  # noqa: RUF001
    assert in_encoding("5 × 5 ± 1 – é", "cp1252") == "5 × 5 ± 1 – é"  # noqa: RUF001


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_tables_are_laid_out_as_they_are_shown(encoding: str) -> None:
    """The width of `+/-` is known before columns are."""
    runs = [make_run(name, TITLE, seeds=(0, 1), run_id=name) for name in ("one", "two")]
    shown = io.BytesIO()
    console = LegibleConsole(file=io.TextIOWrapper(shown, encoding, "strict"), width=80)
    console.print(terminal_table([compare(runs)], wide=True))
    lines = shown.getvalue().decode(encoding).splitlines()
    assert max(map(len, lines)) <= 80
    rows = [line for line in lines if "93.03" in line]
    assert len(rows) == 2
    sign = "+/-" if encoding == "ascii" else "±"
    ends = {line.index(f"{sign} 0.04%") for line in rows}
    (header,) = (line for line in lines if "Accuracy" in line and "Type" in line)
    assert ends == {header.index("Accuracy") + len("Accuracy") - len(f"{sign} 0.04%")}


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
@pytest.mark.parametrize(
    "words",
    [
        ["list"],
        ["compare"],
        ["compare", "one", "two", "--format", "md"],
        ["compare", "one", "two", "--format", "csv"],
        ["show", "tiny.yaml"],
        ["check", "one"],
        ["--help"],
        ["compare", "--help"],
        ["data", "list"],
    ],
    ids=" ".join,
)
def test_commands_print_in_the_encoding_of_the_output(
    encoding: str, words: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stored()
    code, out, err = said(monkeypatch, words, encoding)
    assert (code, err) == ((1, "") if words[0] == "check" else (0, ""))
    if words[0] in {"compare", "show"} and "--help" not in words:
        assert in_encoding("中文", encoding) in out


@pytest.mark.parametrize("errors", ["strict", "ignore", "replace", "surrogateescape"])
def test_no_handler_of_the_environment_drops_a_sign(
    errors: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`PYTHONIOENCODING=ascii:ignore` would print `93.03  0.04%`."""
    stored()
    code, out, err = said(monkeypatch, ["compare"], "ascii", errors)
    assert (code, err) == (0, "")
    assert "93.03 +/- 0.04%" in out


def test_json_and_html_keep_every_character(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are UTF-8 by their standards, so other encodings get escapes."""
    stored()
    for encoding in ("ascii", "latin-1", "utf-8"):
        code, out, _ = said(monkeypatch, ["compare", "--format", "json"], encoding)
        (comparison,) = json.loads(out)["comparisons"]
        assert (code, comparison["rows"][0]["title"]) == (0, f"{TITLE} one")
        code, out, _ = said(monkeypatch, ["compare", "--format", "html"], encoding)
        assert code == 0
        assert f"{TITLE} one" in html.unescape(out)
        assert encoding == "utf-8" or out.isascii()
    page = table_page([compare([make_run("one", TITLE)])])
    assert html.unescape(html_in_ascii(page)) == html.unescape(page)
    assert json.loads(json_in_ascii('{"é": "🙂\\n"}')) == {"é": "🙂\n"}


def test_errors_escape_unprintable_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, err = said(monkeypatch, ["show", "中文.yaml"], "ascii")
    assert (code, out) == (2, "")
    assert err.startswith(r"\u4e2d\u6587.yaml: cannot be read: no such file or directory")
    Path("中.yaml").write_text(TINY.replace("dense", "中"), "utf-8")
    code, _, err = said(monkeypatch, ["show", "中.yaml"], "ascii")
    assert (code, r"'\u4e2d'" in err) == (2, True)
    code, _, err = said(monkeypatch, ["show", "--é"], "ascii")  # reported by the option parser
    assert (code, r"--\xe9" in err) == (2, True)


def test_a_training_of_two_seeds_ends_with_its_results(monkeypatch: pytest.MonkeyPatch) -> None:
    """That was lost: the table of two seeds has a plus-minus sign."""
    words = ["run", "tiny.yaml", "--engine", "direct"]
    code, out, err = said(monkeypatch, words, "ascii")
    assert code == 0, err
    assert "+/-" in out
    assert IN_ASCII in err
    (run,) = Path("results/tiny").iterdir()
    assert TITLE in (run / "table.md").read_text("utf-8")
    assert "±" in (run / "table.md").read_text("utf-8")


def test_overrides_are_read_in_the_c_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its UTF-8 mode Python escapes the bytes of arguments there."""
    escaped = f"title={TITLE}".encode().decode("ascii", "surrogateescape")
    code, out, err = said(monkeypatch, ["show", "tiny.yaml", escaped], "ascii")
    assert (code, err) == (0, "")
    assert out.startswith(IN_ASCII)
    broken = b"title=\xff".decode("ascii", "surrogateescape")
    code, _, err = said(monkeypatch, ["show", "tiny.yaml", broken], "ascii")
    assert (code, err) == (2, "command line: title: is not UTF-8 text; encode it in UTF-8.\n")
