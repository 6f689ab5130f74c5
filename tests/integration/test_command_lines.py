"""The lines of `make base` cover every command and option; every import is declared."""

import ast
import inspect
import re
import sys
import tomllib
from collections.abc import Iterator
from enum import EnumType
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import typer

import cnnbench
from cnnbench.cli.app import app
from tests.integration.command_lines import LINES, Line, issues
from tests.support.environments import said

SOURCE = Path(cnnbench.__file__).parent
ROOT = SOURCE.parent


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command below a group, with its path."""
    context = typer.Context(group)
    for name in group.list_commands(context):
        command, words = group.get_command(context, name), (*path, name)
        yield from (
            commands(command, words) if hasattr(command, "list_commands") else [(words, command)]
        )


COMMANDS = dict(commands(typer.main.get_command(app)))


def values(words: list[str], names: list[str]) -> list[str]:
    """The values of an option on a command line."""
    return [
        value
        for word, after in zip(words, [*words[1:], ""], strict=False)
        for name, equals, own in [word.partition("=")]
        if name in names
        for value in [own if equals else after]
    ]


def choices(command: Any, name: str) -> set[str]:
    """The choices of an option, if it has any."""
    kind = get_type_hints(inspect.unwrap(command.callback)).get(name)
    kinds = [kind, *get_args(kind)]
    enums: list[Any] = [each for each in kinds if isinstance(each, EnumType)]
    return {str(member) for enum in enums for member in enum}


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_option_and_choice_is_tested(path: tuple[str, ...]) -> None:
    """A new option needs a line in tests/integration/command_lines.py with its result."""
    lines = [line.words[len(path) :] for line in LINES if line.words[: len(path)] == [*path]]
    assert lines, f"no line of LINES calls cnnbench {' '.join(path)}"
    for option in COMMANDS[path].params:
        if option.param_type_name != "option" or "--help" in option.opts:
            continue
        tried = [value for words in lines for value in values(words, option.opts)]
        assert tried, f"no line of LINES has {'/'.join(option.opts)}"
        shared = option.name in {"device", "engine", "test"}  # the same in all commands
        tried = values([w for line in LINES for w in line.words], option.opts) if shared else tried
        left = choices(COMMANDS[path], option.name) - {*tried, str(option.default)}
        assert not left, f"no line of LINES has {option.opts[0]} with {left}"


def test_choices_are_known() -> None:
    assert choices(COMMANDS["run",], "device") == {"auto", "cpu", "gpu", "tpu"}
    assert choices(COMMANDS["run",], "match") == {"params", "flops"}
    assert choices(COMMANDS["run",], "seeds") == set()


def test_global_options_are_tested() -> None:
    assert Line("--version", says="cnnbench ") in LINES
    options = [option.opts for option in typer.main.get_command(app).params]
    # tests/cli/test_completion.py asks for the last two, which look at the shell.
    assert options == [["--version"], ["--install-completion"], ["--show-completion"]]


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_has_help_in_ascii(
    path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = said(monkeypatch, [*path, "--help"], "ascii")
    assert (code, err) == (0, "")
    assert f"cnnbench {' '.join(path)}" in out


def test_an_unexpected_result_is_an_issue() -> None:
    lines = [Line("list"), Line("check", 1, "damaged"), Line("show", says="layer")]
    printed = {"list": (0, "one\ntwo"), "check": (1, "dam\naged"), "show": (0, "a layer")}
    found = list(issues(lines, lambda words: printed[words[0]]))
    assert [text.split("\n")[0] for text in found] == ["cnnbench check"]
    assert list(issues([Line("list")], lambda _: (2, ""))) == [
        "cnnbench list\nexit code 2, expected 0\n"
    ]
    assert list(issues([Line("list")], lambda _: (0, "Traceback (most recent call last)")))


# Packages of the extras, and the message printed without them.
GUARDED = {
    "onnx": "export",
    "onnxruntime": "export",
    "jax2onnx": "export-python",
    "tensorboard": "tensorboard",
    "mlflow": "mlflow",
    "sqlalchemy": "mlflow",
    "wandb": "wandb",
    "torch": "peers",
    "keras": "peers",
    "pandas": "pandas",
    "pyarrow": "parquet",
    "grain": "streaming",
    "absl": "streaming",
    "ray": "ray",
    "optuna": "optuna",
}


PROVIDERS = {"mlflow": "mlflow-skinny"}  # of modules with other names, if not installed


def imports() -> Iterator[tuple[str, str]]:
    """Third-party top-level modules, and the module that imports them."""
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            for name in names:
                top = name.partition(".")[0]
                if top not in sys.stdlib_module_names | {"cnnbench"}:
                    yield top, str(path.relative_to(SOURCE))


def declared(requirements: list[str]) -> set[str]:
    return {re.split(r"[<>=\[ ;]", text)[0].lower().replace("_", "-") for text in requirements}


def test_imported_packages_are_declared() -> None:
    """They must not only be transitive dependencies, which may change."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    base, extras = declared(project["dependencies"]), project["optional-dependencies"]
    owners = packages_distributions()
    for top, module in sorted(set(imports())):
        names = declared(owners.get(top, [PROVIDERS.get(top, top)]))
        if top in GUARDED:
            assert names & declared(extras[GUARDED[top]]), f"{module} imports {top}"
        else:
            assert names & base, f"{module} imports {top}, which pyproject.toml does not declare"


def test_packages_imported_by_jax_export_are_declared() -> None:
    """`jax.export` serializes with flatbuffers, which jax does not declare."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert "flatbuffers" in declared(project["dependencies"])
