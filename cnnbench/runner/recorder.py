"""What a run writes as it goes: its record, then every event as soon as it is known."""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, assert_never

from cnnbench.graph.autoencoder import code_layer
from cnnbench.runs.checkpoints import Checkpoints
from cnnbench.runs.cost import Cost
from cnnbench.runs.folder import RunFolder
from cnnbench.runs.records import (
    EngineRecord,
    EpochRecord,
    SeedSummary,
    Summary,
)
from cnnbench.runs.weights import digest
from cnnbench.spec.experiment import Task
from cnnbench.training.events import (
    Checkpoint,
    Compiled,
    Event,
    Resumed,
    SeedDone,
    Snapshot,
    StepDone,
    Trained,
    Tuning,
)

if TYPE_CHECKING:
    from cnnbench.training.executables import Job


@dataclass(slots=True)
class Collected:
    """What the summary and the last record need from the events."""

    num_params: int = 0
    engine: EngineRecord | None = None
    compile_s: float = 0.0
    seeds: tuple[SeedSummary, ...] = ()
    cost: Cost | None = None


def keep(event: Event, folder: RunFolder, checkpoints: Checkpoints, collected: Collected) -> None:
    """Writes what an event brings, and collects it."""
    match event:
        case Compiled(num_params=num_params, compile_s=compile_s):
            collected.num_params, collected.compile_s = num_params, compile_s
            collected.engine = event.engine
        case EpochRecord():
            folder.append_epoch(event)
        case Checkpoint(seed=seed, epoch=epoch, values=values):
            checkpoints.save(seed, epoch, values)
        case SeedDone():
            learnt = dataclasses.replace(event.summary, weights_digest=digest(event.weights))
            collected.seeds += (learnt,)
            folder.write_weights(event.summary.seed, event.weights)
            if event.outputs is not None and len(collected.seeds) == 1:
                from cnnbench.report.plots.image_grid import reconstructions_png

                picture: Any = reconstructions_png(event.inputs, event.outputs)
                folder.write("reconstructions.png", picture)
        case Trained(engine=engine, cost=cost):
            collected.engine, collected.cost = engine, cost
        case Resumed() | StepDone() | Snapshot() | Tuning():
            pass
        case _:
            assert_never(event)


def summary(job: "Job", collected: Collected) -> Summary:
    """The summary of a run whose seeds have all ended."""
    from cnnbench.training.evaluation import metric_directions

    metrics = metric_directions(job.experiment)
    first = next(iter(metrics))
    reconstructs = job.experiment.task is Task.RECONSTRUCT
    wanted = job.experiment.model.code_layer
    code = code_layer(job.plan, wanted) if job.plan and reconstructs else None
    return Summary(
        num_params=collected.num_params,
        compile_s=collected.compile_s,
        headline="loss" if reconstructs else first,
        metrics=metrics,
        seeds=collected.seeds,
        cost=collected.cost,
        code=code,
    )
