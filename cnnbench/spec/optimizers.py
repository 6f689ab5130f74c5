"""Optimizers and learning-rate schedules of experiment files, from optax.

The fields of each optimizer are the arguments of the optax function of the same
name, with its defaults unless the description says otherwise. Those of Muon are
the arguments of `torch.optim.Muon`, with the defaults of its author.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from cnnbench.layers.fields import (
    ADDED,
    Count,
    Fraction,
    Milestones,
    Model,
    NonNegative,
    Positive,
    members,
)

Decayed = Literal["kernels", "all"]
_DECAY_ON = (
    "parameters that decay: kernels (no biases, no scales of normalizations, no embeddings) or all"
)
L2 = Annotated[
    NonNegative,
    ADDED,
    Field(description="L2 weight decay: this times the weights is added to the gradient"),
]
DecayOn = Annotated[Decayed, ADDED, Field(description=_DECAY_ON)]
_DECOUPLED = (
    "decoupled weight decay: this times the learning rate times the weights is subtracted from them"
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
    """RAdam: Adam whose first steps have no second moment (Liu et al. 2020)."""

    name: Literal["radam"]
    b1: Fraction = Field(0.9, description="decay rate of the first moment")
    b2: Fraction = Field(0.999, description="decay rate of the second moment")
    eps: Positive = Field(1e-8, description="term added to the denominator for numerical stability")
    weight_decay: L2 = 0.0
    decay_on: DecayOn = "kernels"


class Adamax(_Optimizer):
    """Adamax: Adam with the largest of the decayed gradients (Kingma & Ba 2015)."""

    name: Literal["adamax"]
    learning_rate: Positive = Field(0.002, description="initial learning rate")
    b1: Fraction = Field(0.9, description="decay rate of the first moment")
    b2: Fraction = Field(0.999, description="decay rate of the largest gradient")
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
        description="decoupled weight decay: this times the weights is added to Adam's update",
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
    """Lion: updates by the sign of the momentum (Chen et al. 2023)."""

    name: Literal["lion"]
    learning_rate: Positive = Field(1e-4, description="initial learning rate")
    b1: Fraction = Field(
        0.9, description="decay rate that combines momentum and gradient in the update"
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
    """Polynomial decay, as in PyTorch's PolynomialLR per step."""

    name: Literal["polynomial"]
    power: Positive = Field(1.0, description="exponent of the remaining fraction of the steps")
    final_fraction: Fraction = Field(
        0.0, description="final learning rate as a fraction of the initial one"
    )
    warmup_epochs: WarmupEpochs = 0.0


class Exponential(Model):
    """Exponential decay: the learning rate is multiplied by `rate` per epoch, every step."""

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
    pct_start: Fraction = Field(0.3, description="fraction of the steps in which it rises")
    div_factor: Annotated[float, Field(ge=1)] = Field(
        25.0, description="largest learning rate divided by the first"
    )
    final_div_factor: Annotated[float, Field(ge=1)] = Field(
        1e4, description="first learning rate divided by the last"
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


OPTIMIZERS: dict[str, type[Model]] = members(Optimizer, "name")
SCHEDULES: dict[str, type[Model]] = members(Schedule, "name")
