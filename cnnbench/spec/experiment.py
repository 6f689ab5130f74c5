"""An experiment file as one frozen value.

``docs/reference/spec.md`` is checked against these models, so that every key a user may
write is documented there.
"""

import hashlib
import json
from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PlainSerializer

from cnnbench.layers import LayerOp
from cnnbench.layers.fields import Count, CountOrNone, Model, Positive, Seeds
from cnnbench.spec.metrics import MetricName
from cnnbench.spec.optimizers import DEFAULT_OPTIMIZER, DEFAULT_SCHEDULE, Optimizer, Schedule

NAME_PATTERN = r"[A-Za-z][A-Za-z0-9_-]*"
MAX_NAME = 64


Loss = Literal["cross_entropy", "mse", "mae", "binary_cross_entropy"]
Precision = Literal["float32", "bfloat16"]
LOSSES: Mapping[str, tuple[Loss, ...]] = {
    "classify": ("cross_entropy",),
    "reconstruct": ("mse", "mae", "binary_cross_entropy"),
}


class Task(StrEnum):
    """What a network is trained to do."""

    CLASSIFY = "classify"
    RECONSTRUCT = "reconstruct"


def _freeze(layers: dict[str, Any]) -> Mapping[str, Any]:
    return MappingProxyType(layers)


class ModelSpec(Model):
    """Either a graph of named layers, or a class that builds an `nnx.Module`."""

    layers: Annotated[dict[str, LayerOp], AfterValidator(_freeze), PlainSerializer(dict)] = Field(
        default_factory=dict, description="the graph: layer names and their operations"
    )
    output: str | None = Field(
        None, description="the layer whose result counts; the one that no layer reads if left out"
    )
    code_layer: str | None = Field(
        None,
        description="the layer that holds the code of a network that reconstructs; the first of"
        " the narrowest if left out",
    )
    python: str | None = Field(
        None, description="package.module:Class of an nnx.Module instead of layers"
    )
    args: dict[str, Any] = Field(
        default_factory=dict, description="keyword arguments of the Python class"
    )


class Splits(Model):
    """How many images train, validate and test."""

    train: Count | None = Field(None, description="the first images of the training set")
    validation: CountOrNone | None = Field(
        None, description="the last images of the training set; 0 for none"
    )
    test: Count | None = Field(None, description="the first images of the test set")


class DatasetSpec(Model):
    """Where the images come from."""

    name: str = Field(description="a tensorflow-datasets image classification set, or mnist_5k")
    offline: str | None = Field(None, description="the set that stands in where name cannot be had")
    splits: Splits = Field(Splits(), description="sizes of the splits; the set's own if left out")
    train_examples: Count | None = Field(None, description="use only the first so many")
    pixel_scale: Positive = Field(256.0, description="pixels (0 to 255) are divided by it")


class TrainSpec(Model):
    """How a network is trained; the defaults are those of the Lasagne MNIST example."""

    epochs: Count = Field(30, description="passes over the training images")
    batch_size: Count = Field(500, description="images per step")
    optimizer: Optimizer = Field(DEFAULT_OPTIMIZER, description="the rule that updates parameters")
    schedule: Schedule = Field(
        DEFAULT_SCHEDULE, description="how the learning rate changes over the training"
    )
    precision: Precision = Field(
        "float32",
        description="what the network computes in; parameters and losses stay in float32",
    )
    loss: Loss | None = Field(
        None, description="cross_entropy for classify and mse for reconstruct if left out"
    )
    metrics: tuple[MetricName, ...] | None = Field(
        None, description="accuracy for classify, none for reconstruct if left out", strict=False
    )


class CheckpointSpec(Model):
    """How often a training is kept, so that a run can go on after whatever stopped it."""

    every: CountOrNone = Field(1, description="epochs from one checkpoint to the next; 0 for none")
    keep: Count = Field(1, description="checkpoints of each seed that are kept")


class Experiment(Model):
    """A whole experiment: data, network, training and seeds."""

    name: Annotated[str, Field(pattern=f"^{NAME_PATTERN}$", max_length=MAX_NAME)] = Field(
        description="short name; the folder of its runs"
    )
    title: str = Field("", description="the Type column of tables; the name if left out")
    task: Task = Field(description="classify or reconstruct", strict=False)
    dataset: DatasetSpec = Field(description="the images")
    model: ModelSpec = Field(description="the network")
    train: TrainSpec = Field(TrainSpec(), description="how it is trained")
    checkpoint: CheckpointSpec = Field(
        CheckpointSpec(), description="how often a training is kept while it goes"
    )
    seeds: Seeds = Field((0,), description="a number of seeds, or a list of them")

    @property
    def type_title(self) -> str:
        """The entry of the Type column."""
        return self.title or self.name

    def digest(self, source: bytes = b"") -> str:
        """Identity of what is trained: equal for experiments that differ only in name and seeds.

        Args:
          source: the code of a Python model.
        """
        beside: Any = {"name": True, "title": True, "checkpoint": True, "seeds": True}
        beside["model"] = {"code_layer"}  # it is looked at once all is trained
        content = self.model_dump(mode="json", exclude=beside)
        # Keys are not sorted: the order of layers says what each of them reads.
        text = json.dumps(content, separators=(",", ":"))
        return "sha256:" + hashlib.sha256(text.encode() + source).hexdigest()
