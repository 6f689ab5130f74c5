"""Training strategies: execution choices that change only speed and rounding."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

from cnnbench.errors import UsageError
from cnnbench.graph.plan import Plan
from cnnbench.layers import LayerNorm
from cnnbench.spec.experiment import Precision

if TYPE_CHECKING:
    from cnnbench.nn.ops.convolution import EngineName  # which imports JAX

ROW = 10  # images; docs/explanation/performance.md compares other sizes
# Batch norm reads a row's values again in a second pass, so large layers need smaller rows.
SMALL_ROW, MOST_VALUES = 5, 12_000  # images per row if a layer has more values per image
# Layer norms, and activations between products, only read and write values, which is faster in rows
# of images whose largest layer stays in a cache.
CACHED_VALUES = 800_000
MOST_PATCH_VALUES = 2**28  # 1 GiB in float32
MOST_AT_ONCE = 8  # seeds per program; more compile longer and gain less
# Engines that compute a device's share of a batch at once (with layer norms, those of `NATIVE` in a
# few micro-batches), and in micro-batches.
WHOLE: "tuple[EngineName, ...]" = ("winograd", "onednn", "whole")
ROWS: "tuple[EngineName, ...]" = ("direct", "fast")
# Those of `WHOLE` that call C.
NATIVE: "tuple[EngineName, ...]" = ("winograd", "onednn")
ENGINES: tuple[str, ...] = ("auto", "plain", "whole", "onednn", "winograd", "direct", "fast")


@dataclass(frozen=True, slots=True)
class Strategy:
    """A way to execute training.

    Args:
      form: algorithms for convolution and pooling.
      row: micro-batch size in images; None for whole batches.
      num_devices: devices that share a batch.
      steps_per_call: training steps per call of the compiled program.
    """

    form: "EngineName"
    row: int | None
    num_devices: int
    steps_per_call: int

    @property
    def text(self) -> str:
        """Description in one line.

        >>> Strategy("fast", 10, 2, 1).text
        'fast, micro-batch 10, 2 devices'
        """
        rows = f"micro-batch {self.row}" if self.row else "whole batches"
        devices = f", {self.num_devices} devices" if self.num_devices > 1 else ""
        return f"{self.form}, {rows}{devices}"


def candidates(
    plan: Plan | None,
    batch_size: int,
    num_steps: int,
    num_devices: int,
    *,
    accelerator: bool,
    precision: Precision = "float32",
    native: "Sequence[EngineName]" = (),
) -> tuple[Strategy, ...]:
    """The strategies to choose from.

    On an accelerator, whole batches, with a whole epoch in one program. On a CPU, micro-batches
    that fit into the caches, sharded over the cores, or equal shares of a batch (`WHOLE`), in a few
    rows for some networks; whole batches for Python models, which cannot be split. The reference
    (`plain`) is always included. Winograd's algorithm is excluded for the low precision of
    bfloat16, and of TF32 on accelerators, which its sums would cancel. On accelerators, `direct` is
    excluded where it has not been measured: for batch statistics, and for images whose patches
    would fill the memory.

    Args:
      plan: the network; None for a Python model.
      batch_size: images per step.
      num_steps: steps per epoch with a full batch.
      num_devices: number of devices.
      accelerator: True for GPUs and TPUs.
      precision: compute precision of the network.
      native: engines of `NATIVE` that can be used.
    """
    if accelerator:
        share = max(n for n in range(1, num_devices + 1) if batch_size % n == 0)
        plain = Strategy("plain", None, share, num_steps)
        if plan is None or not convolves(plan) or has_batch_statistics(plan):
            return (plain,)
        fits = _patch_values(plan, batch_size) <= MOST_PATCH_VALUES
        return (replace(plain, form="direct"), plain) if fits else (plain,)
    plain = Strategy("plain", None, 1, 1)
    if plan is None:
        return (plain,)
    row = _row(plan, batch_size, num_devices, "direct")
    shares = min(num_devices, -(-batch_size // row))
    direct, fast = (Strategy(form, row, shares, 1) for form in ROWS)
    if not convolves(plan) or precision != "float32":
        return (direct, plain)
    share = _row(plan, batch_size, num_devices, "whole")
    whole = Strategy("whole", share, -(-batch_size // share), 1)
    # Each device calls C code with one thread, so that it needs all of them.
    usable = native if whole.num_devices == num_devices else ()
    # Without oneDNN, XLA computes most products, slowly in loops over rows.
    row_of = partial(_row, plan, batch_size, num_devices)
    rows = {form: row_of(form if "onednn" in native else "whole") for form in usable}
    others = (replace(whole, form=form, row=rows[form]) for form in usable)
    return (fast, direct, *others, whole, plain)


def spread(found: Sequence[Strategy], batch_size: int, num_devices: int) -> tuple[Strategy, ...]:
    """Strategies that use all devices, which is why there are several processes.

    Args:
      found: the strategies to choose from.
      batch_size: images per step.
      num_devices: devices of all processes.

    Raises:
      UsageError: the devices cannot have equal shares of a batch.
    """
    if batch_size % num_devices:
        least = max(1, batch_size // num_devices) * num_devices
        message = f"train.batch_size: {batch_size} images have no equal shares for {num_devices}"
        raise UsageError(f"{message} devices; write {least}, or train with fewer processes.")
    whole = (replace(each, num_devices=num_devices) for each in found if each.row is None)
    return (*(each for each in found if each.row and each.num_devices == num_devices), *whole)


def _patch_values(plan: Plan, batch_size: int) -> int:
    """Values of the largest im2col matrix: a row of kernel height * width * channels a pixel."""
    kernels = {
        node.name: plan.by_name[node.kernel_owner].layout.params["kernel"]
        for node in plan.nodes
        if node.op.convolves
    }
    pixels = {node.name: math.prod(node.layout.shape[:2]) for node in plan.nodes}
    return max(batch_size * pixels[name] * math.prod(kernels[name][:3]) for name in kernels)


def for_batch(strategy: Strategy, plan: Plan | None, batch_size: int) -> Strategy:
    """The strategy for single steps of another batch size, with the same algorithms."""
    row = strategy.row
    if plan and row:
        row = _row(plan, batch_size, strategy.num_devices, strategy.form)
    return replace(strategy, row=row, steps_per_call=1)


def _row(plan: Plan, batch_size: int, num_devices: int, form: "EngineName") -> int:
    """Images per row; with batch statistics, rows must divide the batch evenly."""
    share = -(-batch_size // num_devices)
    if form in WHOLE or not convolves(plan):
        fills = batch_size % num_devices == 0 or not has_batch_statistics(plan)
        whole = share if fills else batch_size
        return _cached_row(plan, whole) if form in NATIVE else whole
    if not has_batch_statistics(plan):
        return min(ROW, share)
    whole = share if batch_size % num_devices == 0 else batch_size
    large = max(math.prod(node.layout.shape) for node in plan.nodes) > MOST_VALUES
    most = min(SMALL_ROW if large else ROW, whole)
    return max(n for n in range(1, most + 1) if whole % n == 0)


def _cached_row(plan: Plan, share: int) -> int:
    """A divisor of the share of a device; the share itself if there is no suitable one."""
    if has_batch_statistics(plan) or not any(isinstance(n.op, LayerNorm) for n in plan.nodes):
        return share
    most = CACHED_VALUES // max(math.prod(node.layout.shape) for node in plan.nodes)
    row = max((n for n in range(1, min(most, share) + 1) if share % n == 0), default=share)
    return row if 2 * row > most else share


def convolves(plan: Plan) -> bool:
    """True if the network has a convolution."""
    return any(node.op.convolves for node in plan.nodes)


def has_batch_statistics(plan: Plan) -> bool:
    """True if the output for an image depends on the other images of its batch."""
    return any(node.op.uses_batch for node in plan.nodes)


def requested_strategy(engine: str, found: Sequence[Strategy]) -> Strategy | None:
    """The strategy for the requested engine; None if it has to be measured.

    Falls back to the next plainer engine if the network does not support the requested one.
    """
    if engine == "auto":
        return found[0] if len(found) == 1 else None
    order = ENGINES[1 : ENGINES.index(engine) + 1]
    fitting = [s for s in found if s.form in order]
    return max(fitting, key=lambda s: order.index(s.form), default=found[-1])


def groups(seeds: Sequence[int], size: int, stops: Sequence[int] = ()) -> Iterator[tuple[int, ...]]:
    """Groups of seeds to train in parallel; leftover seeds are trained one at a time.

    Args:
      seeds: the seeds.
      size: number of seeds of a group.
      stops: numbers of seeds after which training may stop, increasing; no group goes beyond one.

    >>> list(groups([1, 2, 3, 4, 5], 2)), list(groups([1, 2, 3, 4, 5], 2, stops=[3, 9]))
    ([(1, 2), (3, 4), (5,)], [(1, 2), (3,), (4, 5)])
    """
    for start, stop in pairwise((0, *(n for n in stops if 0 < n < len(seeds)), len(seeds))):
        part = seeds[start:stop]
        whole = len(part) // size * size
        yield from (tuple(part[i : i + size]) for i in range(0, whole, size))
        yield from ((seed,) for seed in part[whole:])


def seeds_at_once(num_seeds: int) -> int:
    """Group size for parallel seeds that leaves few over.

    >>> [seeds_at_once(n) for n in (0, 1, 2, 8, 9, 19)]
    [1, 1, 2, 8, 4, 6]
    """
    num_groups = max(1, -(-num_seeds // MOST_AT_ONCE))
    return max(1, num_seeds // num_groups)
