"""The shape of the code: packages import downwards, functions are small, nothing catches all."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from typing import Any

import pytest

import cnnbench
from tests.support.paths import ROOT

PACKAGE = ROOT / "cnnbench"
FILES = {str(path.relative_to(PACKAGE)): path for path in sorted(PACKAGE.rglob("*.py"))}
ROOT_FILES = {"__init__.py", "__main__.py", "_version.py", "errors.py", "formatting.py"}


def contracts() -> list[Mapping[str, Any]]:
    """What import-linter checks."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    found: list[Mapping[str, Any]] = settings["contracts"]
    return found


def test_imports_keep_the_contracts() -> None:
    code = "import importlinter.cli as cli; raise SystemExit(cli.lint_imports(no_cache=True))"
    lint = [sys.executable, "-c", code]
    done = subprocess.run(lint, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_page_shows_the_packages_in_import_order() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| `(\w+)(?:\.py)?` \|", page, re.MULTILINE)
    layers = next(each["layers"] for each in contracts() if each["type"] == "layers")
    assert rows == [name for line in layers for name in line.split(" | ")]
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert folders <= set(rows)


def test_the_root_holds_packages_and_little_else() -> None:
    assert {path.name for path in PACKAGE.glob("*.py")} == ROOT_FILES


def test_no_folder_is_longer_than_a_look() -> None:
    folders = {path.parent for path in FILES.values()}
    sizes = {
        folder.name: sum(path.name != "__init__.py" for path in folder.glob("*.py"))
        for folder in folders
    }
    assert {name: size for name, size in sizes.items() if size > 15} == {}


def test_tests_lie_where_the_packages_do() -> None:
    folders = {
        str(path.parent.relative_to(ROOT / "tests")) for path in (ROOT / "tests").rglob("test_*.py")
    }
    own = {"integration", "fuzz", "docs", "benchmarks", "."}
    packages = {str(path.parent.relative_to(PACKAGE)) for path in FILES.values()}
    assert folders <= packages | own


@pytest.mark.parametrize("name", FILES)
def test_nothing_catches_everything(name: str) -> None:
    tree = ast.parse(FILES[name].read_text())
    handlers = [n for n in ast.walk(tree) if isinstance(n, ast.ExceptHandler)]
    names = {n.id for h in handlers if h.type for n in ast.walk(h.type) if isinstance(n, ast.Name)}
    assert all(handler.type for handler in handlers)
    assert not names & {"Exception", "BaseException"}


def test_library_exposes_the_verbs_of_the_command_line() -> None:
    for name in cnnbench.__all__:
        assert getattr(cnnbench, name) is not None
    with pytest.raises(AttributeError, match="module 'cnnbench' has no attribute 'rnu'"):
        _ = cnnbench.rnu
