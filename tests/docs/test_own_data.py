"""The tutorial on your own images: its commands run in order, and print what it shows."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from typer.testing import CliRunner

from cnnbench.cli.app import app
from tests.support.paths import ROOT

PAGE = ROOT / "docs" / "tutorial" / "own-data.md"
SHORT = ["--epochs", "1", "dataset.train_examples=200"]  # instead of minutes of training


class Step(NamedTuple):
    """A command of the page, or a block that follows one."""

    kind: str
    text: str


def steps() -> Iterator[Step]:
    text = PAGE.read_text()
    pattern = re.compile(r"^```(\w*)\n(.*?)^```|^    (cnnbench [^\n]*)$", re.MULTILINE | re.DOTALL)
    for found in pattern.finditer(text):
        if found[3]:
            yield Step("command", found[3])
        else:
            yield Step(found[1] or "output", found[2])


def shortened(command: str) -> list[str]:
    words = shlex.split(command)[1:]
    if words[0] == "run":
        for option, value in (("--epochs", None), ("--seeds", "2")):
            if option in words:
                at = words.index(option)
                words[at : at + 2] = [] if value is None else [option, value]
        words += SHORT
    return words


def plain(text: str) -> str:
    return re.sub(r" +$", "", text, flags=re.MULTILINE)


def skeleton(text: str) -> str:
    """Text without what depends on numbers: digits, widths of columns and how a verdict goes."""
    text = text.split("Verdict:", maxsplit=1)[0]
    text = re.sub(r"\d[\d,.]*( ± \d[\d.]*)?%?", "#", text)
    return plain(re.sub(r"[ ─-]+", " ", text))


@pytest.mark.slow
def test_the_page_is_true(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("CNNBENCH_ENGINE", "plain")
    monkeypatch.setenv("CNNBENCH_CACHE_DIR", str(tmp_path / "cache"))
    printed, trains, compared = "", False, 0
    for step in steps():
        match step.kind:
            case "command":
                words = shortened(step.text)
                trains = words[0] in {"run", "predict", "compare"}
                done = CliRunner().invoke(app, words, prog_name="cnnbench", catch_exceptions=False)
                assert done.exit_code == 0, f"{step.text}\n{done.stderr}"
                printed = done.stdout
            case "output" if trains:
                lines = skeleton(printed).splitlines()
                for line in skeleton(step.text).splitlines():
                    assert line in lines, line
                compared += 1
            case "output":
                assert plain(step.text) in plain(printed)
                compared += 1
            case "yaml":
                name = re.search(r"^name: (\w+)$", step.text, re.MULTILINE)
                assert name is not None
                path = Path(f"{name[1]}.yaml")
                if "extends" in step.text:
                    assert path.exists()  # the page edits it
                    path.write_text(step.text)
                else:
                    assert path.read_text() == step.text
                compared += 1
    assert compared >= 7
