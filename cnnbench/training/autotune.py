"""Autotuning: the fastest strategy, measured once per network and device, then cached.

Only strategies that may be the fastest by their estimated cost are compiled and measured.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cnnbench._version import __version__
from cnnbench.executors.processes import leads, num_processes, shared
from cnnbench.graph.geometry import geometry
from cnnbench.graph.plan import Plan
from cnnbench.graph.repeats import shortened
from cnnbench.nn.lowering import layers_in_c, unavailable, winograd_layers
from cnnbench.nn.native import library
from cnnbench.nn.ops.convolution import EngineName
from cnnbench.nn.step_cost import step_ns, xla_share
from cnnbench.runs.records import EngineRecord
from cnnbench.system.cache import cache_dir
from cnnbench.system.compile_cache import Program, compiled_together
from cnnbench.system.devices import free_memory
from cnnbench.system.files import write_atomic
from cnnbench.system.host import BUSY, load_per_cpu, processor
from cnnbench.system.settings import current
from cnnbench.training.executables import Job, compilations, lower_train, set_up
from cnnbench.training.footprint import footprint, require_memory
from cnnbench.training.optim.optimizer import build_optimizer
from cnnbench.training.strategy import (
    NATIVE,
    ROWS,
    WHOLE,
    Strategy,
    candidates,
    convolves,
    requested_strategy,
    spread,
)

STEPS = 3  # timed steps per candidate, after one warm-up step
MOST_XLA = 0.5  # share of multiply-adds left to XLA by every engine; `plain` may win above
DOUBT = 1.1  # keep timing while the runner-up is slower by less than this factor
MOST_S, MOST_STEPS = 3.0, 30  # limits of timing
LONG_S = 1.0  # longer steps are timed only once when warm
HOPELESS = 3.0  # stop timing a candidate this many times slower than the best
COLD_S = 3.0  # limit for a slow first step
MARGIN = 1.05  # speedup required of `fast`, which has larger rounding errors
CLEAR = 1.2  # estimated speedup required of `fast` over `direct`, without a measurement
# Both ways to divide a batch are measured if one is estimated to be less than DOUBTFUL times as
# fast: the ratio differs that much between processors. Networks with more than MOST_CONVS kernels
# larger than 1x1, or of more than MOST_NS per image, take too long to measure; they use whole
# batches up to BIAS times the estimated cost of micro-batches, which is too low for many channels.
DOUBTFUL, MOST_CONVS, MOST_NS, BIAS = 1.75, 12, 2e7, 1.25
# Times the lower bound of memory that must be free for `whole`, whose loops pad and copy images;
# it took 1.3 to 3.1 times the bound with the four networks of benchmarks/README.md.
SPARE = 3
IDLE = 0.2  # load per CPU below which a choice made on a `BUSY` machine is measured again
SLOWER = 1.5  # discard a choice whose steps take this many times as long as measured


@dataclass(frozen=True, slots=True)
class Choice:
    """A strategy and the measurements behind it.

    Args:
      strategy: the strategy.
      step_s: seconds per step of each candidate, by form; empty if nothing was measured.
      kept: cache file, if an earlier run measured; otherwise None.
      how: `estimated`, `measured` or `kept`, as in `EngineRecord.chosen`.
      load: load per CPU during the measurement; None if unknown.
      measured_at: time of cached measurements; otherwise None.
    """

    strategy: Strategy
    step_s: Mapping[str, float]
    kept: Path | None = None
    how: str = "estimated"
    load: float | None = None
    measured_at: datetime | None = None


def known_choice(job: Job) -> Choice | None:
    """The requested or cached strategy; None if it has to be measured.

    A resumed run keeps its strategy. Measurements from a busy machine are repeated once the
    machine is idle, and always with `Job.retune`.
    """
    if job.resume and job.resume.strategy and job.resume.engine:
        return _as_recorded(_as_before(job, job.resume.strategy), job.resume.engine)
    found = shared(lambda: _candidates(job))
    asked = requested_strategy(job.engine, found)
    if asked is not None:
        return Choice(asked, {})
    return shared(lambda: None if job.retune else _read(job, found))


def doubt(choice: Choice, step_s: float) -> str | None:
    """Discards a choice whose steps are much slower than measured, so the next run measures again.

    Args:
      choice: the choice of this training.
      step_s: seconds per step in its first epoch.

    Returns:
      A message for the user; None if the steps are as fast as measured, or were not measured.
    """
    promised = choice.step_s.get(choice.strategy.form)
    if choice.kept is None or not promised or step_s <= SLOWER * promised:
        return None
    with suppress(OSError):
        choice.kept.unlink()
    return (
        f"a step takes {step_s / promised:.1f}x as long as when engine {choice.strategy.form} was"
        " chosen; the next run measures again"
    )


def advice(job: Job) -> str | None:
    """What would make the steps of a network on a CPU faster; None if nothing is missing."""
    if job.engine != "auto" or job.resume or job.accelerator or job.num_processes > 1:
        return None
    shared_equally = job.batch_size % len(job.devices) == 0
    single = job.experiment.train.precision == "float32"
    if not (job.plan and shared_equally and single and layers_in_c(job.plan)):
        return None
    reason = unavailable("winograd")
    return f"convolutions in C would be faster: {reason}" if reason else None


def usable(strategy: Strategy, *, accelerator: bool) -> Strategy:
    """The strategy of a run on another machine: without C that it does not have."""
    native = strategy.form in NATIVE
    lacks = native and (accelerator or unavailable(strategy.form) is not None)
    return replace(strategy, form="whole") if lacks else strategy


def _as_recorded(strategy: Strategy, engine: EngineRecord) -> Choice:
    """Choice of a resumed run, from its record."""
    known = engine.chosen, engine.load, engine.measured_at
    return Choice(strategy, engine.step_s, None, *known)


def _as_before(job: Job, strategy: Strategy) -> Strategy:
    """Strategy of a resumed run, whose number of devices, or machine, may have changed."""
    strategy = usable(strategy, accelerator=job.accelerator)
    if job.num_processes == 1 or strategy.num_devices == len(job.devices):
        return strategy
    found = requested_strategy(strategy.form, shared(lambda: _candidates(job)))
    return found or strategy


def measure(job: Job) -> Choice:
    """Measure the fastest strategy and cache it."""
    found = shared(lambda: _candidates(job))
    load = shared(load_per_cpu)
    programs = zip(found, _programs(job, found), strict=True)
    step_s = race(found, {s.form: _stepper(job, s, program) for s, program in programs})
    if leads():
        _write(job, found, step_s, load)
    return Choice(fastest(found, step_s), step_s, how="measured", load=load)


def _write(
    job: Job, found: Sequence[Strategy], step_s: Mapping[str, float], load: float | None
) -> None:
    path = _path(job, found)
    at = datetime.now(UTC).isoformat(timespec="seconds")
    content = {"for": _situation(job, found), "step_s": step_s, "load": load, "at": at}
    with suppress(OSError):  # without the cache it is measured again
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(content, indent=2).encode() + b"\n")


def _candidates(job: Job) -> tuple[Strategy, ...]:
    """The candidates that fit in memory and may be the fastest.

    Raises:
      OutOfMemoryError: none fits.
    """
    found = _fitting(job)
    if job.plan is None or job.accelerator or job.engine != "auto":
        return found
    return promising(job.plan, found)


def promising(plan: Plan, found: Sequence[Strategy]) -> tuple[Strategy, ...]:
    """The candidates for a CPU that may be the fastest by their estimated cost.

    `plain` is only faster without convolutions, or if most of the work is in convolutions that all
    engines leave to XLA (grouped or dilated, except depthwise up to 11x11).
    """
    kept = {strategy.form: strategy for strategy in found}
    if len(kept) > 1 and convolves(plan) and xla_share(plan) < MOST_XLA:
        kept.pop("plain", None)
    layers = winograd_layers if "onednn" in kept else layers_in_c
    if not layers(plan):
        kept.pop("winograd", None)
    wholes = [form for form in WHOLE if form in kept]
    for slower in wholes[1:]:
        del kept[slower]
    others = wholes[1] if len(wholes) > 1 else "whole"
    costs: dict[EngineName, float] = {
        form: step_ns(plan, form, s.row or 1, others) for form, s in kept.items() if form != "plain"
    }
    if {"fast", "direct"} <= kept.keys():
        del kept["direct" if costs["direct"] > CLEAR * costs["fast"] else "fast"]
    whole = next(iter(wholes), None)
    rows = next((form for form in ROWS if form in kept), None)
    if whole and rows:
        slower = max((rows, whole), key=costs.__getitem__)
        if costs[slower] > DOUBTFUL * min(costs[whole], costs[rows]):
            del kept[slower]
        elif not _is_soon_measured(plan, min(costs[whole], costs[rows])):
            del kept[rows if costs[whole] <= BIAS * costs[rows] else whole]
    return tuple(kept.values())


def _is_soon_measured(plan: Plan, cost: float) -> bool:
    """True if comparing engines takes a few seconds.

    Args:
      plan: the network.
      cost: estimated nanoseconds per image.
    """
    kernels = [geometry(plan, node).kernel for node in plan.nodes if node.op.convolves]
    return cost < MOST_NS and sum(kernel != (1, 1) for kernel in kernels) <= MOST_CONVS


def _fitting(job: Job) -> tuple[Strategy, ...]:
    """The candidates that fit in memory.

    Raises:
      OutOfMemoryError: none fits.
    """
    counts = (job.batch_size, _steps_per_call(job), len(job.devices))
    found = candidates(
        job.plan,
        *counts,
        accelerator=job.accelerator,
        precision=job.experiment.train.precision,
        native=_native(job),
    )
    if job.num_processes > 1:
        found = spread(found, *counts[::2])
    asked = requested_strategy(job.engine, found)
    found = (asked,) if asked else found
    free = free_memory(job.device)
    if (plan := job.plan) is None or free is None:
        return found
    slots = _slots(job, plan)
    needs = [footprint(plan, strategy, job.batch_size, slots) for strategy in found]
    least = min(zip(needs, found, strict=True), key=lambda pair: pair[0].total)
    require_memory(plan, least[0], free, rows=bool(least[1].row))
    spare: Mapping[str, int] = {} if asked else dict.fromkeys(WHOLE, SPARE)
    fitting = zip(needs, found, strict=True)
    return tuple(s for need, s in fitting if spare.get(s.form, 1) * need.total <= free)


def _native(job: Job) -> tuple[EngineName, ...]:
    """The requested engine, or all for `auto`; several processes may not all have them."""
    if job.engine != "auto":
        return tuple(form for form in NATIVE if form == job.engine)
    if job.num_processes > 1 or job.accelerator or job.plan is None or not convolves(job.plan):
        return ()
    useful = NATIVE if layers_in_c(job.plan) else ("onednn",)
    return tuple(form for form in useful if unavailable(form) is None)


def _steps_per_call(job: Job) -> int:
    """Most steps per program call: one if streamed, otherwise those between checkpoints.

    Divides the number of full batches per epoch.
    """
    every = job.experiment.checkpoint.every_steps or job.num_full
    most = 1 if job.dataset.streamed else min(every, job.num_full)
    return next(number for number in range(most, 0, -1) if job.num_full % number == 0)


def _slots(job: Job, plan: Plan) -> float:
    """Number of optimizer state values per parameter, on average."""
    optimizer = build_optimizer(job.experiment.train, job.num_steps, plan)
    params = {
        node.name: {
            name: jax.ShapeDtypeStruct(shape, np.float32)
            for name, shape in node.layout.params.items()
        }
        for node in plan.nodes
        if node.op.is_trained
    }
    state = jax.tree.leaves(jax.eval_shape(optimizer.init, params))
    values: int = sum(leaf.size for leaf in state if leaf.ndim)
    return values / max(1, plan.num_params)


def fastest(found: Sequence[Strategy], step_s: Mapping[str, float]) -> Strategy:
    """The candidate with the shortest step; `fast` only if it is clearly faster."""
    return min(found, key=_costs(found, step_s).__getitem__)


def _costs(found: Sequence[Strategy], step_s: Mapping[str, float]) -> dict[Strategy, float]:
    return {s: step_s[s.form] * (MARGIN if s.form == "fast" else 1) for s in found}


def race(
    found: Sequence[Strategy], steppers: Mapping[str, Callable[[], float]]
) -> dict[str, float]:
    """Minimum seconds per step of each candidate.

    The candidates take turns, so that varying load slows all of them, and take more steps while
    the fastest one is unclear.

    Args:
      found: the candidates.
      steppers: by form, a function that takes a step and returns its seconds.
    """
    seconds: dict[str, list[float]] = {form: [] for form in steppers}
    while running := shared(lambda: _running(found, seconds)):
        for form in running:
            seconds[form].append(steppers[form]())
    return shared(lambda: {form: min(own) for form, own in seconds.items()})


def _running(found: Sequence[Strategy], seconds: Mapping[str, Sequence[float]]) -> list[str]:
    """Candidates that take another step; none once the fastest is clear."""
    if not all(seconds.values()):
        return [form for form, own in seconds.items() if not own][:1]
    step_s = {form: min(own) for form, own in seconds.items()}
    worst = HOPELESS * min(step_s.values())
    running = [
        form
        for form, own in seconds.items()
        if step_s[form] <= worst or (len(own) == 1 and own[0] < COLD_S)
    ]
    taken, spent = max(map(len, seconds.values())), sum(map(sum, seconds.values()))
    first, *others = sorted(_costs(found, step_s).values())
    doubtful = taken <= STEPS or min(others, default=math.inf) < DOUBT * first
    enough = taken > 1 or min(step_s.values()) > LONG_S
    late = taken > MOST_STEPS or (enough and spent > MOST_S)
    return running if len(running) > 1 and doubtful and not late else []


def _programs(job: Job, found: Sequence[Strategy]) -> list[Callable[..., Any]]:
    """Training steps of candidates, compiled in parallel."""
    return compiled_together((_lowered(job, strategy) for strategy in found), compilations(job))


def _lowered(job: Job, strategy: Strategy) -> Program:
    setup = set_up(_timed(job, strategy), replace(strategy, steps_per_call=1))
    network = setup.network(job.experiment.seeds[0])
    return lower_train(setup, network, setup.state(network))


def _timed(job: Job, strategy: Strategy) -> Job:
    """Job to time for a candidate.

    The reference is not compiled as loops, so deep networks are shortened.
    """
    if job.plan is None or strategy.form != "plain":
        return job
    return replace(job, plan=shortened(job.plan))


def _stepper(job: Job, strategy: Strategy, program: Callable[..., Any]) -> Callable[[], float]:
    """A function that takes a step and returns its seconds.

    Times of a shortened network are scaled by its multiply-adds.
    """
    timed = _timed(job, strategy)
    whole, part = (plan.multiply_adds if plan else 1 for plan in (job.plan, timed.plan))
    scale = whole / part if part else 1.0
    setup = set_up(timed, strategy)
    state = setup.state(setup.network(job.experiment.seeds[0]))
    indices = np.arange(job.batch_size, dtype=np.int32)[None]

    def step() -> float:
        nonlocal state
        start = job.watch.now()
        state, losses = program(state, setup.arrays, indices)
        jax.block_until_ready((state, losses))
        return (job.watch.now() - start) * scale

    return step


def _situation(job: Job, found: Sequence[Strategy]) -> dict[str, Any]:
    """All inputs of a choice, as JSON types."""
    device, experiment = job.devices[0], job.experiment
    return {
        "versions": [__version__, jax.__version__, version("jaxlib")],
        "device": [device.platform, device.device_kind, processor(), len(job.devices)],
        **({"processes": number} if (number := num_processes()) > 1 else {}),
        "settings": current(),
        "task": experiment.task.value,
        "model": experiment.model.model_dump(mode="json"),
        "train": experiment.train.model_dump(mode="json", exclude={"epochs"}),
        "input": [*job.dataset.info.shape, job.dataset.info.num_classes, job.batch_size],
        "candidates": [strategy.text for strategy in found],
        **({"onednn": library.number()} if any(each.form in NATIVE for each in found) else {}),
    }


def _path(job: Job, found: Sequence[Strategy]) -> Path:
    """Cache file of a choice, named by the hash of everything it depends on."""
    content = json.dumps(_situation(job, found))
    return cache_dir() / "engines" / f"{hashlib.sha256(content.encode()).hexdigest()[:32]}.json"


def _read(job: Job, found: Sequence[Strategy]) -> Choice | None:
    """Choice from cached measurements; None if they are missing, damaged or unreliable."""
    path = _path(job, found)
    try:
        content = json.loads(path.read_bytes())
        at = datetime.fromisoformat(content["at"]).astimezone(UTC) if content.get("at") else None
    except (OSError, ValueError, AttributeError, TypeError):
        return None
    if not isinstance(content, dict) or content.get("for") != _situation(job, found):
        return None
    load = content["load"] if isinstance(content.get("load"), int | float) else None
    if load is not None and load > BUSY and (load_per_cpu() or 0.0) < IDLE:
        return None
    step_s = content.get("step_s")
    forms = {strategy.form for strategy in found}
    if not isinstance(step_s, dict) or set(step_s) != forms:
        return None
    if not all(isinstance(v, float) and math.isfinite(v) for v in step_s.values()):
        return None
    return Choice(fastest(found, step_s), step_s, path, "kept", load, at)
