"""cnnbench's side of the GPU benchmark: the training programs of `cnnbench run`.

On accelerators these use XLA's own convolutions and a whole epoch per program; several seeds are
trained in parallel by one program (`jax.vmap`).
"""

import itertools
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from benchmarks.gpu_worker import WARM_UP, TrainingSetup, weights_file
from cnnbench.bench.frameworks import initial_weights
from cnnbench.bench.worker import WorkerAnswer
from cnnbench.data.batches import batches
from cnnbench.data.catalog import KNOWN
from cnnbench.data.dataset import Dataset
from cnnbench.data.splits import Split
from cnnbench.runs.environment import environment
from cnnbench.runs.records import EpochRecord
from cnnbench.system.settings import pinned
from cnnbench.system.stopwatch import Stopwatch
from cnnbench.training.autotune import known_choice, measure
from cnnbench.training.events import Event, Trained
from cnnbench.training.executables import Executables, Job, compile_train, set_up
from cnnbench.training.optim.optimizer import build_optimizer
from cnnbench.training.state import Arrays, TrainState, init_state
from cnnbench.training.step import gradients, train_step
from cnnbench.training.strategy import candidates
from cnnbench.training.trainer import Trainer

STEPS_CHECKED = 3
DIGITS = "float32, full precision"  # of products, which otherwise may use TF32
PRECISION = "jax_default_matmul_precision"  # a setting unknown to type checkers


@dataclass(slots=True)
class JaxTrainer:
    """A compiled epoch and the current training state."""

    setup: Executables
    program: Any
    state: TrainState
    epoch: int = 0


class JaxTrainers:
    """Handles the requests of `benchmarks.gpu`.

    Args:
      folder: folder of the images.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, settings = folder, ExitStack()
        settings.enter_context(pinned())  # as a run does
        self.close = settings.close
        self._device = jax.local_devices()[0]
        self._trainers: dict[str, JaxTrainer] = {}

    def facts(self) -> WorkerAnswer:
        """Machine and software versions."""
        found = environment((self._device,), ["benchmarks/gpu.sh"])
        software = ("python", "cnnbench", "jax", "jaxlib", "flax", "optax", "numpy", "platform")
        names = (*software, "processor", "num_cpus", "device_kind", "device", "commit", "dirty")
        precision = getattr(jax.config, PRECISION)
        return {name: getattr(found, name) for name in names} | {"matmul_precision": precision}

    def weights(self, network: str, seeds: int) -> WorkerAnswer:
        """Write the initial parameters of the seeds, from which PyTorch also starts."""
        plan = TrainingSetup(network, "cnnbench", "float32", 1, 1).load().plan
        assert plan is not None
        for seed in range(seeds):
            found = initial_weights(plan, seed)
            flat = {
                f"{layer}/{key}": value
                for layer, own in found.items()
                for key, value in own.items()
            }
            np.savez(weights_file(self._folder, network, seed), allow_pickle=False, **flat)
        return {}

    def start(self, training: TrainingSetup) -> WorkerAnswer:
        """Compile an epoch and train the first one."""
        began = time.perf_counter()
        job = self._job(training, self._device)
        setup = self._set_up(job)
        networks = [setup.network(seed) for seed in job.experiment.seeds]
        state = setup.state(*networks)
        prepared = time.perf_counter()
        program = compile_train(setup, networks[0], state)
        compiled = time.perf_counter()
        self._trainers[training.key] = JaxTrainer(setup, program, state)
        return {
            "prepare_s": prepared - began,
            "compile_s": compiled - prepared,
            "memory_mb": _memory_mb(program),
            "epoch_steps": job.num_steps,
            "whole_epochs": True,
            "first_epoch": self.train(training, job.num_steps),
        }

    def train(self, training: TrainingSetup, steps: int) -> WorkerAnswer:
        """Train whole epochs.

        Returns:
          Seconds from the first call until the device has finished, and the mean loss of the
          last epoch without its first steps, like PyTorch's.
        """
        trainer = self._trainers[training.key]
        job = trainer.setup.job
        orders = [self._order(trainer, number) for number in range(steps // job.num_steps)]
        orders = jax.block_until_ready(orders)
        began = time.perf_counter()
        for order in orders:
            trainer.state, losses = trainer.program(trainer.state, trainer.setup.arrays, order)
        jax.block_until_ready(trainer.state)
        seconds = time.perf_counter() - began
        trainer.epoch += len(orders)
        return {"seconds": seconds, "steps": steps, "loss": float(np.mean(losses[WARM_UP:]))}

    def check(self, training: TrainingSetup) -> WorkerAnswer:
        """Compare losses and gradients of the first steps with a CPU's in float32.

        Returns:
          For float32 with full-precision products, float32 as in training, and bfloat16: the
          largest relative difference of a loss, and of a parameter's gradient (2-norms). ``cpu``
          has the differences of a CPU that computes in bfloat16.
        """
        cpu = jax.local_devices(backend="cpu")[0]
        half = replace(training, precision="bfloat16")
        want = self._first_steps(training, cpu)
        found = {"cpu": _differences(self._first_steps(half, cpu), want)}
        with jax.default_matmul_precision("highest"):
            found[DIGITS] = _differences(self._first_steps(training, self._device), want)
        found["float32"] = _differences(self._first_steps(training, self._device), want)
        found["bfloat16"] = _differences(self._first_steps(half, self._device), want)
        return {"differences": found, "cpu_losses": want[0].tolist()}

    def run(self, training: TrainingSetup, epochs: int) -> WorkerAnswer:
        """Train as `cnnbench run` does, with evaluation after every epoch."""
        job = self._job(training, self._device, f"train.epochs={epochs}")
        began = time.perf_counter()
        events: list[Event] = []
        Trainer(job, events.append).run()
        records = [event for event in events if isinstance(event, EpochRecord)]
        (engine,) = [event.engine for event in events if isinstance(event, Trained)]
        return {
            "seconds": time.perf_counter() - began,
            "seeds_at_once": engine.seeds_at_once,
            "steps_per_call": engine.steps_per_call,
            "epochs": [
                {"seed": r.seed, "epoch": r.epoch, "train_s": r.train_s, "train_loss": r.train_loss}
                for r in records
            ],
        }

    def _job(self, training: TrainingSetup, device: jax.Device, *overrides: str) -> Job:
        loaded = training.load(*overrides)
        images, labels = (np.load(self._folder / f"{name}.npy") for name in ("images", "labels"))
        num = len(labels) * 5 // 7  # as in MNIST: 50,000 of 70,000
        ends = (0, num, (num + len(labels)) // 2, len(labels))
        train, validation, test = (
            Split(images[start:end], labels[start:end]) for start, end in itertools.pairwise(ends)
        )
        dataset = Dataset(
            KNOWN["mnist"],
            train=train,
            validation=validation,
            test=test,
            digest="",
            stand_in_for=None,
            source="generated",
        )
        folder, watch = Path(), Stopwatch()
        return Job(loaded.experiment, loaded.plan, folder, dataset, (device,), watch)

    def _set_up(self, job: Job) -> Executables:
        """The strategy that a run chooses on an accelerator, even when tested on a CPU."""
        if job.accelerator:
            strategy = (known_choice(job) or measure(job)).strategy
        else:
            sizes = (job.batch_size, job.num_steps, 1)
            strategy = candidates(job.plan, *sizes, accelerator=True)[0]
        return replace(set_up(job, strategy), at_once=len(job.experiment.seeds))

    def _order(self, trainer: JaxTrainer, number: int) -> Any:
        job, epoch = trainer.setup.job, trainer.epoch + number + 1
        sizes = job.num_train, job.batch_size
        orders = [batches(seed, epoch, *sizes) for seed in job.experiment.seeds]
        return trainer.setup.place(np.stack(orders, axis=1) if len(orders) > 1 else orders[0])

    def _first_steps(
        self, training: TrainingSetup, device: jax.Device
    ) -> tuple[NDArray[Any], Mapping[str, NDArray[Any]]]:
        """Losses of the first steps, and the gradients of the first by name."""
        with jax.default_device(device):
            job = self._job(training, device)
            setup = replace(self._set_up(job), at_once=1)
            network = setup.network(0)
            optimizer = build_optimizer(job.experiment.train, job.num_steps, job.plan)
            options = {"graphdef": network.training, "rules": setup.rules(training=True)}

            @jax.jit
            def step(state: TrainState, arrays: Arrays, indices: jax.Array) -> Any:
                gradient = gradients(state, arrays, indices, **options)[0]
                return gradient, *train_step(state, arrays, indices, optimizer=optimizer, **options)

            state, first, losses = setup.place(init_state(network, optimizer)), None, []
            for batch in batches(0, 1, job.num_train, job.batch_size)[:STEPS_CHECKED]:
                gradient, state, loss = step(state, setup.arrays, batch)
                first = first or jax.device_get(gradient)
                losses.append(float(loss))
        return np.array(losses), dict(_named(first))


make_trainers = JaxTrainers  # looked up by `benchmarks.gpu_worker`


def _memory_mb(program: Any) -> float:
    """Device memory of a compiled program in MB (1e6 bytes): its values and the network's state.

    The images, an argument that all programs share, are excluded.
    """
    found = program.memory_analysis()
    return float(found.temp_size_in_bytes + found.output_size_in_bytes) / 1e6


def _named(gradient: Any) -> Iterator[tuple[str, NDArray[Any]]]:
    """Gradients by layer and parameter."""
    for path, value in jax.tree_util.tree_flatten_with_path(gradient)[0]:
        keys = [str(step.key) for step in path if isinstance(step, jax.tree_util.DictKey)]
        yield ".".join(keys[1:]), np.asarray(value)


def _differences(found: tuple[Any, Any], want: tuple[Any, Any]) -> WorkerAnswer:
    """Largest relative differences, of losses and of gradients by their 2-norms."""
    losses = np.abs(found[0] - want[0]) / np.abs(want[0])
    norms = {
        name: float(np.linalg.norm(found[1][name] - value)) / (float(np.linalg.norm(value)) or 1.0)
        for name, value in want[1].items()
    }
    worst = max(norms, key=norms.__getitem__)
    return {
        "loss": float(losses.max()),
        "losses": found[0].tolist(),
        "gradient": norms[worst],
        "worst": worst,
        "gradients": norms,
    }
