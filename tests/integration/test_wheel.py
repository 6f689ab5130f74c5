"""The wheel in an empty folder, outside the checkout: what README promises there."""

import importlib.metadata
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.environments import without
from tests.support.paths import ROOT

# Not by `find_spec`: asked for pip, setuptools' finder leaves the deprecated distutils in place.
pytestmark = pytest.mark.skipif(
    not {"hatchling", "pip"} <= {each.name for each in importlib.metadata.distributions()},
    reason="hatchling or pip is not installed, with which the wheel is built",
)

# Runs commands in one process, so that JAX is imported once.
PROGRAM = """
import sys
from pathlib import Path

import cnnbench
from cnnbench.cli.app import main
from cnnbench.training import profiling

profiling.SIZE = 128  # of the products that costs are compared with, which take long


def command(line):
    sys.argv = ["cnnbench", *line.split()]
    try:
        main()
    except SystemExit as end:
        assert not end.code, (line, end.code)


print(cnnbench.__file__)
command("run standard modified --dataset mnist_5k --epochs 1 --quiet dataset.train_examples=500")
command("compare standard modified")
command("new modified idea.yaml")
command("show standard wide_kernel")
print(cnnbench.compare("standard", "modified").verdict)
"""


def pip(*words: str | Path) -> None:
    """Runs pip without a network."""
    command = [sys.executable, "-m", "pip", *words, "--no-deps", "--no-index", "--quiet"]
    command.append("--disable-pip-version-check")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", ROOT, "--no-build-isolation", "--wheel-dir", folder)
    (file,) = folder.glob("cnnbench-*.whl")
    return file


def files(folder: str, ending: str) -> set[str]:
    return {
        str(path.relative_to(ROOT / folder).as_posix())
        for path in (ROOT / folder).rglob(ending)
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_has_the_package_and_the_experiments_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as content:
        names = {name for name in content.namelist() if ".dist-info/" not in name}
        metadata = next(name for name in content.namelist() if name.endswith("/METADATA"))
        text = content.read(metadata).decode()
    package = {f"cnnbench/{name}" for name in files("cnnbench", "*")}
    assert names == package | {f"cnnbench/experiments/{name}" for name in files("experiments", "*")}
    assert {"cnnbench/py.typed", "cnnbench/experiments/standard.yaml"} <= names
    assert "Provides-Extra: pandas" in text


@pytest.mark.slow
def test_shipped_experiments_are_trained_by_name_in_an_empty_folder(
    wheel: Path, tmp_path: Path
) -> None:
    site, here = tmp_path / "site", tmp_path / "empty"
    here.mkdir()
    (readme,) = re.findall(r"(?ms)^```yaml\n(.*?)^```", (ROOT / "README.md").read_text())
    (here / "wide_kernel.yaml").write_text(readme)
    pip("install", wheel, "--no-compile", "--target", site)
    # Coverage would report lines of a folder that is gone.
    environment = without("TFDS_", "COLUMNS", "COV") | {
        "PYTHONPATH": str(site),
        "CNNBENCH_ENGINE": "plain",  # the quickest to compile
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=here,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == str(site / "cnnbench" / "__init__.py")
    assert "Modified CNN" in lines[-1]  # the verdict
    assert f"standard: {site / 'cnnbench' / 'experiments' / 'standard.yaml'}" in done.stderr
    made = {path.name for path in here.iterdir()}
    assert {"idea.yaml", "modified.yaml", "standard.yaml", "results"} <= made
    assert "~ conv1: kernel 5x5 -> 7x7" in done.stdout
    assert len(list((here / "results").glob("*/*/summary.json"))) == 2
    script = (site / "bin" / "cnnbench").read_text()
    assert "from cnnbench.cli.app import main" in script
