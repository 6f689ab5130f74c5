"""``cnnbench bench`` end to end, on few images."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import cnnbench
from cnnbench.bench import session
from cnnbench.bench.scheduler import OURS
from cnnbench.bench.worker_process import BenchVariant
from cnnbench.cli.app import app
from cnnbench.training import matmul_peak

PACKAGE = Path(cnnbench.__file__).parent
TINY = """\
name: tiny
title: Tiny CNN
task: classify
dataset: {name: mnist_5k, train_examples: 300}
model:
  layers:
    conv1: {op: conv, filters: 4, kernel: 5, activation: relu}
    pool1: {op: max_pool, size: 4}
    dense1: {op: dense, units: 10}
train: {epochs: 2, batch_size: 100}
"""
QUICK = ["--rounds", "3", "--budget", "1"]


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("PYTHONPATH", str(PACKAGE.parent))
    monkeypatch.setenv("CNNBENCH_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "tiny.yaml").write_text(TINY)
    monkeypatch.setattr(matmul_peak, "find_spec", lambda name: name == "numpy")  # quick to start


def invoke(*words: str):
    return CliRunner().invoke(app, list(words), prog_name="cnnbench", catch_exceptions=False)


@pytest.mark.slow
def test_a_table_is_printed_and_kept(monkeypatch):
    fake = BenchVariant("a", "torch", "tests.bench.fake_frameworks")
    monkeypatch.setattr(session, "variants", lambda *_: (OURS, fake))
    done = invoke("bench", "tiny.yaml", "train.batch_size=50", *QUICK)
    assert done.exit_code == 0, done.stderr
    assert "Tiny CNN: mnist_5k, 300 training images, batch size 50" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    (path,) = Path("results/bench").glob("*.json")
    spec = json.loads(path.read_text())["specs"]["tiny"]
    assert spec["best_torch"] == "a"
    assert 0 < spec["gemm_share"] < 1
    assert spec["peers"]["cnnbench"]["metrics"]["accuracy"] <= 1
    assert path.with_suffix(".md").read_text().startswith("### Tiny CNN")
    assert f"wrote {path}" in done.stderr


@pytest.mark.slow
def test_plain_flax_takes_part():
    done = invoke("bench", "tiny.yaml", "--against", "flax", "--format", "json", *QUICK)
    assert done.exit_code == 0, done.stderr
    peers = json.loads(done.stdout)["specs"]["tiny"]["peers"]
    assert {name: peer["outcome"] for name, peer in peers.items()} == {
        "cnnbench": "measured",
        "flax": "measured",
    }
    # Same weights, same batches, no dropout: the same network comes out.
    losses = [peer["metrics"]["loss"] for peer in peers.values()]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tiny.yaml", "--against", "fax"], "--against: unknown framework 'fax'"),
        (["tiny.yaml", "tiny.yaml"], "command line: two experiments are named 'tiny'"),
        (["model.conv1.kernel=3"], "no experiment given"),
        (["gone.yaml"], "gone.yaml"),
        (
            ["tiny.yaml", "--output", "tiny.yaml/a"],
            "--output tiny.yaml/a: cannot create",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is(words, message):
    done = invoke("bench", *words)
    assert done.exit_code in {1, 2}
    assert done.stderr.splitlines()[-1].startswith(message)
    assert not Path("results").exists()


def test_ours_must_come_to_the_end(monkeypatch):
    broken = BenchVariant("cnnbench", "cnnbench", "tests.no_such_module")
    monkeypatch.setattr(session, "variants", lambda *_: (broken,))
    done = invoke("bench", "tiny.yaml", *QUICK)
    assert done.exit_code == 1
    assert done.stderr.splitlines()[-1] == (
        "tiny: cnnbench itself could not be measured: its process exited with code 1: "
        "ModuleNotFoundError: No module named 'tests.no_such_module'"
    )
