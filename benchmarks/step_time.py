"""Times a training step of every experiment, in both forms of the operations.

``plain`` is XLA's own convolution on whole batches; ``direct`` is what `run`
uses on a CPU. The forms take turns, so that a machine that gets busy does not
favour one; compare within a line, not across machines.
"""

import argparse
import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from rich.console import Console
from rich.table import Table

from cnnbench.engine import microbatch_size
from cnnbench.loader import Loaded, load_experiment
from cnnbench.models import GraphNet
from cnnbench.ops import Form
from cnnbench.train import Arrays, build_optimizer, init_state, make_rules, take_apart, train_step

FORMS: tuple[Form, ...] = ("plain", "direct")
EXPERIMENTS = Path(__file__).parent.parent / "experiments"


def compiled_step(loaded: Loaded, form: Form, data: Arrays) -> Any:
    """A function that takes one step each time it is called, and the seconds it took to compile."""
    assert loaded.plan is not None
    experiment = loaded.experiment
    network = take_apart(GraphNet(loaded.plan, form=form, rngs=nnx.Rngs(0)))
    rules = make_rules(experiment, microbatch_size(loaded.plan, network, form))
    optimizer = build_optimizer(experiment.train, 100)
    state = init_state(network, optimizer)
    step = partial(train_step, graphdef=network.training, optimizer=optimizer, rules=rules)
    indices = jnp.arange(experiment.train.batch_size, dtype=jnp.int32)
    start = time.perf_counter()
    program = jax.jit(step).lower(state, data, indices).compile()
    seconds = time.perf_counter() - start
    return lambda: jax.block_until_ready(program(state, data, indices)), seconds


def seconds_of(step: Any) -> float:
    """Wall seconds of one call."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def bench(path: Path, rounds: int) -> list[str]:
    """One line of the table."""
    loaded = load_experiment(path)
    batch = loaded.experiment.train.batch_size
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch, *loaded.info.shape), dtype=np.uint8)
    labels = rng.integers(0, loaded.info.num_classes, batch, dtype=np.int32)
    data = Arrays(jnp.asarray(images), jnp.asarray(labels))
    steps = [compiled_step(loaded, form, data) for form in FORMS]
    for step, _ in steps:
        step()
    spent = [[seconds_of(step) for step, _ in steps] for _ in range(rounds)]
    plain, direct = (
        statistics.median(column) * 10_000 / batch for column in zip(*spent, strict=True)
    )
    ratio = statistics.median(p / d for p, d in spent)
    return [
        loaded.experiment.name,
        f"{plain:.2f}",
        f"{direct:.2f}",
        f"{ratio:.1f}",
        f"{steps[1][1]:.1f}",
    ]


def main() -> None:
    """Prints the table, a line as soon as it is measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="steps of each form")
    arguments = parser.parse_args()
    table = Table(title=f"Seconds per 10,000 training images, medians of {arguments.rounds} steps")
    for header in ("experiment", "plain", "direct", "plain / direct", "direct compiles, s"):
        table.add_column(header, justify="left" if header == "experiment" else "right")
    console = Console()
    for path in sorted(EXPERIMENTS.glob("*.yaml")):
        with console.status(f"timing {path.stem}"):
            table.add_row(*bench(path, arguments.rounds))
    console.print(table)


if __name__ == "__main__":
    main()
