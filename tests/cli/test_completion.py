"""Shell completion, asked as bash asks: the words of the line in variables."""

import shutil
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Literal

import pytest

from cnnbench.cli.app import Commands
from cnnbench.cli.completion import complete_experiments
from cnnbench.cli.parser import LazyCommand
from tests.support.environments import said, without
from tests.support.paths import EXPERIMENTS
from tests.support.samples import make_run, save, with_record

Complete = Callable[..., list[str]]


@pytest.fixture
def complete(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Complete:
    """Completes the last word of a line; without anything on standard error."""
    monkeypatch.chdir(tmp_path)

    def ask(*words: str) -> list[str]:
        monkeypatch.setenv("COMP_WORDS", "\n".join(["cnnbench", *words]))
        monkeypatch.setenv("COMP_CWORD", str(len(words)))
        monkeypatch.setenv("_CNNBENCH_COMPLETE", "complete_bash")
        code, out, err = said(monkeypatch, [], "utf-8")
        assert (code, err) == (0, "")
        return out.split("\n")[:-1] if out.strip() else []

    return ask


def runs(folder: Path) -> None:
    """Three runs of two experiments, with tags that need quotes and some that do not."""
    first = make_run()
    save(with_record(first, tags=("base", "two words")), folder)
    later = first.record.started_at + timedelta(days=1)
    save(with_record(make_run(run_id="20251124T063012Z-b1b2"), started_at=later), folder)
    save(make_run("modified", "Modified CNN", run_id="20251125T063012Z-c1c2"), folder)


def test_commands_complete_without_importing_one(
    complete: Complete, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LazyCommand, "load", lambda *_: pytest.fail("a command was imported"))
    assert complete("co") == ["compare", "confirm"]
    assert complete("") == list(Commands.lazy_commands)
    assert complete("nothing") == []
    assert complete("--i") == ["--install-completion"]


def test_options_and_their_choices_complete(complete: Complete) -> None:
    assert complete("run", "--se") == ["--seeds"]
    assert complete("compare", "--format", "") == ["table", "md", "csv", "json", "html", "latex"]
    assert complete("compare", "--metric", "test_acc") == ["test_accuracy"]
    assert complete("data", "pre") == ["prepare"]
    assert complete("data", "prepare", "mni") == ["mnist", "mnist_5k"]
    assert complete("run", "--dataset", "fash") == ["fashion_mnist"]


def test_a_command_that_does_not_exist_completes_to_nothing(complete: Complete) -> None:
    assert complete("rnu", "st") == []
    assert complete("run", "--no-such-option", "stand") == ["standard"]


def test_experiments_complete_by_name_and_by_file(complete: Complete, tmp_path: Path) -> None:
    assert complete("run", "") == sorted(file.stem for file in EXPERIMENTS.glob("*.yaml"))
    (tmp_path / "standing.yaml").write_text("")
    (tmp_path / "stand alone.yaml").write_text("")  # needs quotes
    (tmp_path / "ideas").mkdir()
    (tmp_path / "ideas" / "wide.yml").write_text("")
    (tmp_path / "ideas" / "notes.txt").write_text("")
    assert complete("show", "stand") == ["standard", "standing"]
    assert complete("watch", "ideas/") == ["ideas/wide.yml"]
    assert complete("new", "standi") == ["standing"]
    assert complete("new", "standing.") == []
    # Left to the shell, which knows where the next folder begins.
    assert complete("run", "idea") == []
    assert complete("run", "gone/x") == []


@pytest.mark.parametrize("form", ["NFC", "NFD"])  # macOS may store names decomposed
def test_letters_of_every_alphabet_complete(
    complete: Complete, tmp_path: Path, form: Literal["NFC", "NFD"]
) -> None:
    (tmp_path / "ideas").mkdir()
    names = [unicodedata.normalize(form, name) for name in ("größe.yaml", "実験.yml")]
    for name in (*names, "größe 2.yaml", "größe“.yaml"):
        (tmp_path / "ideas" / name).write_text("")
    assert complete("run", "ideas/") == [f"ideas/{name}" for name in names]


@pytest.mark.parametrize("folder", ["~/", "~no-such-user/"])
def test_a_home_folder_is_left_to_the_shell(complete: Complete, folder: str) -> None:
    assert complete("run", folder) == []
    assert complete_experiments(folder) == []


def test_runs_complete_by_name_tag_and_id(complete: Complete, tmp_path: Path) -> None:
    runs(tmp_path / "results")
    assert complete("compare", "") == ["modified", "standard", "base", "standard@base"]
    assert complete("compare", "standard", "mod") == ["modified"]
    assert complete("inspect", "standard@") == ["standard@base"]
    assert complete("report", "2025112") == [
        "20251123T063012Z-a1b2",
        "20251124T063012Z-b1b2",
        "20251125T063012Z-c1c2",
    ]
    assert complete("compare", "--baseline", "st") == ["standard", "standard@base"]
    assert complete("check", "mod") == ["modified"]


def test_runs_complete_from_the_results_that_the_line_names(
    complete: Complete, tmp_path: Path
) -> None:
    runs(tmp_path / "other")
    assert complete("compare", "") == []
    assert complete("compare", "--results-dir", "other", "sta") == ["standard", "standard@base"]
    (tmp_path / "results").write_text("a file where a folder is expected")
    assert complete("compare", "") == []


def test_damaged_runs_do_not_disturb(complete: Complete, tmp_path: Path) -> None:
    runs(tmp_path / "results")
    (tmp_path / "results" / "standard" / "20251123T063012Z-a1b2" / "run.json").write_text("{")
    assert complete("compare", "") == ["modified", "standard"]


def in_shell(patch: pytest.MonkeyPatch, shell: str) -> None:
    """Has Typer find this shell, which it asks the parents of the process for."""
    for module in ("typer.completion", "typer._completion_shared"):
        patch.setattr(f"{module}._get_shell_name", lambda: shell)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "powershell"])
def test_the_script_of_every_shell_is_shown(shell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    in_shell(monkeypatch, shell)
    code, out, err = said(monkeypatch, ["--show-completion"], "utf-8")
    assert (code, err) == (0, "")
    assert "_CNNBENCH_COMPLETE" in out


def test_the_script_is_installed_for_bash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_shell(monkeypatch, "bash")
    monkeypatch.setenv("HOME", str(tmp_path))
    code, out, err = said(monkeypatch, ["--install-completion"], "utf-8")
    script = tmp_path / ".bash_completions" / "cnnbench.sh"
    assert (code, err) == (0, "")
    assert f"bash completion installed in {script}" in " ".join(out.split())
    assert "_CNNBENCH_COMPLETE=complete_bash" in script.read_text()
    assert (tmp_path / ".bashrc").read_text().strip() == f"source '{script}'"


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes_with_the_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_shell(monkeypatch, "bash")
    _, script, _ = said(monkeypatch, ["--show-completion"], "utf-8")
    program = tmp_path / "cnnbench"
    program.write_text(
        f"#!{sys.executable}\nfrom cnnbench.cli.app import main\nmain()\n", encoding="utf-8"
    )
    program.chmod(0o755)
    asks = f"""{script}
        COMP_WORDS=(cnnbench run standa) COMP_CWORD=2
        _cnnbench_completion {program}
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(
        ["bash", "--norc", "-c", asks],
        cwd=tmp_path,
        env=without("COMP_", "_CNNBENCH"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("standard\n", "")
