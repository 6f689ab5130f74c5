"""The optimizer of an experiment: update rules, parameter groups, weight decay, averages."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cnnbench.graph.plan import Plan
from cnnbench.layers.parameters import is_kernel
from cnnbench.spec.experiment import TrainSpec
from cnnbench.spec.optimizers import Decoupled, Muon, OptaxOptimizer, Optimizer, first_group
from cnnbench.training.optim.muon import scale_by_muon
from cnnbench.training.optim.schedules import learning_rate

ROOTS = ("weights", "parts")  # attributes of a GraphNet that hold the layers by name


class Averages(NamedTuple):
    """State of the moving average: the number of steps, and the average of the parameters."""

    number: jax.Array
    average: optax.Params


def build_optimizer(
    spec: TrainSpec, steps: int, plan: Plan | None = None
) -> optax.GradientTransformation:
    """The optax optimizer of an experiment.

    Args:
      spec: the training section of the experiment.
      steps: steps per epoch, for the schedule.
      plan: the network; None for a Python model.
    """

    def scheduled(base: float) -> Any:
        return learning_rate(spec.schedule, base, spec.epochs, steps)

    parts = [_grouped(spec, scheduled, plan)]
    if spec.clip and spec.clip.norm:
        parts.insert(0, optax.clip_by_global_norm(spec.clip.norm))
    if spec.clip and spec.clip.value:
        parts.insert(0, optax.clip(spec.clip.value))
    if spec.ema:
        parts.append(_averaging(spec.ema.decay))
    return optax.chain(*parts) if len(parts) > 1 else parts[0]


def _averaging(decay: float) -> optax.GradientTransformation:
    """Keep the moving average of the parameters, which starts with those after the first step.

    It is the last transformation of a chain, and changes no updates.
    """

    def init(params: optax.Params) -> Averages:
        # A copy, since the buffers of parameters and optimizer state are donated.
        return Averages(jnp.zeros((), jnp.int32), jax.tree.map(jnp.copy, params))

    def update(
        updates: optax.Params, state: Averages, params: optax.Params = None
    ) -> tuple[optax.Params, Averages]:
        kept = jnp.where(state.number == 0, 0.0, decay)
        new = optax.apply_updates(params, updates)
        average = jax.tree.map(lambda a, p: kept * a + (1 - kept) * p, state.average, new)
        return updates, Averages(state.number + 1, average)

    return optax.GradientTransformation(init, update)


def _grouped(
    spec: TrainSpec, scheduled: Callable[[float], Any], plan: Plan | None
) -> optax.GradientTransformation:
    """The update rules of all parameter groups."""
    rest = _rule(spec.optimizer, scheduled, plan)
    if not spec.groups:
        return rest
    groups = spec.groups

    def group_of(path: tuple[Any, ...], _: Any) -> str:
        first, *others = keys_of(path)
        return str(first_group(groups, others[0] if first in ROOTS else first))

    own = {
        str(i): _rule(group.of_group(spec.optimizer), scheduled, plan)
        for i, group in enumerate(groups)
    }
    label = partial(jax.tree_util.tree_map_with_path, group_of)
    return optax.partition({**own, str(None): rest}, label)


def _rule(
    spec: Optimizer, scheduled: Callable[[float], Any], plan: Plan | None
) -> optax.GradientTransformation:
    """The update rule, with weight decay.

    Args:
      spec: the optimizer.
      scheduled: the learning rate, constant or as a function of the step, from an initial one.
      plan: the network; None for a Python model.
    """
    if isinstance(spec, Muon):
        return _muon_with_adamw(spec, scheduled, plan)
    return _with_decay(spec, scheduled(spec.learning_rate))


def _muon_with_adamw(
    spec: Muon, scheduled: Callable[[float], Any], plan: Plan | None
) -> optax.GradientTransformation:
    """Muon for kernels, but by choice the last one, and AdamW for the rest."""
    last = last_kernel_layer(plan) if plan and spec.last_layer == "adamw" else None
    mask = kernels if spec.decay_on == "kernels" else None

    def rule_of(path: tuple[Any, ...], value: jax.Array) -> str:
        *layer, name = keys_of(path)
        return "muon" if decays(name, value.ndim) and last not in layer else "adamw"

    muon = optax.chain(
        scale_by_muon(spec.momentum, spec.ns_steps, nesterov=spec.nesterov),
        optax.add_decayed_weights(spec.weight_decay, mask),
        optax.scale_by_learning_rate(scheduled(spec.learning_rate)),
    )
    adamw = optax.adamw(
        scheduled(spec.adam_learning_rate),
        spec.adam_b1,
        spec.adam_b2,
        spec.adam_eps,
        weight_decay=spec.weight_decay,
        mask=mask,
    )
    label = partial(jax.tree_util.tree_map_with_path, rule_of)
    return optax.partition({"muon": muon, "adamw": adamw}, label)


def last_kernel_layer(plan: Plan) -> str | None:
    """Name of the last layer with a kernel of its own; None if there is none."""
    nodes = reversed(plan.nodes)
    return next((n.name for n in nodes if any(map(is_kernel, n.layout.params))), None)


def _with_decay(spec: OptaxOptimizer, rate: Any) -> optax.GradientTransformation:
    """The update rule of optax, with weight decay."""
    options = spec.model_dump(exclude={"name", "learning_rate", "weight_decay", "decay_on"})
    make: Callable[..., optax.GradientTransformation] = getattr(optax, spec.name)
    mask = kernels if spec.decay_on == "kernels" else None
    if isinstance(spec, Decoupled):
        return make(rate, weight_decay=spec.weight_decay, mask=mask, **options)
    rule = make(rate, **options)
    if not spec.weight_decay:
        return rule
    return optax.chain(optax.add_decayed_weights(spec.weight_decay, mask), rule)


def kernels(params: optax.Params) -> optax.Params:
    """True for each parameter that decays by default: the kernels."""

    def decide(path: tuple[Any, ...], value: jax.Array) -> bool:
        return decays(keys_of(path)[-1], value.ndim)

    return jax.tree_util.tree_map_with_path(decide, params)


def decays(name: str, ndim: int) -> bool:
    """True for arrays of two or more axes, except biases, scales and vectors that are looked up.

    Args:
      name: name of the parameter, without its layer.
      ndim: number of its axes.

    >>> decays("out_kernel", 2), decays("codebook", 2), decays("scale", 1)
    (True, False, False)
    """
    return ndim > 1 and not name.endswith(("bias", "scale", "embedding", "token", "codebook"))


def keys_of(path: tuple[Any, ...]) -> list[str]:
    """Keys of a path in a tree of parameters: those of the layer, and the name."""
    return [str(step.key) for step in path if isinstance(step, jax.tree_util.DictKey)]
