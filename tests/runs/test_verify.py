"""What `cnnbench check` finds in a run's folder: one change, one sentence."""

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cnnbench import __version__
from cnnbench.cli.app import app
from cnnbench.runner.open_run import alone
from cnnbench.runs import codec
from cnnbench.runs.folder import RunFolder, read_predictions, read_run
from cnnbench.runs.records import Status
from cnnbench.runs.verify import check_run
from cnnbench.system.locks import hold

TINY = """\
name: tiny
task: classify
dataset: {name: mnist_5k, train_examples: 60, splits: {validation: 20, test: 20}}
model:
  layers:
    dense1: {op: dense, units: 10}
train: {epochs: 2, batch_size: 30}
seeds: [0, 1]
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    (folder / "tiny.yaml").write_text(TINY)
    words = ["run", str(folder / "tiny.yaml"), "--quiet", "--results-dir", str(folder / "results")]
    assert CliRunner().invoke(app, words, catch_exceptions=False).exit_code == 0
    (run,) = (folder / "results" / "tiny").iterdir()
    return run


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    path = tmp_path / "results" / "tiny" / finished.name
    shutil.copytree(finished, path)
    return path


def test_a_finished_run_is_sound(run: Path) -> None:
    assert check_run(run) == []


def in_json(name: str, change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def apply(run: Path) -> None:
        document = json.loads((run / name).read_text())
        change(document)
        (run / name).write_text(json.dumps(document))

    return apply


def in_epochs(change: Callable[[list[dict[str, Any]]], None]) -> Callable[[Path], None]:
    def apply(run: Path) -> None:
        lines = [json.loads(line) for line in (run / "epochs.jsonl").read_text().splitlines()]
        change(lines)
        (run / "epochs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    return apply


def in_text(name: str, old: str, new: str) -> Callable[[Path], None]:
    def apply(run: Path) -> None:
        text = (run / name).read_text()
        assert old in text
        (run / name).write_text(text.replace(old, new))

    return apply


ACCURACY = "validation_accuracy"


def swap_weights(run: Path) -> None:
    one, other = (run / "weights" / f"seed-{seed}.safetensors" for seed in (0, 1))
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)


def swap_predictions(run: Path) -> None:
    one, other = (run / "predictions" / f"seed-{seed}.safetensors" for seed in (0, 1))
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)


def change_a_bit(run: Path) -> None:
    file = run / "predictions" / "seed-1.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def predict_fewer(run: Path) -> None:
    """One test image less, of the share that is correct."""
    known = read_predictions(run, 0)
    assert known is not None
    RunFolder(run).write_predictions(0, {"test_accuracy": known["test_accuracy"][:10]})


SUMS = "summary.json: the values of seed 1 differ from its epochs"


@pytest.mark.parametrize(
    ("change", "problems"),
    [
        (
            in_epochs(lambda lines: lines.__delitem__(-1)),
            ["epochs.jsonl: seed 1 ends after 1 of 2 epochs", SUMS],
        ),
        (
            in_epochs(lambda lines: lines.append(lines[3] | {"epoch": 3})),
            ["epochs.jsonl: seed 1 has 3 epochs instead of 2", SUMS],
        ),
        (
            in_epochs(lambda lines: lines.append(lines[3] | {"seed": 7})),
            ["epochs.jsonl: seed 7 is not a seed of the run"],
        ),
        (
            in_epochs(lambda lines: lines[2].update(epoch=3)),
            ["epochs.jsonl: the epochs of seed 1 are not consecutive from 1", SUMS],
        ),
        (
            in_epochs(lambda lines: lines[3].update(validation_accuracy=1.0)),
            [SUMS],
        ),
        (
            in_epochs(lambda lines: lines[0].update(train_s=-1.0)),
            [
                "epochs.jsonl: a time is negative or NaN",
                SUMS.replace("seed 1", "seed 0"),
            ],
        ),
        (
            in_json("run.json", lambda document: document["timing"].update(train_s=1e6)),
            ["run.json: 1000000."],
        ),
        (
            in_json(
                "run.json",
                lambda document: document["environment"]["settings"].update(jax_enable_x64="true"),
            ),
            [
                f"run.json: jax_enable_x64 is true, but cnnbench {__version__} always trains with"
                " false"
            ],
        ),
        (
            in_json("run.json", lambda document: document.update(resumed_with=[{"jax": "0.9"}])),
            ["run.json: resumed_at and resumed_with have 0 and 1 entries"],
        ),
        (
            in_json("run.json", lambda document: document["engine"].update(num_devices=99)),
            ["run.json: 99 devices shared a batch, but only 2 exist"],
        ),
        (
            in_json("run.json", lambda document: document.update(seeds=[0, 0, 1])),
            [
                "run.json: duplicate seed 0",
                "resolved.yaml: the seeds differ from those in run.json",
                "summary.json: the seeds differ from those in run.json",
            ],
        ),
        (
            in_text("resolved.yaml", "activation: linear", "activation: tanh"),
            ["resolved.yaml: not the experiment that was trained (the digests differ)"],
        ),
        (lambda run: (run / "summary.json").unlink(), ["summary.json: the file is missing"]),
        (
            lambda run: (run / "weights" / "seed-1.safetensors").unlink(),
            ["weights: the file of seed 1 is missing"],
        ),
        (
            lambda run: (run / "weights" / "seed-0.safetensors").write_bytes(b"x"),
            ["{run}/weights/seed-0.safetensors: not a valid safetensors file"],
        ),
        (
            swap_weights,
            [
                "weights: the file of seed 0 has changed (the SHA-256 differs)",
                "weights: the file of seed 1 has changed (the SHA-256 differs)",
            ],
        ),
        (
            lambda run: (run / "predictions" / "seed-1.safetensors").unlink(),
            ["predictions: the file of seed 1 is missing"],
        ),
        (
            change_a_bit,
            ["{run}/predictions/seed-1.safetensors: the SHA-256 does not match; restore"],
        ),
        (
            swap_predictions,
            [
                f"predictions: {name} of seed {seed} differs from summary.json"
                for seed in (0, 1)
                for name in ("test_loss", ACCURACY, "validation_loss")
            ],
        ),
        (predict_fewer, ["predictions: test_accuracy of seed 0 has 10 images instead of 20"]),
        (
            in_epochs(lambda lines: lines[0].update(validation_acc=lines[0].pop(ACCURACY))),
            ["epochs.jsonl: seed 0, epoch 1 has no accuracy"],
        ),
        (
            in_json("summary.json", lambda document: document["seeds"][1]["best"].pop("loss")),
            ["{run}/summary.json: seeds.1.best: metrics differ from those of the run"],
        ),
        (
            in_json("run.json", lambda document: document.update(task="classiFy")),
            [
                "{run}/run.json: task: 'classiFy' is not classify, reconstruct, regress or"
                " multilabel"
            ],
        ),
        (lambda run: (run / "resolved.yaml").unlink(), ["{run}/resolved.yaml"]),
        (lambda run: (run / "run.json").write_text("{"), ["{run}/run.json:1:2: not JSON"]),
    ],
)
def test_what_is_wrong_is_told(
    run: Path, change: Callable[[Path], None], problems: list[str]
) -> None:
    change(run)
    found = check_run(run)
    assert len(found) == len(problems), found
    for text, start in zip(found, problems, strict=True):
        assert text.startswith(start.format(run=run))


def test_a_diverged_seed_is_sound(run: Path) -> None:
    """Its epochs end with the one whose loss is not finite."""

    def diverge(lines: list[dict[str, Any]]) -> None:
        lines[2]["train_loss"] = "NaN"
        del lines[3]

    shutil.rmtree(run / "predictions")  # of a seed that did not diverge
    in_epochs(diverge)(run)
    assert check_run(run) == [SUMS]
    whole = read_run(run)
    assert whole.summary is not None
    from cnnbench.runs.summary import summarize_seed

    first, second = whole.summary.seeds
    own = [epoch for epoch in whole.epochs if epoch.seed == 1]
    again = summarize_seed(own, metrics=whole.summary.metrics, test=second.test, compile_s=0.0)
    assert again.diverged == 1
    summary = dataclasses.replace(whole.summary, seeds=(first, again))
    (run / "summary.json").write_bytes(codec.encode_summary(summary))
    assert check_run(run) == []


def test_a_run_that_went_on_in_time_is_sound(run: Path) -> None:
    record = read_run(run).record
    later = (record.started_at + timedelta(microseconds=1),)
    (run / "run.json").write_bytes(
        codec.encode_record(dataclasses.replace(record, resumed_at=later))
    )
    assert check_run(run) == []


def test_a_clock_that_was_set_back_damages_nothing(run: Path) -> None:
    """Durations are of another clock, which nobody sets."""
    past = {"finished_at": "2020-01-01T00:00:00.000000Z"}
    in_json("run.json", lambda document: document.update(past))(run)
    assert check_run(run) == []
    in_json("run.json", lambda document: document.update(resumed_at=list(past.values())))(run)
    assert check_run(run) == []


def test_the_command_tells_of_every_run(run: Path, finished: Path) -> None:
    folder = str(run.parent.parent)
    done = CliRunner().invoke(app, ["check", "--results-dir", folder])
    assert (done.exit_code, done.output) == (0, f"{run}: ok\n")
    (run / "summary.json").unlink()
    done = CliRunner().invoke(app, ["check", run.name, "--results-dir", folder])
    assert done.exit_code == 1
    assert done.output == f"{run}: damaged\n  summary.json: the file is missing\n"


def test_an_autoencoder_with_a_code_is_sound(tmp_path: Path) -> None:
    """What its code is worth is no sum of its epochs."""
    layers = (
        "    code: {op: dense, units: 3}\n    dense1: {op: dense, units: 784}\n"
        "    image: {op: reshape, shape: [28, 28, 1]}\n"
    )
    text = TINY.replace("classify", "reconstruct").replace(
        "    dense1: {op: dense, units: 10}\n", layers
    )
    (tmp_path / "tiny.yaml").write_text(text)
    words = ["run", str(tmp_path / "tiny.yaml"), "--quiet", "--results-dir", str(tmp_path)]
    assert CliRunner().invoke(app, words, catch_exceptions=False).exit_code == 0
    (run,) = (tmp_path / "tiny").iterdir()
    summary = read_run(run).summary
    assert summary is not None
    assert summary.seeds[0].code_accuracy is not None
    assert check_run(run) == []


def test_a_run_that_is_being_trained_is_not_called_damaged(run: Path) -> None:
    (run / "summary.json").unlink()
    with hold(run) as mine:
        assert mine
        done = CliRunner().invoke(app, ["check", str(run)])
    text = f"{run}: is being trained; check it again when it has finished\n"
    assert (done.exit_code, done.output) == (0, text)


def interrupted(run: Path) -> Path:
    record = read_run(run).record
    stopped = dataclasses.replace(record, status=Status.INTERRUPTED)
    (run / "run.json").write_bytes(codec.encode_record(stopped))
    return run


def test_a_run_that_ends_before_its_lock_is_had_is_not_trained_again(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    interrupted(run)

    @contextmanager
    def late(folder: RunFolder) -> Iterator[None]:
        (run / "run.json").write_bytes(finished[run / "run.json"])  # by another process
        with alone(folder):
            yield

    monkeypatch.setattr("cnnbench.runner.run.alone", late)
    twice = ["run", "--resume", str(run), "--resume", str(run)]
    done = CliRunner().invoke(app, twice, catch_exceptions=False)
    assert (done.exit_code, "is already finished; nothing to train" in done.stderr) == (0, True)
    assert {file: file.read_bytes() for file in finished} == finished


def test_a_run_does_not_go_on_with_other_seeds(run: Path) -> None:
    in_text("resolved.yaml", "- 1\n", "- 1\n- 2\n")(interrupted(run))
    done = CliRunner().invoke(app, ["run", "--resume", str(run)], catch_exceptions=False)
    assert (done.exit_code, done.stderr.splitlines()[-1]) == (
        1,
        f"{run}/resolved.yaml: the seeds have changed since the run was started; restore them, or"
        " start a new run.",
    )


def test_no_runs_are_said(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["check", "--results-dir", str(tmp_path)])
    assert (done.exit_code, done.output) == (0, f"warning: there are no runs in {tmp_path}\n")
