"""``cnnbench new``: files that are identical to their parent until edited, and errors."""

import re
import shutil
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

from cnnbench.cli.app import app
from cnnbench.spec import shipped
from cnnbench.spec.diff import differences
from cnnbench.spec.document import read_document
from cnnbench.spec.json_schema import schema, schema_text
from cnnbench.spec.loader import Loaded, load_experiment
from tests.support.golden import approved
from tests.support.paths import EXPERIMENTS

SHIPPED = sorted(path.stem for path in EXPERIMENTS.glob("*.yaml"))


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    """A folder that holds the experiments, as a checkout does."""
    shutil.copytree(EXPERIMENTS, tmp_path / "experiments")
    monkeypatch.chdir(tmp_path)


def new(*words: str, code: int = 0):
    done = CliRunner().invoke(app, ["new", *words], prog_name="cnnbench", catch_exceptions=False)
    assert done.exit_code == code, done.stderr
    return done


def refused(*words: str, code: int = 2) -> str:
    done = new(*words, code=code)
    assert done.stdout == ""
    return str(done.stderr)


def nothing_differs(path: Path, parent: Path) -> bool:
    one, two = load_experiment(parent), load_experiment(path)
    return differences(one, two).lines == () and _digest(one) == _digest(two)


def _digest(loaded: Loaded) -> str:
    return loaded.experiment.digest()


def test_writes_file_and_prints_next_steps():
    done = new("modified", "my_idea.yaml")
    text = Path("my_idea.yaml").read_text()
    assert text == approved("new.yaml", text)
    assert done.stdout == (
        "wrote my_idea.yaml, which extends experiments/modified.yaml\n"
        "Edit it, then run:\n\n"
        "    cnnbench watch my_idea.yaml\n"
        "    cnnbench run experiments/modified.yaml my_idea.yaml --seeds 6\n"
    )


@pytest.mark.parametrize("parent", SHIPPED)
def test_a_new_experiment_is_its_parent_with_and_without_its_comments(parent):
    new(parent, "my_idea.yaml")
    path, source = Path("my_idea.yaml"), Path(f"experiments/{parent}.yaml")
    assert nothing_differs(path, source)
    assert load_experiment(path).experiment.type_title == "My idea"
    text = path.read_text()
    whole = re.sub(r"^( *)# (?!NAME)( *\w+:)", r"\1\2", text, flags=re.MULTILINE)
    assert whole.count("#") == 5 < text.count("#")
    path.write_text(whole)
    assert nothing_differs(path, source)


def test_the_first_line_leads_editors_to_the_schema():
    new("modified", "experiments/my_idea.yaml")
    first = Path("experiments/my_idea.yaml").read_text().splitlines()[0]
    found = re.fullmatch(r"# yaml-language-server: \$schema=(\S+)", first)
    assert found is not None
    assert Path("experiments", found[1]).read_text() == schema_text()
    data = read_document(Path("experiments/my_idea.yaml")).data
    assert Draft202012Validator(schema()).is_valid(data)


@pytest.mark.parametrize(
    ("file", "extends"),
    [
        ("my_idea.yaml", "experiments/modified.yaml"),
        ("experiments/my_idea.yaml", "modified.yaml"),
        ("experiments/../my_idea.yml", "experiments/modified.yaml"),
    ],
)
def test_a_parent_in_the_folder_or_below_is_not_copied(file, extends):
    new("modified", file)
    assert read_document(Path(file)).data["extends"] == extends
    assert nothing_differs(Path(file), Path("experiments/modified.yaml"))


def test_a_parent_elsewhere_is_copied_with_its_own_parents(tmp_path, monkeypatch):
    place = tmp_path / "elsewhere"
    place.mkdir()
    monkeypatch.chdir(place)
    done = new("modified", "my_idea.yaml")
    assert done.stdout.splitlines()[:2] == [
        "wrote my_idea.yaml, which extends modified.yaml",
        "copied modified.yaml, standard.yaml",
    ]
    shutil.rmtree(tmp_path / "experiments")
    assert nothing_differs(Path("my_idea.yaml"), EXPERIMENTS / "modified.yaml")
    again = new(str(EXPERIMENTS / "modified.yaml"), "my_other.yaml")
    assert "copied modified.yaml, standard.yaml" in again.stdout  # the same files
    Path("standard.yaml").write_text("name: standard\n")
    message = refused(str(EXPERIMENTS / "modified.yaml"), "third.yaml")
    assert message == (
        f"third.yaml: copying {EXPERIMENTS}/standard.yaml would overwrite another file,"
        f" standard.yaml; choose a file in another folder, or in {EXPERIMENTS}.\n"
    )
    assert not Path("third.yaml").exists()


def test_a_parent_in_a_virtual_environment_below_the_folder_is_copied(tmp_path, monkeypatch):
    """A file that extends one of the installed package would be invalid without that package."""
    package = tmp_path / ".venv" / "lib" / "cnnbench"
    monkeypatch.setattr(shipped, "_PACKAGE", package)
    shutil.copytree(EXPERIMENTS, package / "experiments")
    done = new(str(package / "experiments" / "modified.yaml"), "my_idea.yaml")
    assert done.stdout.splitlines()[:2] == [
        "wrote my_idea.yaml, which extends modified.yaml",
        "copied modified.yaml, standard.yaml",
    ]


def test_a_copy_never_takes_the_new_files_place(tmp_path, monkeypatch):
    place = tmp_path / "elsewhere"
    place.mkdir()
    monkeypatch.chdir(place)
    message = refused("modified", "standard.yaml", "--name", "mine")
    assert "standard.yaml would overwrite the new file; choose a file in" in message


def test_a_path_may_be_the_parent_and_a_new_experiment_too():
    new("experiments/post/standard.yaml", "my_idea.yaml", "--name", "mine")
    assert read_document(Path("my_idea.yaml")).data["name"] == "mine"
    new("my_idea.yaml", "child.yaml")
    assert nothing_differs(Path("child.yaml"), Path("experiments/post/standard.yaml"))


def test_an_existing_file_is_kept_unless_it_is_forced():
    Path("my_idea.yaml").write_text("mine")
    message = "my_idea.yaml: already exists; name another file, or add --force.\n"
    assert refused("modified", "my_idea.yaml") == message
    assert Path("my_idea.yaml").read_text() == "mine"
    Path("results/my_idea").mkdir(parents=True)  # its own runs
    new("modified", "my_idea.yaml", "--force")
    assert nothing_differs(Path("my_idea.yaml"), Path("experiments/modified.yaml"))


NAMING = "start with a letter and use letters, digits, '-' and '_'"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["modifed", "a.yaml"],
            "no experiment named 'modifed' (did you mean 'modified'?);"
            f" use {', '.join(SHIPPED)} or a file.\n",
        ),
        (
            ["none/such.yaml", "a.yaml"],
            "none/such.yaml: cannot be read: no such file or directory; check the file name.\n",
        ),
        (["mlp", "a.txt"], "a.txt: the name of an experiment file must end in .yaml; add it.\n"),
        (["mlp", "no/a.yaml"], "no/a.yaml: no such folder 'no'; create it first.\n"),
        (
            ["mlp", "2x.yaml"],
            f"2x.yaml: '2x' is not a valid experiment name; use --name NAME ({NAMING}).\n",
        ),
        (
            ["mlp", "a.yaml", "--name", "a b"],
            f"--name: 'a b' is not a valid experiment name; {NAMING}.\n",
        ),
        (
            ["mlp", "a.yaml", "--name", "a" * 65],
            f"--name: the name '{'a' * 35}...' is too long; use at most 64 characters.\n",
        ),
        (
            ["mlp", "standard.yaml"],
            "the name 'standard' is already used by experiments/standard.yaml;"
            " choose another with --name.\n",
        ),
        (
            ["mlp", "experiments/a.yaml", "--name", "autoencoder"],
            "the name 'autoencoder' is already used by experiments/autoencoder.yaml;"
            " choose another with --name.\n",
        ),
        (
            ["modified", "experiments/standard.yaml", "--name", "a", "--force"],
            "experiments/standard.yaml: the new file would overwrite a file that it extends;"
            " choose another.\n",
        ),
    ],
)
def test_invalid_arguments_write_nothing(words, message):
    before = sorted(Path().rglob("*"))
    assert refused(*words) == message
    assert sorted(Path().rglob("*")) == before


def test_a_name_with_runs_is_taken():
    Path("runs/my_idea").mkdir(parents=True)
    message = "runs/my_idea has runs of another experiment with that name; "
    message += "choose another name with --name.\n"
    assert refused("mlp", "my_idea.yaml", "--results-dir", "runs") == message


def test_an_invalid_parent_is_reported_with_its_location():
    Path("wrong.yaml").write_text(
        "name: wrong\ntask: classify\ndataset: {name: mnist}\nmodel: {}\n"
    )
    assert refused("wrong", "my_idea.yaml") == (
        "wrong.yaml:4:8: model: the model has neither layers nor python; specify exactly one of"
        " them.\n"
    )


def test_a_python_model_must_stay_in_the_folder_of_its_class():
    head = "name: net\ntask: classify\ndataset: {name: mnist_5k}\n"
    Path("experiments/net.yaml").write_text(head + "model: {python: 'net:Net', args: {n: 3}}\n")
    assert refused("experiments/net.yaml", "a.yaml") == (
        "a.yaml: the Python model of experiments/net.yaml must be in the folder of the experiment;"
        " choose a file in experiments.\n"
    )
    new("net", "experiments/a.yaml")
    assert "# model: {python: 'net:Net', args: {n: 3}}" in Path("experiments/a.yaml").read_text()
    assert nothing_differs(Path("experiments/a.yaml"), Path("experiments/net.yaml"))


def test_a_disk_that_refuses_is_one_line(monkeypatch):
    def full(path, *parts):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cnnbench.cli.commands.new.write_atomic", full)
    message = "a.yaml: cannot be written: no space left on device; name a file in another folder.\n"
    assert refused("mlp", "a.yaml", code=1) == message
