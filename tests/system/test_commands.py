"""Command lines that are printed: a real shell gives back the words that are meant."""

import ast
import dataclasses
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import cnnbench
from cnnbench.cli.app import app
from cnnbench.comparisons.comparability import finished_runs
from cnnbench.errors import CnnbenchError
from cnnbench.runner import recorder
from cnnbench.runs.folder import read_run
from cnnbench.runs.records import Status
from cnnbench.system import commands, signals
from cnnbench.training.events import Checkpoint
from tests.support.samples import make_run, on_device, save, with_record

SOURCE = Path(cnnbench.__file__).parent
AWKWARD = (
    "my results",
    "a;echo hurt",
    "$HOME",
    "`id`",
    "it's",
    'a"b',
    "back\\slash",
    "*?[a]",
    "中文 é",
    "~",
    "#1",
    "-dash",
    "a&b|c>d<e",
    "!history",
    "{a,b}",
    "tab\there",
    "escape\x1b[31m",
    "line\nbreak",
)
NAMES = st.text(st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1)


def shells() -> list[str]:
    return [name for name in ("bash", "zsh") if shutil.which(name)]


@pytest.mark.parametrize("name", AWKWARD)
@pytest.mark.parametrize("shell", shells())
def test_a_shell_reads_the_words_back(name: str, shell: str) -> None:
    words = ["cnnbench", "run", "--resume", name, f"title={name}"]
    line = commands.command_line(words)
    assert line.isprintable()
    got = subprocess.run(
        [shell, "-c", f'printf "%s\\0" {line}'], capture_output=True, check=True
    ).stdout
    assert got.decode().split("\0")[:-1] == words


@given(name=NAMES)
def test_every_word_is_one_word(name: str) -> None:
    line = commands.command_line(["cnnbench", name])
    assert line.isprintable()
    if name.isprintable():
        assert shlex.split(line) == ["cnnbench", name]
    else:
        assert line.startswith("cnnbench $'")


def test_a_file_is_not_an_option() -> None:
    assert commands.cnnbench("run", Path("-x.yaml")) == "cnnbench run ./-x.yaml"
    assert commands.cnnbench("run", Path("a/-x.yaml")) == "cnnbench run a/-x.yaml"


@pytest.mark.parametrize(
    ("command", "kept"),
    [
        ((), []),
        (("cnnbench", "run", "a.yaml", "--data-dir", "my data"), ["--data-dir", "my data"]),
        (
            ("cnnbench", "run", "--data-dir=d", "--device", "cpu"),
            ["--data-dir=d", "--device", "cpu"],
        ),
        (("cnnbench", "run", "a.yaml", "--allow-python", "--seeds", "3"), ["--allow-python"]),
        (("cnnbench", "run", "a.yaml", "--processes", "2"), ["--processes", "2"]),
        (("cnnbench", "run", "a.yaml", "--data-dir"), []),
    ],
)
def test_resume_repeats_options_that_are_not_recorded(
    command: tuple[str, ...], kept: list[str]
) -> None:
    run = on_device(make_run(), command=command)
    line = commands.resume(run.record.environment.command, Path("results/standard/ID"))
    assert shlex.split(line) == ["cnnbench", "run", "--resume", "ID", *kept]
    line = commands.resume(run.record.environment.command, Path("my results/standard/ID"))
    assert shlex.split(line) == ["cnnbench", "run", "--resume", "my results/standard/ID", *kept]


@pytest.mark.parametrize("folder", AWKWARD)
def test_a_run_that_was_stopped_is_named_as_it_was_found(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the folder of results is called, and the file that was trained."""
    monkeypatch.chdir(tmp_path)
    made = on_device(make_run(), command=("cnnbench", "run", f"{folder}.yaml"))
    path = save(with_record(made, status=Status.INTERRUPTED), Path(folder))
    with pytest.raises(CnnbenchError) as caught:
        finished_runs([read_run(path)], None)
    line = str(caught.value).partition("; resume it with: ")[2]
    got = subprocess.run(["bash", "-c", f'printf "%s\\0" {line}'], capture_output=True, check=True)
    *words, run = got.stdout.decode().split("\0")[:-1]
    assert words == ["cnnbench", "run", "--resume"]
    assert Path(run).resolve() == path.resolve()
    shutil.rmtree(path)
    path = save(dataclasses.replace(made, summary=None), Path(folder))
    with pytest.raises(CnnbenchError) as caught:
        finished_runs([read_run(path)], None)
    line = str(caught.value).partition("; re-run it with: ")[2]
    got = subprocess.run(["bash", "-c", f'printf "%s\\0" {line}'], capture_output=True, check=True)
    assert got.stdout.decode().split("\0")[:-1] == ["cnnbench", "run", f"{folder}.yaml"]


TINY = """\
name: tiny
task: classify
dataset: {name: mnist_5k, train_examples: 200}
model: {layers: {flat: {op: flatten}, out: {op: dense, units: 10}}}
train: {epochs: 2, batch_size: 100}
"""


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every command line that is built while a test runs."""
    lines: list[str] = []
    build = commands.command_line

    def record(words: Sequence[str | Path]) -> str:
        lines.append(build(words))
        return lines[-1]

    monkeypatch.setattr(commands, "command_line", record)
    return lines


def test_printed_commands_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    """Printed commands work when pasted, with paths that need quoting."""
    folder = tmp_path / "it's; $HOME"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("CNNBENCH_ENGINE", "direct")
    Path("-tiny it's.yaml").write_text(TINY)

    def run(line: str, code: int = 0) -> str:
        words = shlex.split(line)
        assert words[0] == "cnnbench"
        done = CliRunner().invoke(app, words[1:], catch_exceptions=False)
        assert done.exit_code == code, done.output
        return done.output

    parent = shlex.quote("./-tiny it's.yaml")
    printed = run(f"cnnbench new {parent} 'idea $(1).yaml' --name idea --results-dir 'my results'")
    watch, train = said
    assert f"    {watch}\n    {train}\n" in printed
    run(f"{watch} --once")
    with stopped(monkeypatch):
        printed = run(f"{train} --quiet", code=130)
    (resume,) = (line for line in said if "--resume" in line)
    assert f"interrupted; resume with: {resume}\n" in printed
    run(f"{resume} --quiet")
    (path,) = Path("my results/tiny").iterdir()
    assert read_run(path).record.status is Status.FINISHED


@contextmanager
def stopped(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """SIGINT after the first epoch of a training."""
    keep = recorder.keep

    def interrupt(event: object, *rest: Any) -> None:
        keep(event, *rest)  # type: ignore[arg-type]
        if isinstance(event, Checkpoint):
            raise signals.Stopped(signal.SIGINT)

    with patch.context() as here:
        here.setattr(recorder, "keep", interrupt)
        yield


BUILT_HERE = {"commands.py"}
COMMAND = re.compile(
    r"\bcnnbench (run|show|new|watch|schema|list|compare|plot|report|bench|inspect|gradcheck"
    r"|latent|predict|export|check|data)\b|\bpip install\b"
)


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """String literals of a module, without docstrings."""
    tree = ast.parse(path.read_text("utf-8"))
    docs = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.lineno, node.value


def test_no_other_module_writes_a_command_line() -> None:
    """All are built, and so quoted, in one place."""
    written = [
        f"{path.relative_to(SOURCE)}:{line}: {text}"
        for path in sorted(SOURCE.rglob("*.py"))
        if path.name not in BUILT_HERE
        for line, text in texts(path)
        if COMMAND.search(text)
    ]
    assert written == []
    joined = [p.name for p in SOURCE.rglob("*.py") if "shlex.join" in p.read_text("utf-8")]
    assert joined == []
