"""Messages on a terminal: long ones break between words; `--data-dir` that has no effect."""

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from cnnbench.cli.app import app
from cnnbench.cli.terminal import tell, wrapped

WORDS = st.text("abc-`/", min_size=1, max_size=12)


@given(st.lists(WORDS, min_size=1, max_size=30), st.integers(14, 40))
def test_words_are_never_broken_and_none_is_lost(words: list[str], width: int) -> None:
    text = " ".join(words)
    lines = wrapped(text, width).split("\n")
    assert " ".join(lines) == text
    if "`" not in text:
        assert max(map(len, lines)) <= width


def test_commands_stay_in_one_line() -> None:
    text = "unknown dataset 'x'; see `cnnbench data list --long` for more of them"
    assert wrapped(text, 40).split("\n") == [
        "unknown dataset 'x'; see",
        "`cnnbench data list --long` for more of",
        "them",
    ]
    command = f"    {'cnnbench run a.yaml ' * 5}"
    assert wrapped(f"Next:\n{command}", 40) == f"Next:\n{command}"


class Stream(io.StringIO):
    def __init__(self, *, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


@pytest.mark.parametrize(("on_terminal", "lines"), [(True, 2), (False, 1)])
def test_only_terminals_get_broken_lines(
    on_terminal: bool,
    lines: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = Stream(terminal=on_terminal)
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("COLUMNS", "30")
    tell("use train, validation, test or all of them")
    assert len(stream.getvalue().splitlines()) == lines


def run(tmp_path: Path, *words: str) -> Any:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (20, 4, 4), np.uint8), np.arange(20) % 2
    np.savez(tmp_path / "data.npz", images=images, labels=labels)
    (tmp_path / "own.yaml").write_text(
        "name: own\ntask: classify\ndataset: {arrays: data.npz}\n"
        "model: {layers: {out: {op: dense, units: 2}}}\n"
    )
    command = ["run", str(tmp_path / "own.yaml"), "--dry-run", *words]
    done = CliRunner().invoke(app, command, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stderr


def test_a_data_dir_without_effect_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(tmp_path, "--data-dir", str(tmp_path)).startswith(
        "--data-dir is for datasets by name, not for dataset.arrays; to train on other images,"
        " write dataset.arrays=PATH.\n"
    )
    assert "--data-dir" not in run(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))  # for all experiments
    assert "--data-dir" not in run(tmp_path)
