"""``cnnbench watch``: the loop by itself, what it reads, and the whole of it on a terminal."""

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cnnbench.cli.app import app
from cnnbench.cli.commands import watch as watching
from cnnbench.cli.commands.watch import QuickCompare, WatchView, follow, read_draft, stamp
from cnnbench.comparisons.verdict import Criteria
from cnnbench.spec.loader import Loaded, load_experiment
from tests.support.paths import EXPERIMENTS
from tests.support.samples import make_run

STANDARD = EXPERIMENTS / "standard.yaml"
PARENT = """\
name: tiny
title: Tiny CNN
task: classify
dataset: {name: mnist_5k, train_examples: 300}
model:
  layers:
    conv1: {op: conv, filters: 4, kernel: 5, activation: relu}
    pool1: {op: max_pool, size: 4}
    dense1: {op: dense, units: 10}
train: {epochs: 2, batch_size: 100}
"""
CHILD = "extends: tiny.yaml\nname: idea\ntitle: Idea\nmodel: {layers: {conv1: {kernel: 7}}}\n"


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    Path("tiny.yaml").write_text(PARENT)
    Path("idea.yaml").write_text(CHILD)


@pytest.mark.parametrize("test", ["unpaired", "paired"])
def test_a_quick_comparison_uses_the_test_that_was_named(test, monkeypatch, capsys):
    seeds = range(6)
    runs = [make_run(seeds=seeds), make_run("idea", "Idea", seeds=seeds, start=0.93, run_id="b")]
    monkeypatch.setattr(watching, "run_requests", lambda *_: runs)
    criteria = Criteria(test=test)
    quick = QuickCompare(6, 1, None, "cpu", "plain", Path("results"), None, criteria)
    view = WatchView(Path("idea.yaml"), quick)
    view.draft = read_draft(Path("idea.yaml"))
    view.enter()
    p = {"unpaired": "p = 0.0022", "paired": "p = 0.031"}[test]
    assert p in " ".join(view.verdicts)
    assert f"cnnbench run tiny.yaml idea.yaml --seeds 6 --test {test}" in capsys.readouterr().out


class Script:
    """A view and its keys by a script: what is on the disk, and which key comes, poll by poll."""

    def __init__(self, *polls: tuple[str, str]) -> None:
        self.polls, self.disk = iter(polls), "a"
        self.told: list[str] = []

    def stamp(self) -> str:
        return self.disk

    def draw(self) -> str:
        self.told.append(self.disk)
        return self.disk

    def enter(self) -> None:
        self.told.append("enter")

    def ask(self) -> None:
        self.asked = self.told[:]

    def key(self, seconds: float) -> str:  # noqa: ARG002
        self.disk, key = next(self.polls)
        return key

    @contextlib.contextmanager
    def lent(self) -> Iterator[None]:
        self.told.append("lent")
        yield
        self.told.append("back")


def told(*polls: tuple[str, str]) -> list[str]:
    script = Script(*polls)
    follow(script, script)
    assert script.asked == script.told  # it has asked after whatever it did, the keys being back
    return script.told


def test_it_draws_at_once_and_when_something_was_saved():
    assert told(("a", ""), ("a", ""), ("a", "q")) == ["a"]
    assert told(("b", ""), ("b", ""), ("b", ""), ("b", "q")) == ["a", "b"]


def test_it_draws_nothing_of_a_file_that_is_still_being_written():
    polls = [(state, "") for state in ("gone", "half", "b", "b", "b")]
    assert told(*polls, ("b", "q")) == ["a", "b"]


def test_a_file_that_stays_away_is_told():
    assert told(("gone", ""), ("gone", ""), ("gone", "q")) == ["a", "gone"]


def test_enter_acts_on_what_is_there_and_has_the_terminal():
    assert told(("a", "\r"), ("a", "x"), ("a", "q")) == ["a", "lent", "enter", "back"]
    assert told(("b", "\n"), ("b", ""), ("b", "\x04")) == ["a", "b", "lent", "enter", "back"]


def test_what_is_saved_while_it_trains_is_drawn_afterwards():
    script = Script(("a", "\n"), ("b", ""), ("b", ""), ("b", "Q"))

    def enter() -> None:
        script.disk = "b"

    script.enter = enter  # type: ignore[method-assign]
    follow(script, script)
    assert script.told == ["a", "lent", "back", "b"]


def test_what_is_saved_while_it_is_drawn_is_drawn_afterwards():
    script = Script(("b", ""), ("b", ""), ("b", "q"))
    draw = script.draw

    def slow() -> str:
        read = draw()
        script.disk = "b"
        return read

    script.draw = slow  # type: ignore[method-assign]
    follow(script, script)
    assert script.told == ["a", "b"]


def test_a_draft_that_is_saved_while_it_is_read_has_an_older_stamp(monkeypatch):
    def slow(path: Path, data_dir: Path | None) -> Loaded:
        Path("idea.yaml").write_text(CHILD.replace("7", "9"))
        return load_experiment(path, data_dir=data_dir)

    monkeypatch.setattr("cnnbench.cli.commands.watch.load_experiment", slow)
    read = read_draft(Path("idea.yaml"))
    assert read.stamp != stamp(read.files)


def test_a_draft_beside_its_parent():
    draft = read_draft(Path("idea.yaml"))
    assert [file.name for file in draft.files] == ["idea.yaml", "tiny.yaml"]
    assert (draft.issues, draft.obstacle) == ("", "")
    assert draft.found is not None
    assert draft.found.lines[0] == "~ conv1: kernel 5x5 -> 7x7"


@pytest.mark.parametrize(
    ("text", "obstacle"),
    [
        (
            CHILD.replace("kernel", "kernal"),
            "Fix the errors above to enable training",
        ),
        (
            PARENT,
            "idea.yaml extends no other file to compare it with",
        ),
        (
            CHILD.replace("kernel: 7", "kernel: 5"),
            "No differences from Tiny CNN yet",
        ),
        (
            "extends: tiny.yaml\nname: idea\nmodel: {layers: null, python: 'a:B'}\n",
            "Compare Python models with `cnnbench run`, which reloads their source",
        ),
        (
            f"{PARENT}extends: part.yaml\n",
            "part.yaml is not a complete experiment to compare with (part.yaml:1:1: 'name' is"
            " missing; add 'name: ...' (short name; also the folder of its runs).)",
        ),
    ],
)
def test_why_a_draft_cannot_be_compared(text, obstacle):
    Path("part.yaml").write_text("seeds: 3\n")
    Path("idea.yaml").write_text(text)
    assert read_draft(Path("idea.yaml")).obstacle == obstacle


def test_a_wrong_draft_says_what_is_wrong_and_where():
    Path("idea.yaml").write_text(CHILD.replace("kernel", "kernal"))
    draft = read_draft(Path("idea.yaml"))
    assert draft.loaded is None
    assert draft.issues.startswith("idea.yaml:4:26: model.layers.conv1.kernal: unknown key")


def test_a_parent_that_is_not_there_yet_is_followed_too():
    Path("idea.yaml").write_text("extends: later.yaml\nname: idea\n")
    draft = read_draft(Path("idea.yaml"))
    assert [file.name for file in draft.files] == ["idea.yaml", "later.yaml"]
    before = stamp(draft.files)
    assert before[1] is None
    Path("later.yaml").write_text(PARENT)
    assert stamp(draft.files) != before


def test_a_circle_of_files_ends():
    Path("idea.yaml").write_text("extends: other.yaml\nname: idea\n")
    Path("other.yaml").write_text("extends: idea.yaml\nname: other\n")
    draft = read_draft(Path("idea.yaml"))
    assert [file.name for file in draft.files] == ["idea.yaml", "other.yaml"]
    assert "extends this file; remove the circular extends" in draft.issues


def test_a_file_that_is_replaced_by_its_equal_has_another_stamp():
    path = Path("idea.yaml")
    before = stamp([path])
    copy, times = Path("copy.yaml"), path.stat()
    copy.write_text(CHILD)
    os.utime(copy, ns=(times.st_atime_ns, times.st_mtime_ns))
    copy.replace(path)  # as vim does
    assert stamp([path]) != before
    path.unlink()
    assert stamp([path]) == (None,)
    assert stamp([Path("a\0b")]) == (None,)


def invoke(*words: str):
    return CliRunner().invoke(app, ["watch", *words], prog_name="cnnbench", catch_exceptions=False)


def test_once_shows_what_show_does():
    done = invoke("idea.yaml", "--once")
    assert done.exit_code == 0
    table, beside = done.stdout.split("Compared with Tiny CNN:\n")
    assert table.startswith("Idea (idea.yaml)")
    assert beside.splitlines()[0] == "  ~ conv1: kernel 5x5 -> 7x7"


@pytest.mark.parametrize("words", [["idea.yaml", "--once"], ["none.yaml"]])
def test_what_is_wrong_from_the_start_ends_with_2(words):
    Path("idea.yaml").write_text(CHILD.replace("kernel", "kernal"))
    done = invoke(*words)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith(words[0])


def test_without_a_terminal_it_says_so():
    done = invoke("idea.yaml")
    message = "watch: needs a terminal; use --once to show the file once.\n"
    assert (done.exit_code, done.stderr) == (2, message)


def test_it_imports_where_there_are_no_unix_terminals():
    """On Windows, where the modules of terminals and of locks are missing."""
    code = "import sys; sys.modules |= dict.fromkeys(['fcntl', 'resource', 'termios', 'tty'])\n"
    code += "from cnnbench.cli.app import main; sys.argv = ['cnnbench', *sys.argv[1:]]; main()"
    command = [sys.executable, "-c", code, "watch", "idea.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    message = "watch: needs a Unix terminal; use --once to show the file once.\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", message)
    done = subprocess.run([*command, "--once"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "  ~ conv1: kernel 5x5 -> 7x7\n" in done.stdout


# Makes a terminal the one that Ctrl-C comes from, then becomes another command.
OWN = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
OWN += "os.execv(sys.argv[1], sys.argv[1:])"


class Terminal:
    """A command on a terminal of 80 columns, and all that it has shown so far."""

    def __init__(self, *words: str) -> None:
        self.ours, self.theirs = pty.openpty()
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 80, 0, 0))
        self.modes = termios.tcgetattr(self.theirs)
        gone = ("COLUMNS", "NO_COLOR", "CI", "GITHUB_ACTIONS")
        environment = {key: value for key, value in os.environ.items() if key not in gone}
        self.child = subprocess.Popen(
            [sys.executable, "-c", OWN, sys.executable, "-m", "cnnbench", *words],
            stdin=self.theirs,
            stdout=self.theirs,
            stderr=self.theirs,
            env=environment | {"TERM": "xterm", "PYTHONPATH": str(STANDARD.parent.parent)},
            start_new_session=True,
        )
        self.shown = self.cut = ""

    def expect(self, pattern: str, seconds: float = 60) -> str:
        """Reads until the pattern was shown, and returns what came up to its end."""
        end = time.monotonic() + seconds
        while not (found := re.search(pattern, self.shown)):
            assert time.monotonic() < end, f"no {pattern!r} in {self.shown!r}"
            if select.select([self.ours], [], [], 0.1)[0]:
                text = self.cut + os.read(self.ours, 65536).decode(errors="replace")
                text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "")
                text, escape, rest = text.partition("\x1b")  # what is left was read in part
                self.shown, self.cut = self.shown + text, escape + rest
        before, self.shown = self.shown[: found.end()], self.shown[found.end() :]
        return before

    def press(self, key: str) -> None:
        os.write(self.ours, key.encode())

    def ends_with(self, code: int) -> None:
        """It ends, and leaves the terminal as it was."""
        assert self.child.wait(600) == code
        assert termios.tcgetattr(self.theirs) == self.modes


@contextlib.contextmanager
def terminal(*words: str) -> Iterator[Terminal]:
    opened = Terminal(*words)
    try:
        yield opened
    finally:
        opened.child.kill()
        opened.child.wait()
        os.close(opened.ours)
        os.close(opened.theirs)


def replace(text: str) -> None:
    """Saves the file as editors do that write a new one and move it there."""
    Path("idea.yaml.new").write_text(text)
    Path("idea.yaml.new").replace("idea.yaml")


@pytest.mark.slow
def test_a_session_at_the_terminal():
    """A broken file, a mended one, Enter, another change, and the end."""
    words = ["--seeds", "2", "--epochs", "1", "--engine", "direct"]
    with terminal("watch", "idea.yaml", *words) as screen:
        screen.expect(
            r"Press Enter to train both \(1 epoch on mnist_5k with 2 seeds\), q to quit\."
        )
        replace(CHILD.replace("kernel", "kernal"))
        screen.expect(r"idea\.yaml:4:26: model\.layers\.conv1\.kernal: unknown key 'kernal'")
        screen.expect(r"Fix the errors above to enable training\. Press q to quit\.")
        screen.press("\r")
        screen.expect(r"Fix the errors above to enable training")
        Path("idea.yaml").write_text(CHILD.replace("7", "9"))
        shown = screen.expect(r"Press Enter to train both")
        assert "~ conv1   conv 4 @ 9x9, relu" in shown
        assert "  ~ conv1: kernel 5x5 -> 9x9\n" in shown
        screen.press("\r")
        shown = screen.expect(r"Verdict: Too few seeds to compare Idea with Tiny CNN: ")
        assert "| Tiny CNN |     1 |" in shown
        assert shown.count("MACs") == 0  # the networks are shown already
        screen.expect(r"cnnbench run tiny\.yaml idea\.yaml --seeds 6\n")
        screen.expect(r"Press Enter to train both")
        screen.press("\r")  # nothing has changed, so nothing is trained
        screen.expect(
            r"is already\s+finished;\s+nothing\s+to\s+train[\s\S]*"
            r"Verdict: Too few[\s\S]*Press Enter"
        )
        replace(CHILD)
        screen.expect(r"kernel 5x5 -> 7x7[\s\S]*Before the last change: Verdict: Too few seeds")
        screen.expect("q to quit")
        screen.press("q")
        screen.ends_with(0)
    runs = Path("results/.watch").glob("*/*/summary.json")
    assert sorted(path.parent.parent.name for path in runs) == ["idea", "tiny"]
    assert CliRunner().invoke(app, ["list"]).stdout.startswith("no runs in results")


def test_ctrl_c_ends_it_with_130():
    with terminal("watch", "idea.yaml") as screen:
        screen.expect("q to quit")
        screen.press("\x03")
        screen.expect("interrupted\n")
        screen.ends_with(128 + signal.SIGINT)


def test_what_cannot_be_trained_is_said_and_it_goes_on():
    with terminal("watch", "idea.yaml", "--dataset", "emnist") as screen:
        screen.expect("q to quit")
        screen.press("\n")
        words = r"the output has shape 10, but the dataset has 62 classes; use 62\."
        screen.expect(words.replace(" ", r"\s+"))  # it may be broken into lines anywhere
        screen.expect("q to quit")
        screen.press("\x04")
        screen.ends_with(0)
