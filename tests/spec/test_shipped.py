"""Experiments by name: which file a name means, in a checkout and in an empty folder."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cnnbench.cli.app import app
from cnnbench.errors import SpecError, UsageError
from cnnbench.spec import shipped
from cnnbench.spec.inheritance import lineage
from cnnbench.spec.loader import load_experiment
from tests.support.paths import EXPERIMENTS

SHIPPED = sorted(path.stem for path in EXPERIMENTS.glob("*.yaml"))
HERE = """\
name: mine
task: classify
dataset: {name: mnist_5k}
model: {layers: {out: {op: dense, units: 10}}}
"""


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def invoke(*words: str, code: int = 0):
    done = CliRunner().invoke(app, [*words], prog_name="cnnbench", catch_exceptions=False)
    assert done.exit_code == code, done.stderr
    return done


@pytest.mark.parametrize("name", [*SHIPPED, "post/standard"])
def test_a_name_finds_a_shipped_experiment(name):
    named = shipped.find_named(name)
    assert named is not None
    assert named.path.samefile(EXPERIMENTS / f"{name}.yaml")
    assert str(named) == f"{name}: {EXPERIMENTS / name}.yaml (ships with cnnbench)"
    assert load_experiment(named.path).plan is not None


def test_show_prints_the_file_of_a_name():
    done = invoke("show", "standard", "modified")
    assert done.stderr == (
        f"standard: {EXPERIMENTS}/standard.yaml (ships with cnnbench)\n"
        f"modified: {EXPERIMENTS}/modified.yaml (ships with cnnbench)\n"
    )
    text = re.sub(r"\s+", "", done.stdout)
    assert "StandardCNN(standard)" in text
    assert "160,362" in text
    assert "ComparedwithStandardCNN:" in text


def test_files_of_the_working_directory_come_first():
    Path("standard.yaml").write_text(HERE)
    done = invoke("show", "standard")
    other = EXPERIMENTS / "standard.yaml"
    assert done.stderr == f"standard: standard.yaml, not {other}\n"
    Path("experiments").mkdir()
    Path("experiments/standard.yaml").write_text(HERE.replace("mine", "other"))
    done = invoke("show", "standard")
    assert done.stderr == "standard: experiments/standard.yaml, not standard.yaml\n"
    shutil.copy(other, "experiments/standard.yaml")
    Path("standard.yaml").unlink()
    done = invoke("show", "standard")
    assert done.stderr == "standard: experiments/standard.yaml\n"


def test_an_existing_file_is_a_path_whatever_its_name():
    Path("standard").write_text(HERE)
    done = invoke("show", "standard")
    assert done.stderr == ""
    assert "mine" in done.stdout


@pytest.mark.parametrize("command", ["show", "run", "bench", "gradcheck", "watch"])
@pytest.mark.parametrize(
    ("word", "message"),
    [
        (
            "standrd",
            "no experiment named 'standrd' (did you mean 'standard'?);"
            f" use {', '.join(SHIPPED)} or a file.\n",
        ),
        (
            "keras_convnt",
            "no experiment named 'keras_convnt' (did you mean 'published/keras_convnet'?);"
            f" use {', '.join(SHIPPED)} or a file.\n",
        ),
        (
            "standrd.yaml",
            "standrd.yaml: cannot be read: no such file or directory (did you mean 'standard'?);"
            " check the file name.\n",
        ),
        (
            "none/standard.yaml",
            "none/standard.yaml: cannot be read: no such file or directory (did you mean"
            " 'standard'?); check the file name.\n",
        ),
        ("folder", "folder: is a folder; specify a .yaml file.\n"),
    ],
)
def test_an_unknown_name(command, word, message):
    Path("folder").mkdir()
    done = invoke(command, word, code=2)
    assert done.stderr == message


def test_overrides_and_options_go_with_names():
    done = invoke("run", "standard", "--dry-run", "--epochs", "2", "train.optimizer=adam")
    assert "would train 2 epochs" in done.stdout


def test_new_starts_from_a_name_and_watch_shows_it():
    invoke("new", "modified", "idea.yaml")
    assert Path("modified.yaml").read_bytes() == (EXPERIMENTS / "modified.yaml").read_bytes()
    done = invoke("watch", "idea", "--once")
    assert done.stderr == "idea: idea.yaml\n"
    assert "no differences" in done.stdout


def test_a_file_extends_a_name():
    Path("idea.yaml").write_text("extends: standard\nname: idea\ntrain: {epochs: 3}\n")
    found = load_experiment(Path("idea.yaml")).experiment
    own = load_experiment(EXPERIMENTS / "standard.yaml", ["train.epochs=3"]).experiment
    assert found.digest() == own.digest()
    assert lineage(Path("idea.yaml")) == (Path("idea.yaml"), EXPERIMENTS / "standard.yaml")
    assert "epochs: 30 -> 3" in re.sub(r" +", " ", invoke("watch", "idea", "--once").stdout)


def test_a_local_file_takes_precedence_over_a_shipped_one():
    Path("standard.yaml").write_text(HERE)
    Path("idea.yaml").write_text("extends: standard\nname: idea\n")
    assert list(load_experiment(Path("idea.yaml")).experiment.model.layers) == ["out"]
    assert lineage(Path("idea.yaml"))[1] == Path("standard.yaml")


def test_a_file_may_extend_a_shipped_one_of_its_name():
    Path("standard.yaml").write_text("extends: standard\nname: mine\ntrain: {epochs: 3}\n")
    assert load_experiment(Path("standard.yaml")).experiment.train.epochs == 3


def test_new_does_not_copy_shipped_parents():
    Path("idea.yaml").write_text("extends: standard\nname: idea\n")
    Path("below").mkdir()
    done = invoke("new", "idea", "below/mine.yaml")
    assert "copied below/idea.yaml\n" in done.stdout
    assert load_experiment(Path("below/mine.yaml")).experiment.name == "mine"


def test_an_override_without_a_value_is_not_an_experiment():
    with pytest.raises(UsageError) as caught:
        shipped.find_named("train.epochs")
    message = "the override 'train.epochs' has no value; use train.epochs=VALUE."
    assert str(caught.value) == message


def test_a_missing_parent_suggests_names():
    Path("idea.yaml").write_text("extends: standrd\nname: idea\n")
    with pytest.raises(SpecError) as caught:
        load_experiment(Path("idea.yaml"))
    assert str(caught.value) == (
        "idea.yaml:1:10: extends: no file 'standrd' in the folder of this file, nor among the"
        " shipped experiments (did you mean 'standard'?); use a file, or autoencoder, denoising,"
        " mlp, modified, standard, untied, vae or vae_2d."
    )


@pytest.mark.parametrize("word", ["../standard", "/etc/standard", "", ".", "a\nb", "x" * 300])
def test_paths_are_not_names(word):
    assert shipped.find_shipped(word) is None


def test_names_too_long_or_odd_are_one_line():
    for word in ("x" * 300, "x" * 5000, "\udce9"):
        done = invoke("show", word, code=2)
        assert len(done.stderr.splitlines()) == 1


WRONG = HERE.replace("dense", "dens")


TOLD = (
    "show wrong.yaml",
    "show standrd",
    "run wrong.yaml",
    "run standard wrong.yaml",
    "run standard train.epochs=0",
    "run wrong.yaml --dry-run",
    "run wrong.yaml --needed",
    "run wrong.yaml standard --match params",
    "run standard --match params",
    "run",
    "run none.yaml",
    "run standard --seeds x",
    "run --resume none",
    "bench wrong.yaml",
    "bench standard --against tensorflo",
    "gradcheck wrong.yaml",
    "gradcheck standard model.conv1.kernel=40",
    "watch wrong.yaml --once",
    "new wrong.yaml idea.yaml",
)


def test_an_invalid_experiment_is_reported_before_importing_jax():
    """In a separate process, because imported modules cannot be unloaded."""
    Path("wrong.yaml").write_text(WRONG)
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom cnnbench.cli.app import app\n"
        f"for words in {TOLD!r}:\n"
        "    done = CliRunner().invoke(app, words.split(), prog_name='cnnbench')\n"
        "    heavy = sorted({'jax', 'flax', 'optax', 'torch'} & set(sys.modules))\n"
        "    print([words, done.exit_code, heavy])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [str([words, 2, []]) for words in TOLD]
