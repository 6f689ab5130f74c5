"""Optimisers and learning-rate schedules a user may name: a documented list from optax.

The fields of each optimiser are the arguments of the optax function of the same
name, with that function's defaults unless the description says otherwise.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from cnnbench.layers.fields import Count, Fraction, Model, NonNegative, Positive, members


class _Optimizer(Model):
    learning_rate: Positive = Field(0.001, description="step size at the start")


class Sgd(_Optimizer):
    """Stochastic gradient descent; the default is the post's: Nesterov momentum 0.9."""

    name: Literal["sgd"]
    learning_rate: Positive = Field(0.01, description="step size at the start")
    momentum: Fraction = Field(0.9, description="share of the last update that is kept")
    nesterov: bool = Field(True, description="look ahead along the momentum")


class Adam(_Optimizer):
    """Kingma & Ba 2015."""

    name: Literal["adam"]
    b1: Fraction = Field(0.9, description="memory of the mean gradient")
    b2: Fraction = Field(0.999, description="memory of the mean squared gradient")
    eps: Positive = Field(1e-8, description="added to the denominator")
    nesterov: bool = Field(False, description="look ahead along the momentum (Nadam)")


class AdamW(_Optimizer):
    """Loshchilov & Hutter 2019: Adam with decoupled weight decay."""

    name: Literal["adamw"]
    b1: Fraction = Field(0.9, description="memory of the mean gradient")
    b2: Fraction = Field(0.999, description="memory of the mean squared gradient")
    eps: Positive = Field(1e-8, description="added to the denominator")
    weight_decay: NonNegative = Field(1e-4, description="share of a parameter taken off, per rate")


class RmsProp(_Optimizer):
    """Hinton 2012."""

    name: Literal["rmsprop"]
    decay: Fraction = Field(0.9, description="memory of the mean squared gradient")
    eps: Positive = Field(1e-8, description="added to the denominator")
    momentum: Fraction = Field(0.0, description="share of the last update that is kept")


class Adagrad(_Optimizer):
    """Duchi et al. 2011."""

    name: Literal["adagrad"]
    initial_accumulator_value: NonNegative = Field(0.1, description="start of the sum of squares")
    eps: Positive = Field(1e-7, description="added to the denominator")


class Adadelta(_Optimizer):
    """Zeiler 2012."""

    name: Literal["adadelta"]
    learning_rate: Positive = Field(1.0, description="step size at the start")
    rho: Fraction = Field(0.9, description="memory of the mean squared gradient")
    eps: Positive = Field(1e-6, description="added to the denominator")


class Lamb(_Optimizer):
    """You et al. 2020: layerwise rates for large batches."""

    name: Literal["lamb"]
    b1: Fraction = Field(0.9, description="memory of the mean gradient")
    b2: Fraction = Field(0.999, description="memory of the mean squared gradient")
    eps: Positive = Field(1e-6, description="added to the denominator")
    weight_decay: NonNegative = Field(0.0, description="share of a parameter taken off, per rate")


class Lion(_Optimizer):
    """Chen et al. 2023: the sign of a momentum."""

    name: Literal["lion"]
    learning_rate: Positive = Field(1e-4, description="step size at the start")
    b1: Fraction = Field(0.9, description="mix of gradient and momentum in the update")
    b2: Fraction = Field(0.99, description="memory of the momentum")
    weight_decay: NonNegative = Field(1e-3, description="share of a parameter taken off, per rate")


def _named(default: str) -> BeforeValidator:
    """``adam`` is short for ``{name: adam}``, and options without a name are the default's."""

    def named(value: object) -> object:
        if isinstance(value, Mapping):
            return {"name": default, **value}
        return {"name": value} if isinstance(value, str) else value

    return BeforeValidator(named)


DEFAULT_OPTIMIZER = Sgd(name="sgd")
Optimizer = Annotated[
    Sgd | Adam | AdamW | RmsProp | Adagrad | Adadelta | Lamb | Lion,
    Field(discriminator="name"),
    _named(DEFAULT_OPTIMIZER.name),
]


class Constant(Model):
    """The same rate throughout."""

    name: Literal["constant"]


class Cosine(Model):
    """Half a cosine from the learning rate down, after a linear warm-up."""

    name: Literal["cosine"]
    warmup_epochs: NonNegative = Field(0.0, description="epochs of linear growth from zero")
    final_fraction: Fraction = Field(0.0, description="last rate as a share of the first")


class Linear(Model):
    """A straight line from the learning rate down."""

    name: Literal["linear"]
    final_fraction: Fraction = Field(0.0, description="last rate as a share of the first")


class Exponential(Model):
    """The rate is multiplied by `rate` every epoch, smoothly."""

    name: Literal["exponential"]
    rate: Annotated[float, Field(gt=0, le=1)] = Field(0.95, description="factor per epoch")


class Step(Model):
    """The rate is multiplied by `factor` every so many epochs."""

    name: Literal["step"]
    every: Count = Field(description="epochs between two drops")
    factor: Annotated[float, Field(gt=0, le=1)] = Field(0.1, description="factor at each drop")


DEFAULT_SCHEDULE = Constant(name="constant")
Schedule = Annotated[
    Constant | Cosine | Linear | Exponential | Step,
    Field(discriminator="name"),
    _named(DEFAULT_SCHEDULE.name),
]


def depends_on_total(schedule: Schedule) -> bool:
    """Tell whether the learning rates of the first epochs depend on how many follow.

    >>> depends_on_total(Cosine(name="cosine")), depends_on_total(Step(name="step", every=5))
    (True, False)
    """
    return isinstance(schedule, Cosine | Linear)


OPTIMIZERS: dict[str, type[Model]] = members(Optimizer, "name")
SCHEDULES: dict[str, type[Model]] = members(Schedule, "name")
