"""Time of each layer in a training step, and the roofline that it is measured against.

Profiles the compiled training step, whose operations carry the names of the layers they were
traced from (`nn.scopes`), so the times are those of the program that trains, including XLA's
fusions. The roofline model (Williams, Waterman, Patterson: Roofline, CACM 52(4), 2009) bounds the
throughput of a layer by the peak of the machine, or by its memory bandwidth times the layer's
FLOPs per byte.
"""

import math
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnbench.graph.flops import LayerFlops, layer_flops
from cnnbench.graph.plan import Node
from cnnbench.training.matmul_peak import SIZE, multiplier, product_flops, product_seconds

if TYPE_CHECKING:
    from cnnbench.bench.scheduler import BenchTask

BYTES = 4  # of a float32
PASSES = 3  # over the weights: forward, gradient of the inputs, gradient of the weights
COPIED = 2**26  # values in the array for the memory bandwidth: 256 MiB
TARGET_S, FEWEST_STEPS, MOST_STEPS = 2.0, 3, 50  # of the profile
# Their bodies have their own events.
_CONTAINERS = frozenset({"while", "call", "conditional"})
# `ROOT %name = shape operation(operands), metadata`
_INSTRUCTION = re.compile(
    r"^\s*(?:ROOT )?%?([\w.\-]+) = .*?[\]})] ([a-z][\w\-]*)\((.*)$", re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class Roofline:
    """Limits of a machine.

    Args:
      peak_flops: FLOP/s of its fastest float32 matrix product.
      bandwidth: bytes per second read and written by a copy of a large array.
    """

    peak_flops: float
    bandwidth: float

    @property
    def ridge(self) -> float:
        """FLOPs per byte above which the peak is the limit.

        >>> Roofline(peak_flops=2e11, bandwidth=1e10).ridge
        20.0
        """
        return self.peak_flops / self.bandwidth


@dataclass(frozen=True, slots=True)
class LayerTime:
    """A layer in a training step.

    Args:
      name: the layer.
      operation: what it computes.
      forward_s: seconds of the forward pass, with random numbers and kernel transforms.
      backward_s: seconds of the backward pass.
      flops: floating-point operations of its matrix products, in all passes.
      bytes: minimum bytes read and written, in all passes.
    """

    name: str
    operation: str
    forward_s: float
    backward_s: float
    flops: int
    bytes: int

    @property
    def seconds(self) -> float:
        """Seconds of both passes."""
        return self.forward_s + self.backward_s

    @property
    def intensity(self) -> float:
        """FLOPs per byte."""
        return self.flops / self.bytes

    def bound(self, roofline: Roofline) -> str:
        """What limits the layer: `products`, or `memory` below the ridge of the roofline."""
        return "products" if self.intensity >= roofline.ridge else "memory"

    def peak_share(self, roofline: Roofline) -> float:
        """Share of the peak that its products reach; 0 if it takes no time."""
        return self.flops / self.seconds / roofline.peak_flops if self.seconds else 0.0


@dataclass(frozen=True, slots=True)
class ByLayer:
    """The layers of a network in a training step.

    Args:
      title: title of the network.
      dataset: name of the dataset.
      batch_size: images per step.
      strategy: how the step is executed, in words.
      step_s: seconds of a step.
      profiled_s: seconds of a step while it is profiled.
      layers: the layers, in order.
      rest_s: seconds of everything else: loss, optimizer, augmentation, copies.
      roofline: limits of the machine.
      busy: share of the devices' time in which operations ran during the profile.
    """

    title: str
    dataset: str
    batch_size: int
    strategy: str
    step_s: float
    profiled_s: float
    layers: tuple[LayerTime, ...]
    rest_s: float
    roofline: Roofline
    busy: float

    def share(self, seconds: float) -> float:
        """Share of a step."""
        return seconds / self.step_s


def measure_by_layer(task: "BenchTask", engine: str) -> ByLayer:
    """Measures the layers of a network in the training step of `cnnbench run`.

    Args:
      task: the network, its initial weights and its images.
      engine: convolution algorithms, as in `run`.
    """
    from cnnbench.bench.frameworks.cnnbench import OwnTrainer, make_trainer

    loaded = task.loaded
    assert loaded.plan is not None
    network = loaded.experiment, loaded.plan, task.weights
    trainer: OwnTrainer = make_trainer("cnnbench", *network, engine)
    size = task.batch_size
    batch = task.train.images[None, :size], task.train.labels[None, :size]
    trainer.train(*batch)  # compiles
    step_s = min(_seconds(trainer.train, batch) for _ in range(FEWEST_STEPS))
    steps = min(MOST_STEPS, max(FEWEST_STEPS, math.ceil(TARGET_S / step_s)))
    batches = tuple(np.broadcast_to(a, (steps, *a.shape[1:])) for a in batch)
    step_s = _seconds(trainer.train, batches) / steps
    events, profiled_s = _profile(lambda: trainer.train(*batches))
    busy = busy_seconds(events, trainer.program_text, trainer.repeats)
    total = sum(map(sum, busy.values()))
    scale = step_s / total  # of all cores, as a share of the step
    layers = tuple(
        _layer_time(work, size, [scale * seconds for seconds in busy.get(work.node.name, (0, 0))])
        for work in layer_flops(loaded.plan)
    )
    return ByLayer(
        loaded.experiment.type_title,
        task.dataset,
        size,
        trainer.strategy.text,
        step_s,
        profiled_s / steps,
        layers,
        scale * sum(busy.get("", (0.0,))),
        measure_roofline(),
        total / (profiled_s * trainer.strategy.num_devices),
    )


def _layer_time(work: LayerFlops, size: int, seconds: Sequence[float]) -> LayerTime:
    node, (forward_s, backward_s) = work.node, seconds
    moved = size * moved_bytes(node, gradient=work.passes_gradient) + PASSES * weight_bytes(node)
    operation = node.op.summary()
    return LayerTime(node.name, operation, forward_s, backward_s, size * work.flops, moved)


def _seconds(train: Callable[..., Any], batches: Sequence[Any]) -> float:
    start = time.perf_counter()
    train(*batches)
    return time.perf_counter() - start


def _profile(call: Callable[[], object]) -> tuple[list[tuple[str, float]], float]:
    """Names and seconds of all events of a call, and the seconds of the call."""
    import jax

    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    with TemporaryDirectory(prefix="cnnbench-profile-") as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            start = time.perf_counter()
            call()
            seconds = time.perf_counter() - start
        (file,) = Path(folder).rglob("*.xplane.pb")
        data = jax.profiler.ProfileData.from_file(str(file))
        lines = [line for plane in data.planes for line in plane.lines]
        return [(e.name, e.duration_ns / 1e9) for line in lines for e in line.events], seconds


def busy_seconds(
    events: Iterable[tuple[str, float]],
    program: str,
    repeats: Mapping[str, Sequence[str]],
) -> dict[str, tuple[float, float]]:
    """Seconds of the forward and the backward pass of each layer, summed over all cores.

    Args:
      events: names and seconds of profiled events; events that are not instructions of the
        program are ignored.
      program: text of the compiled program (HLO), with the names of layers.
      repeats: layers in a loop, by the layer of its first repetition; they share its time.

    Returns:
      Seconds by layer; the rest is under the empty name.

    >>> program = '''
    ...   %dot.1 = f32[8,2]{1,0} dot(%a, %b), metadata={op_name="jit(f)/jvp(layer.fc)/dot_general"}
    ...   %add.2 = f32[8,2]{1,0} add(%a, %b), metadata={op_name="jit(f)/add"}
    ... '''
    >>> busy_seconds([("dot.1", 2.0), ("add.2", 1.0), ("dot.1", 0.5)], program, {})
    {'fc': (2.5, 0.0), '': (1.0, 0.0)}
    """
    from cnnbench.nn.scopes import is_gradient, layer_of

    places = _instructions(program)
    found: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for name, seconds in events:
        if name in places:
            metadata = places[name]
            layer = layer_of(metadata) or ""
            own = repeats.get(layer, (layer,))
            for each in own:
                found[each][layer != "" and is_gradient(metadata)] += seconds / len(own)
    return {name: (forward, backward) for name, (forward, backward) in found.items()}


def _instructions(program: str) -> dict[str, str]:
    """Metadata of the instructions that do work, by name."""
    found: dict[str, str] = {}
    for match in _INSTRUCTION.finditer(program):
        name, operation, rest = match.groups()
        if operation not in _CONTAINERS:
            metadata = re.search(r'op_name="([^"]*)"', rest)
            found[name] = metadata[1] if metadata else ""
    return found


def moved_bytes(node: Node, *, gradient: bool) -> int:
    """Bytes of activations that a layer reads and writes per image, in all passes.

    The forward pass reads the inputs and writes the output. The backward pass reads the inputs and
    the gradient of the output, and writes the gradient of the inputs.

    Args:
      node: the layer.
      gradient: True if an earlier layer is trained.
    """
    inputs = sum(map(math.prod, node.in_shapes))
    output = math.prod(node.layout.shape)
    return BYTES * (inputs + output + inputs + output + gradient * inputs)


def weight_bytes(node: Node) -> int:
    """Bytes of the parameters that a layer reads in a pass."""
    return BYTES * sum(map(math.prod, node.layout.params.values()))


def measure_roofline() -> Roofline:
    """Measures the limits of this machine, in about a second."""
    fastest = min(product_seconds(multiplier(name, SIZE)) for name in ("jax", "numpy"))
    return Roofline(product_flops(SIZE) / fastest, _bandwidth())


def _bandwidth() -> float:
    """Bytes per second that a copy of a large array reads and writes, with all cores."""
    import jax
    import jax.numpy as jnp

    array = jnp.zeros(COPIED, jnp.float32)
    negate = jax.jit(jnp.negative)
    seconds = product_seconds(lambda: negate(array).block_until_ready())
    return 2 * BYTES * COPIED / seconds
