"""Every command and YAML block in the documentation works."""

import contextlib
import importlib
import inspect
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

import cnnbench
from cnnbench.cli.app import app
from cnnbench.layers.activation import ACTIVATION_NAMES
from cnnbench.layers.parameters import INIT_NAMES
from cnnbench.spec.loader import load_experiment
from cnnbench.training import matmul_peak
from tests.support.environments import without
from tests.support.paths import ROOT

INDEX = ROOT / "docs" / "index.md"
CI_PAGE = ROOT / "docs" / "how-to" / "ci-gate.md"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
IN_ORDER = {ROOT / "docs" / "tutorial" / "own-data.md"}  # test_own_data runs them
# A command trains for one epoch on a few embedded digits here, whatever it says, and is
# measured with the network that compiles the soonest against one framework; cli/test_bench and
# bench/frameworks/test_frameworks have the others.
SHORT = ["--dataset", "mnist_5k", "--epochs", "1", "dataset.train_examples=500"]
# Pages whose commands take longest; the others use the same commands with other options.
SLOW = {"README.md", "augment.md", "autoencoders.md", "early-stopping.md", "gradient.md"}
SLOW |= {"datasets.md", "first-idea.md", "reproductions.md"}
SLOW |= {"post.md", "spec.md", "sweeps.md", "training-recipes.md", "tune.md"}


def yaml_blocks(page: Path) -> list[str]:
    """Experiments, not other YAML such as a workflow of CI."""
    blocks = re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    return [block for block in blocks if re.search(r"^(extends|model):", block, re.MULTILINE)]


def write_modules(page: Path, workplace: Path) -> None:
    """Writes Python that begins with the name of its file beside the experiments."""
    blocks = re.findall(
        r"^```python\n(# (\w+\.py)\n.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL
    )
    for block, name in blocks:
        (workplace / "experiments" / name).write_text(block)


def write_arrays(page: Path, workplace: Path) -> None:
    """Runs Python that writes arrays, beside the experiments."""
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    with contextlib.chdir(workplace / "experiments"):
        for block in blocks:
            if "np.savez(" in block and "mnist_data()" in block:
                exec(block, {})


def write_block(block: str, workplace: Path) -> Path:
    """Writes an experiment where a page means it to be: the folder of the file it extends.

    One that extends a shipped experiment by its name, or one in a folder, is in the current folder,
    and so is one that begins with its own name.
    """
    is_here = re.search(r"extends: (experiments/|\w+$)|^# \w+\.yaml$", block, re.MULTILINE)
    folder = workplace if is_here else workplace / "experiments"
    path = folder / f"{yaml.safe_load(block)['name']}.yaml"
    path.write_text(block)
    return path


def commands(page: Path) -> list[str]:
    """Lines of code blocks, indented or fenced, that begin with the program's name."""
    blocks = re.findall(r"^```.*?^```|^    .*$", page.read_text(), re.MULTILINE | re.DOTALL)
    line = re.compile(r"^(?:    |\$ )?(cnnbench .*?)(?:  +#.*)?$", re.MULTILINE)
    return [command for block in blocks for command in line.findall(block)]


def ids(page: Path) -> str:
    return page.name


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with the experiments, and the runs of two of them that the pages speak of."""
    folder = tmp_path_factory.mktemp("trained")
    shutil.copytree(ROOT / "experiments", folder / "experiments")
    shutil.copytree(ROOT / "docs" / "images", folder / "docs" / "images")
    (folder / "notes.md").write_text("A *wider* kernel.\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("COLUMNS", "80")
        patch.delenv("TFDS_DATA_DIR", raising=False)
        patch.setenv("CNNBENCH_ENGINE", "plain")  # the quickest to compile
        patch.setattr(matmul_peak, "find_spec", lambda name: name == "numpy")  # quick to start
        models = ["experiments/standard.yaml", "experiments/modified.yaml"]
        assert CliRunner().invoke(app, ["run", *models, "--quiet", *SHORT]).exit_code == 0
        yield folder


@pytest.fixture
def workplace(trained, tmp_path, monkeypatch):
    """A copy of it to run commands in."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    for number in range(20):
        file = (
            tmp_path / "experiments" / "flowers" / ("daisy", "tulip")[number % 2] / f"{number}.png"
        )
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (10 * number, 0, number)).save(file)
    labels = np.arange(20) % 2
    images = np.zeros((20, 8, 8), np.uint8)
    for name in ("flowers", "shirts"):
        np.savez(tmp_path / "experiments" / f"{name}.npz", x_train=images, y_train=labels)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def without_workers(words: list[str]) -> list[str]:
    """A command for this process and all of its cores, which needs no further package."""
    for option in ("--processes", "--track", "--cores"):
        if option in words:
            at = words.index(option)
            words = words[:at] + words[at + 2 :]
    # Races and searches take many seeds; sweeps and races have tests of their own.
    return [*words, "--dry-run"] if {"--on", "--race", "--sampler"} & set(words) else words


def shortened(command: str) -> list[str]:
    words = without_workers(shlex.split(command, comments=True)[1:])
    if words[0] == "merge":  # folders of other machines
        words = ["merge", "--help"]
    if words[0] == "run" and "--dry-run" not in words:
        for option in ("--epochs", "--dataset", "--data-dir", "--seeds"):
            if option in words:
                at = words.index(option)
                del words[at : at + 2]
        words = [w for w in words if not w.startswith("train.epochs=")] + SHORT
        if "--over" in words:  # which refuses a key that is set as well
            key = words[words.index("--over") + 1].partition("=")[0]
            words = [word for word in words if not word.startswith(f"dataset.{key}=")]
        if {"--until-decided", "--anytime"} & set(words):  # they choose the seeds themselves
            if "--seeds" in words:
                del words[words.index("--seeds") : words.index("--seeds") + 2]
            words = [word for word in words if not word.startswith("seeds=")]
            later = "my_idea.yaml" in words  # the page goes on with these runs
            words += ["--looks", "4", "--max-seeds", "4"] if later else ["--dry-run"]
        if "--tune" in words and "--trials" not in words:
            words += ["--trials", "2", "--tune-seeds", "1"]
    if words[0] == "confirm":  # the page's sweep has another number here
        words = ["confirm", "--seeds", "2"]
    if words[0] == "watch":
        words.append("--once")  # there is no terminal
    if words[0] == "bench" and "--against" in words:
        words[1] = "mlp"
        at = words.index("--against") + 1
        words[at:] = [words[at].split(",")[-1], "--rounds", "3", "--budget", "1"]
        words += ["--dataset", "mnist_5k", "dataset.train_examples=500"]
    return words


@pytest.mark.parametrize(
    "page", [p for p in PAGES if yaml_blocks(p) and p not in IN_ORDER], ids=ids
)
def test_yaml_blocks_are_experiments(page, workplace):
    write_modules(page, workplace)
    write_arrays(page, workplace)
    for block in yaml_blocks(page):
        load_experiment(write_block(block, workplace))


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[pytest.mark.slow] if page.name in SLOW else [])
        for page in PAGES
        if commands(page) and page not in IN_ORDER
    ],
    ids=ids,
)
def test_commands_run(page, workplace):
    blocks = yaml_blocks(page)
    write_modules(page, workplace)
    for command in commands(page):
        while blocks and page.read_text().index(blocks[0]) < page.read_text().index(command):
            write_block(blocks.pop(0), workplace)
        done = CliRunner().invoke(app, shortened(command), catch_exceptions=False)
        assert done.exit_code == 0, f"{command}\n{done.stderr}"


def test_code_of_the_python_page_runs(workplace, monkeypatch):
    """On the runs that are there: a training asks for these, whatever the page says."""
    page = (ROOT / "docs" / "reference" / "python.md").read_text()
    whole = cnnbench.run

    def short(*experiments: str, **_: object) -> cnnbench.RunList:
        digits = {"dataset.train_examples": 500}
        names = [f"experiments/{name}.yaml" for name in experiments]
        return whole(*names, dataset="mnist_5k", epochs=1, overrides=digits, needed=True)

    monkeypatch.setattr(cnnbench, "run", short)
    names: dict[str, object] = {}
    for block in re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        exec(compile(block, "python.md", "exec"), names)
    assert len(list(Path("results").glob("*/*/run.json"))) == 2  # nothing was trained
    assert names["df"].shape == (2, 19)  # type: ignore[attr-defined]
    assert list(names["final"].index) == ["Modified CNN", "Standard CNN"]  # type: ignore[attr-defined]


@pytest.mark.slow
def test_code_of_the_notebook_page_runs(tmp_path, monkeypatch):
    page = ROOT / "docs" / "how-to" / "notebooks.md"
    monkeypatch.chdir(tmp_path)
    for block in yaml_blocks(page):
        Path(f"{yaml.safe_load(block)['name']}.yaml").write_text(block)
    names: dict[str, object] = {}
    for block in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
        exec(compile(block, "notebooks.md", "exec"), names)
    assert names["over"].verdict == (  # type: ignore[attr-defined]
        "Wide MLP is better than Small MLP at every train_examples (100, 400 and 1,600)."
    )
    assert len(names["frame"]) == 3  # type: ignore[arg-type]
    for shown in ("result", "over", "tuned", "sweep"):
        assert "<table>" in names[shown]._repr_html_()  # type: ignore[attr-defined]


def test_python_page_names_everything_public():
    page = (ROOT / "docs" / "reference" / "python.md").read_text()
    for name in {*cnnbench.__all__} - {"__version__"}:
        assert re.search(rf"\b{name}\b", page), name
    for function in (cnnbench.run, cnnbench.compare, cnnbench.sweep):
        for name in inspect.signature(function).parameters:
            assert re.search(rf"\b{name}\b", page), name
    for member in ("verdict", "verdicts", "comparison", "to_frame", "to_latex", "to_markdown"):
        assert f"`{member}" in page or f"{member}()`" in page


def test_commands_of_the_workflow_of_ci_run(workplace):
    (block,) = re.findall(r"^```yaml\n(.*?)^```", CI_PAGE.read_text(), re.MULTILINE | re.DOTALL)
    steps = yaml.safe_load(block)["jobs"]["compare"]["steps"]
    lines = [line for step in steps for line in step.get("run", "").splitlines()]
    compare, report = (line for line in lines if re.match("cnnbench (?!run)", line))
    done = CliRunner().invoke(app, shlex.split(compare)[1:], catch_exceptions=False)
    assert done.exit_code == 4  # one seed has no interval
    assert "accuracy:-1pp inconclusive" in done.stderr
    done = CliRunner().invoke(app, shlex.split(report)[1:], catch_exceptions=False)
    assert done.exit_code == 0


def test_make_targets_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {name for p in PAGES for name in re.findall(r"`make ([a-z]+)", p.read_text())}
    assert named <= targets
    assert {"run", "test", "docs"} <= named


def anchors(page: Path) -> set[str]:
    """Names that GitHub gives to the headings of a page, the first of each text."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for link, anchor in re.findall(r"\]\((?!\w+:)([^)#]*)#?([^)]*)\)", page.read_text()):
            target = page.parent / link if link else page
            assert target.exists(), f"{page.name}: {link}"
            assert not anchor or anchor in anchors(target), f"{page.name}: {link}#{anchor}"


def test_the_index_has_the_output_of_the_readme():
    (block,) = re.findall(
        r"^```console\n(.*?)\.\.\.\n```", INDEX.read_text(), re.MULTILINE | re.DOTALL
    )
    assert block in (ROOT / "README.md").read_text(), "copy README's output into docs/index.md"


def test_the_index_links_every_page():
    folder = ROOT / "docs"
    pages = {str(page.relative_to(folder)) for page in folder.rglob("*.md")} - {"index.md"}
    links = re.findall(r"\]\(([\w/-]+\.md)\)", INDEX.read_text())
    assert set(links) == pages


@pytest.fixture(scope="module")
def reference():
    """The program that writes tables of docs/reference/."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "docs")
        yield importlib.import_module("make_reference")


@pytest.mark.parametrize("name", ["cli.md", "run-folder.md", "spec.md", "tables.md"])
def test_tables_of_a_page_are_what_the_code_says(name, reference, monkeypatch):
    monkeypatch.setattr("sys.argv", ["cnnbench"])
    page = (reference.FOLDER / name).read_text()
    assert "<!-- table: " in page
    assert reference.RENDERERS[name](page) == page, "run: python docs/make_reference.py"


def test_every_page_with_tables_is_generated(reference):
    pages = {
        path.name for path in reference.FOLDER.glob("*.md") if "<!-- table" in path.read_text()
    }
    assert pages == set(reference.RENDERERS)


def test_the_command_line_page_has_every_command_and_option():
    page = (ROOT / "docs" / "reference" / "cli.md").read_text()
    sections = dict(
        re.findall(r"^## `cnnbench ([\w ]+)`\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    )
    commands = re.findall(r"^│ (\w+) ", CliRunner().invoke(app, ["--help"]).stdout, re.MULTILINE)
    assert {name.split()[0] for name in sections} == set(commands)
    for name, section in sections.items():
        shown = CliRunner().invoke(app, [*name.split(), "--help"]).stdout
        for option in set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", shown)) - {"--help"}:
            assert option in section, f"{name} {option}"


def test_spec_page_names_every_activation_and_initialization():
    page = (ROOT / "docs" / "reference" / "spec.md").read_text()
    for name in (*ACTIVATION_NAMES, *INIT_NAMES):
        assert re.search(rf"\b{name}\b", page)


@pytest.mark.parametrize(
    ("version", "constraints"),
    [("3.11", "3.11"), ("3.12", "3.11"), ("3.13", "3.13"), ("3.14", "3.13")],
)
def test_make_takes_the_versions_for_the_python_that_is_asked_for(version, constraints, tmp_path):
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho {version}\n")
    python.chmod(0o755)
    command = ["make", "--dry-run", "--always-make", "test", f"PYTHON={python}", "EXTRAS=dev"]
    own = without("MAKE", "MFLAGS", "TESTS")  # tests may be run by make, whose children say more
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env=own)
    folder, file = f".venv-{version}", f"constraints-{constraints}.txt"
    assert done.stdout.splitlines() == [
        f"test -x {folder}/bin/python || {python} -m venv {folder}",
        f'{folder}/bin/python -m pip install --quiet --constraint {file} --editable ".[dev]"',
        f"touch {folder}/.installed-dev",
        f"{folder}/bin/python -m pytest -n 2 ",
    ]
    assert (ROOT / file).exists()


def test_make_help_lists_every_target():
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    listed = re.findall(r"^  make (\w+)", done.stdout, re.MULTILINE)
    names = ["help", "run", "test", "proofs", "coverage", "mutants", "lint", "docs", "smoke"]
    names += ["base", "bench", "clean"]
    assert listed == names
