"""The shape of the code: packages import downwards, functions are small, nothing catches all."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
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
    page = (ROOT / "docs" / "explanation" / "architecture.md").read_text()
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


def defined_types(path: Path) -> set[str]:
    """Public names of the classes and type aliases of a module, in CamelCase."""
    statements = ast.parse(path.read_text()).body
    for each in statements:  # grows: an alias may stand under `if TYPE_CHECKING`
        statements += [*each.body, *each.orelse] if isinstance(each, ast.If) else []
    names = {each.name for each in statements if isinstance(each, ast.ClassDef)}
    targets = [each.targets for each in statements if isinstance(each, ast.Assign)]
    targets += [[each.target] for each in statements if isinstance(each, ast.AnnAssign)]
    names |= {target.id for line in targets for target in line if isinstance(target, ast.Name)}
    return {name for name in names if re.fullmatch(r"[A-Z]\w*[a-z]\w*", name)}


def test_one_name_is_one_type() -> None:
    modules: dict[str, list[str]] = {}
    for path in sorted([*PACKAGE.rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]):
        for name in defined_types(path):
            modules.setdefault(name, []).append(str(path.relative_to(ROOT)))
    assert "Experiment" in modules
    assert "Array" in modules
    assert {name: files for name, files in modules.items() if len(files) > 1} == {}


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


def test_no_test_file_needs_an_extra_of_peers() -> None:
    """`make test` has the extra dev only; tests of the others are skipped with a reason."""
    extras = {"torch", "torchvision", "keras", "jax2onnx"}
    extras |= {"tests.support.published_models", "tests.support.torchvision_models"}
    found = {
        str(path.relative_to(ROOT)): sorted(imported)
        for path in (ROOT / "tests").rglob("test_*.py")
        if (imported := extras & _imports(ast.parse(path.read_text()).body))
    }
    assert found == {}


def _imports(body: list[ast.stmt]) -> set[str]:
    """Modules that are imported whenever a file is, with the packages they are in."""
    names = {alias.name for each in body if isinstance(each, ast.Import) for alias in each.names}
    names |= {each.module for each in body if isinstance(each, ast.ImportFrom) and each.module}
    return names | {name.partition(".")[0] for name in names}
