"""A results folder of thousands of runs, as sweeps leave it behind, without training any.

`python -m tests.support.many_runs FOLDER [NUMBER]` writes one, 10,000 runs by default.
"""

import dataclasses
import re
import sys
from collections.abc import Iterator
from datetime import timedelta
from functools import cache
from pathlib import Path

from cnnbench.runs import codec
from cnnbench.runs.records import EpochRecord, RunResult, Status
from cnnbench.spec.loader import load_experiment
from tests.support.paths import EXPERIMENTS
from tests.support.samples import make_run

SEEDS, EPOCHS = (0, 1, 2, 3, 4, 5), 10
NAMES = ("standard", "modified", "mlp")
_RATE = re.compile(r"learning_rate: [\d.]+")
TAGS = ((), ("wide",), ("night", "lr"))


def write_runs(results_dir: Path, number: int) -> list[Path]:
    """Write runs of six seeds and ten epochs, of three experiments, with one learning rate each.

    Every 50th run failed, every 70th was killed; the others finished.
    """
    return [write_run(results_dir, run, rate) for run, rate in _runs(number)]


def write_run(results_dir: Path, run: RunResult, rate: float | None = None) -> Path:
    """Write the files of one run, without waiting for the disk; settings if there is a rate."""
    path = results_dir / run.record.name / run.record.run_id
    path.mkdir(parents=True)
    if rate is not None:
        text = _RATE.sub(f"learning_rate: {rate:g}", resolved(run.record.name))
        (path / "resolved.yaml").write_text(text)
    (path / "epochs.jsonl").write_bytes(b"".join(map(codec.encode_epoch, run.epochs)))
    if run.summary is not None:
        (path / "summary.json").write_bytes(codec.encode_summary(run.summary))
    (path / "run.json").write_bytes(codec.encode_record(run.record))
    return path


@cache
def resolved(name: str) -> str:
    """The resolved experiment of that name."""
    return load_experiment(EXPERIMENTS / f"{name}.yaml").resolved()


def _runs(number: int) -> Iterator[tuple[RunResult, float]]:
    models = [make_run(name, seeds=SEEDS) for name in NAMES]
    for index in range(number):
        yield _run(models[index % len(NAMES)], index), 0.0001 * (1 + index % 997)


def _run(model: RunResult, index: int) -> RunResult:
    start = model.record.started_at + timedelta(seconds=60 * index)
    run_id = f"{start:%Y%m%dT%H%M%SZ}-{index % 65_536:04x}"
    lost = Status.FAILED if index % 50 == 49 else Status.RUNNING if index % 70 == 69 else None
    command = (*model.record.environment.command, f"train.optimizer.learning_rate={index}")
    record = dataclasses.replace(
        model.record,
        run_id=run_id,
        started_at=start,
        finished_at=None if lost else start + timedelta(seconds=50),
        status=lost or Status.FINISHED,
        error="the disk is full" if lost is Status.FAILED else None,
        spec_digest=f"sha256:{model.record.name}-{index % 997}",
        epochs=EPOCHS,
        tags=TAGS[index % len(TAGS)],
        environment=dataclasses.replace(
            model.record.environment, command=command, load_per_cpu=index / 20_000
        ),
    )
    summary = model.summary and dataclasses.replace(
        model.summary,
        seeds=tuple(
            dataclasses.replace(
                seed,
                test={name: value - index % 4999 / 100_000 for name, value in seed.test.items()},
            )
            for seed in model.summary.seeds
        ),
    )
    return RunResult(record, None if lost else summary, tuple(_epochs(model, index)))


def _epochs(model: RunResult, index: int) -> Iterator[EpochRecord]:
    for epoch in model.epochs[::3]:
        for number in range(1, EPOCHS + 1):
            yield dataclasses.replace(epoch, epoch=number, train_loss=0.5 / (number + index % 5))


if __name__ == "__main__":
    write_runs(Path(sys.argv[1]), int((sys.argv[2:] or ["10000"])[0]))
