"""Optimizers and learning-rate schedules of experiment files, from optax.

The fields of each optimizer are the arguments of the optax function of the same
name, with its defaults unless the description says otherwise. Those of Muon are
the arguments of `torch.optim.Muon`, with the defaults of its author.
"""

import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema

from cnnbench.layers.fields import (
    ADDED,
    VALUE,
    Count,
    Fraction,
    Milestones,
    Model,
    NonNegative,
    Positive,
    field_error,
    members,
)

Decayed = Literal["kernels", "all"]
_DECAY_ON = "parameters that decay: kernels (no biases, normalization scales or embeddings), or all"
L2 = Annotated[
    NonNegative,
    ADDED,
    Field(description="L2 weight decay: adds weight_decay * weights to the gradient"),
]
DecayOn = Annotated[Decayed, ADDED, Field(description=_DECAY_ON)]
_DECOUPLED = (
    "decoupled weight decay: subtracts learning_rate * weight_decay * weights from the weights"
)


class _Optimizer(Model):
    learning_rate: Positive = Field(0.001, description="initial learning rate")


class Sgd(_Optimizer):
    """Stochastic gradient descent; the default is the post's, with Nesterov momentum 0.9."""

    name: Literal["sgd"]
    learning_rate: Positive = Field(0.01, description="initial learning rate")
    momentum: Fraction = Field(0.9, description="decay rate of the momentum")
    nesterov: bool = Field(True, description="use Nesterov momentum")
    weight_decay: L2 = 0.0
    decay_on: DecayOn = "kernels"


class Adam(_Optimizer):
    """Adam (Kingma & Ba 2015)."""

    name: Literal["adam"]
    b1: Fraction = Field(0.9, description="decay rate of the first moment")
    b2: Fraction = Field(0.999, description="decay rate of the second moment")
    eps: Positive = Field(1e-8, description="term added to the denominator for numerical stability")
    nesterov: bool = Field(False, description="use Nesterov momentum (Nadam)")
    weight_decay: L2 = 0.0
    decay_on: DecayOn = "kernels"


class AdamW(_Optimizer):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019)."""

    name: Literal["adamw"]
    b1: Fraction = Field(0.9, description="decay rate of the first moment")
    b2: Fraction = Field(0.999, description="decay rate of the second moment")
    eps: Positive = Field(1e-8, description="term added to the denominator for numerical stability")
    nesterov: Annotated[bool, ADDED, Field(description="use Nesterov momentum (NAdamW)")] = False
    weight_decay: NonNegative = Field(1e-4, description=_DECOUPLED)
    decay_on: DecayOn = "all"


class RAdam(_Optimizer):
    """RAdam: Adam that does not use the second moment in its first steps (Liu et al. 2020)."""

    name: Literal["radam"]
    b1: Fraction = Field(0.9, description="decay rate of the first moment")
    b2: Fraction = Field(0.999, description="decay rate of the second moment")
    eps: Positive = Field(1e-8, description="term added to the denominator for numerical stability")
    weight_decay: L2 = 0.0
    decay_on: DecayOn = "kernels"


class Adamax(_Optimizer):
    """Adamax: Adam scaled by a decayed maximum of the gradients (Kingma & Ba 2015)."""

    name: Literal["adamax"]
    learning_rate: Positive = Field(0.002, description="initial learning rate")
    b1: Fraction = Field(0.9, description="decay rate of the first moment")
    b2: Fraction = Field(0.999, description="decay rate of the maximum")
    eps: Positive = Field(1e-8, description="term added to the gradient for numerical stability")
    weight_decay: L2 = 0.0
    decay_on: DecayOn = "kernels"


class RmsProp(_Optimizer):
    """RMSProp (Hinton 2012)."""

    name: Literal["rmsprop"]
    decay: Fraction = Field(0.9, description="decay rate of the second moment")
    eps: Positive = Field(1e-8, description="term added to the denominator for numerical stability")
    momentum: Fraction = Field(0.0, description="decay rate of the momentum")
    weight_decay: L2 = 0.0
    decay_on: DecayOn = "kernels"


class Adagrad(_Optimizer):
    """Adagrad (Duchi et al. 2011)."""

    name: Literal["adagrad"]
    initial_accumulator_value: NonNegative = Field(
        0.1, description="initial value of the accumulator"
    )
    eps: Positive = Field(1e-7, description="term added to the denominator for numerical stability")
    weight_decay: L2 = 0.0
    decay_on: DecayOn = "kernels"


class Adadelta(_Optimizer):
    """Adadelta (Zeiler 2012)."""

    name: Literal["adadelta"]
    learning_rate: Positive = Field(1.0, description="initial learning rate")
    rho: Fraction = Field(0.9, description="decay rate of the second moment")
    eps: Positive = Field(1e-6, description="term added to the denominator for numerical stability")
    weight_decay: L2 = 0.0
    decay_on: DecayOn = "kernels"


class Lamb(_Optimizer):
    """LAMB: layerwise adaptive learning rates for large batches (You et al. 2020)."""

    name: Literal["lamb"]
    b1: Fraction = Field(0.9, description="decay rate of the first moment")
    b2: Fraction = Field(0.999, description="decay rate of the second moment")
    eps: Positive = Field(1e-6, description="term added to the denominator for numerical stability")
    weight_decay: NonNegative = Field(
        0.0,
        description="decoupled weight decay: adds weight_decay * weights to Adam's update",
    )
    decay_on: DecayOn = "all"


class Lars(_Optimizer):
    """LARS: SGD with layerwise adaptive learning rates (You et al. 2017)."""

    name: Literal["lars"]
    learning_rate: Positive = Field(1.0, description="initial learning rate")
    momentum: Fraction = Field(0.9, description="decay rate of the momentum")
    nesterov: bool = Field(False, description="use Nesterov momentum")
    trust_coefficient: Positive = Field(
        0.001, description="norm of an update relative to that of its parameter"
    )
    eps: NonNegative = Field(
        0.0, description="term added to the norm of the gradient for numerical stability"
    )
    weight_decay: L2 = 0.0
    decay_on: DecayOn = "kernels"


class Lion(_Optimizer):
    """Lion: updates with the sign of the momentum (Chen et al. 2023)."""

    name: Literal["lion"]
    learning_rate: Positive = Field(1e-4, description="initial learning rate")
    b1: Fraction = Field(
        0.9, description="weight of the momentum in the update; the gradient has weight 1 - b1"
    )
    b2: Fraction = Field(0.99, description="decay rate of the momentum")
    weight_decay: NonNegative = Field(1e-3, description=_DECOUPLED)
    decay_on: DecayOn = "all"


class Muon(Model):
    """Muon for kernels, AdamW for all other parameters (Jordan et al. 2024).

    Muon orthogonalizes the momentum of each kernel as a matrix of outputs by inputs. Update rule of
    `torch.optim.Muon`, defaults of its author's `MuonWithAuxAdam`.
    """

    name: Literal["muon"]
    learning_rate: Positive = Field(0.02, description="initial learning rate of Muon")
    momentum: Fraction = Field(0.95, description="decay rate of Muon's momentum")
    nesterov: bool = Field(True, description="use Nesterov momentum in Muon")
    ns_steps: Annotated[int, Field(ge=1, le=99)] = Field(
        5, description="Newton-Schulz iterations per step"
    )
    last_layer: Literal["adamw", "muon"] = Field(
        "adamw",
        description="optimizer of the last kernel: adamw, as its author recommends, or muon",
    )
    adam_learning_rate: Positive = Field(
        3e-4, description="initial learning rate of AdamW, with the same schedule"
    )
    adam_b1: Fraction = Field(0.9, description="decay rate of AdamW's first moment")
    adam_b2: Fraction = Field(0.95, description="decay rate of AdamW's second moment")
    adam_eps: Positive = Field(
        1e-10, description="term added to AdamW's denominator for numerical stability"
    )
    weight_decay: NonNegative = Field(0.0, description=f"{_DECOUPLED}, in Muon and AdamW")
    decay_on: DecayOn = "kernels"


def _named(default: str) -> BeforeValidator:
    """Expands ``adam`` to ``{name: adam}``, and adds the default name to options without one."""

    def named(value: object) -> object:
        if isinstance(value, Mapping):
            return {"name": default, **value}
        return {"name": value} if isinstance(value, str) else value

    return BeforeValidator(named)


OptaxOptimizer = (
    Sgd | Adam | AdamW | RAdam | Adamax | RmsProp | Adagrad | Adadelta | Lamb | Lars | Lion
)
Decoupled = AdamW | Lamb | Lion | Muon  # the others have L2 weight decay
DEFAULT_OPTIMIZER = Sgd(name="sgd")
Optimizer = Annotated[
    OptaxOptimizer | Muon,
    Field(discriminator="name"),
    _named(DEFAULT_OPTIMIZER.name),
]


WarmupEpochs = Annotated[NonNegative, ADDED, Field(description="epochs of linear warmup from zero")]


class Constant(Model):
    """Constant learning rate."""

    name: Literal["constant"]
    warmup_epochs: WarmupEpochs = 0.0


class Cosine(Model):
    """Cosine decay with linear warmup."""

    name: Literal["cosine"]
    warmup_epochs: NonNegative = Field(0.0, description="epochs of linear warmup from zero")
    final_fraction: Fraction = Field(
        0.0, description="final learning rate as a fraction of the initial one"
    )


class Linear(Model):
    """Linear decay."""

    name: Literal["linear"]
    final_fraction: Fraction = Field(
        0.0, description="final learning rate as a fraction of the initial one"
    )
    warmup_epochs: WarmupEpochs = 0.0


class Polynomial(Model):
    """Polynomial decay, as PyTorch's PolynomialLR, but per step."""

    name: Literal["polynomial"]
    power: Positive = Field(1.0, description="exponent of the remaining fraction of the steps")
    final_fraction: Fraction = Field(
        0.0, description="final learning rate as a fraction of the initial one"
    )
    warmup_epochs: WarmupEpochs = 0.0


class Exponential(Model):
    """Exponential decay by a factor of `rate` per epoch, applied at every step."""

    name: Literal["exponential"]
    rate: Annotated[float, Field(gt=0, le=1)] = Field(0.95, description="decay factor per epoch")
    warmup_epochs: WarmupEpochs = 0.0


class Step(Model):
    """Step decay: the learning rate is multiplied by `factor` every `every` epochs."""

    name: Literal["step"]
    every: Count = Field(description="epochs between drops")
    factor: Annotated[float, Field(gt=0, le=1)] = Field(0.1, description="decay factor")
    warmup_epochs: WarmupEpochs = 0.0


class MultiStep(Model):
    """Step decay: the learning rate is multiplied by `factor` at each milestone."""

    name: Literal["multi_step"]
    milestones: Milestones = Field(description="epochs after which it drops, such as [80, 120]")
    factor: Annotated[float, Field(gt=0, le=1)] = Field(0.1, description="decay factor")
    warmup_epochs: WarmupEpochs = 0.0


class OneCycle(Model):
    """One cycle (Smith & Topin 2018): cosine rise to the optimizer's learning rate, cosine decay.

    The rates of PyTorch's OneCycleLR, whose `max_lr` is the optimizer's `learning_rate`. Momentum
    is not cycled (`cycle_momentum=False`).
    """

    name: Literal["one_cycle"]
    pct_start: Fraction = Field(0.3, description="fraction of the steps spent on the rise")
    div_factor: Annotated[float, Field(ge=1)] = Field(
        25.0, description="maximum learning rate divided by the first one"
    )
    final_div_factor: Annotated[float, Field(ge=1)] = Field(
        1e4, description="first learning rate divided by the last one"
    )


DEFAULT_SCHEDULE = Constant(name="constant")
Schedule = Annotated[
    Constant | Cosine | Linear | Polynomial | Exponential | Step | MultiStep | OneCycle,
    Field(discriminator="name"),
    _named(DEFAULT_SCHEDULE.name),
]


def depends_on_total(schedule: Schedule) -> bool:
    """Returns True if the learning rate depends on the total number of epochs.

    >>> depends_on_total(Cosine(name="cosine")), depends_on_total(Step(name="step", every=5))
    (True, False)
    """
    return isinstance(schedule, Cosine | Linear | Polynomial | OneCycle)


class Multiple(Model):
    """A multiple of the optimizer's value."""

    times: Positive


def _patterns(value: object) -> tuple[str, ...]:
    words = value if isinstance(value, (list, tuple)) else [value]
    if words and all(isinstance(word, str) and word for word in words):
        return tuple(words)
    remedy = "use a name, a pattern such as 'stage1.*', or a list of them"
    raise field_error(f"{VALUE} is not a layer pattern", remedy, value)


def _group_rate(value: object) -> object:
    if value is None or isinstance(value, Multiple):
        return value
    short = value.keys() == {"times"} if isinstance(value, Mapping) else False
    number = value["times"] if isinstance(value, Mapping) and short else value
    if isinstance(number, bool) or not isinstance(number, int | float):
        remedy = "use a number, or {times: 0.1} for a multiple of the optimizer's"
        raise field_error(f"{VALUE} is not a learning rate", remedy, value)
    if number == 0:
        message = "a learning rate of 0 does not train these layers"
        raise field_error(message, "set trainable: false in each of them instead", value)
    if not math.isfinite(number):
        raise field_error(f"{number} is not a finite number", "use a finite number", value)
    if number < 0:
        raise field_error(f"{number:g} is too small", "use a value greater than 0", value)
    return Multiple(times=float(number)) if short else float(number)


Patterns = Annotated[
    tuple[str, ...],
    BeforeValidator(_patterns),
    PlainSerializer(list),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "minLength": 1},
                {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1},
            ]
        }
    ),
]
_POSITIVE_SCHEMA = {"type": "number", "exclusiveMinimum": 0}
GroupRate = Annotated[
    float | Multiple | None,
    BeforeValidator(_group_rate),
    WithJsonSchema(
        {
            "anyOf": [
                _POSITIVE_SCHEMA,
                {
                    "type": "object",
                    "properties": {"times": _POSITIVE_SCHEMA},
                    "required": ["times"],
                    "additionalProperties": False,
                },
                {"type": "null"},
            ]
        }
    ),
]


class ParameterGroup(Model):
    """Layers with their own learning rate or weight decay."""

    layers: Patterns = Field(
        description="names of layers, or patterns such as 'stage1.*', in which * matches any text;"
        " one or a list"
    )
    learning_rate: GroupRate = Field(
        None,
        description="initial learning rate, or {times: 0.1} for a multiple of the optimizer's; the"
        " schedule applies to it",
    )
    weight_decay: NonNegative | None = Field(
        None, description="weight decay, of the optimizer's type; default: the optimizer's value"
    )

    def matches(self, layer: str) -> bool:
        """Returns True if a layer's name matches one of the patterns."""
        return any(fnmatchcase(layer, pattern) for pattern in self.layers)

    def of_group(self, optimizer: Optimizer) -> Optimizer:
        """The optimizer of the group; every learning rate of Muon is multiplied alike.

        >>> group = ParameterGroup(layers=("head",), learning_rate=0.1)
        >>> group.of_group(Sgd(name="sgd", learning_rate=0.2)).learning_rate
        0.1
        """
        own: dict[str, float] = {}
        if self.weight_decay is not None:
            own["weight_decay"] = self.weight_decay
        match self.learning_rate:
            case Multiple(times=times):
                own["learning_rate"] = optimizer.learning_rate * times
            case float(rate):
                own["learning_rate"] = rate
        if isinstance(optimizer, Muon) and "learning_rate" in own:
            times = own["learning_rate"] / optimizer.learning_rate
            own["adam_learning_rate"] = optimizer.adam_learning_rate * times
        return optimizer.model_copy(update=own)


def first_group(groups: Sequence[ParameterGroup], layer: str) -> int | None:
    """Index of the first group that a layer matches; None for the optimizer's own settings."""
    return next((i for i, group in enumerate(groups) if group.matches(layer)), None)


OPTIMIZERS: dict[str, type[Model]] = members(Optimizer, "name")
SCHEDULES: dict[str, type[Model]] = members(Schedule, "name")
