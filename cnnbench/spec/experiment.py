"""Frozen pydantic models of an experiment file.

The tables in ``docs/reference/spec.md`` are generated from these models, so every key is
documented there.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from enum import StrEnum
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    PrivateAttr,
    WithJsonSchema,
    model_validator,
)

from cnnbench.data.adjustments import (
    Adjustments,
    Imbalance,
    ImbalanceKind,
    LabelNoise,
    NoiseKind,
    Subset,
)
from cnnbench.data.catalog import (
    CLASS_NAMES,
    KINDS,
    ROLES,
    SPLITS,
    ArrayOptions,
    ChannelOrder,
    DatasetInfo,
    ImageForm,
    LabelKind,
    OwnData,
    ResizeMethod,
    Shares,
    describe,
    resized_info,
)
from cnnbench.data.classes import ClassRef, narrowed
from cnnbench.data.own.folder import FolderSource
from cnnbench.data.own.tables import TableSource
from cnnbench.data.scaling import Scaling, TargetScaling
from cnnbench.data.splits import RandomSplit
from cnnbench.errors import did_you_mean, or_list, quoted
from cnnbench.layers import LayerOp
from cnnbench.layers.base import INPUT
from cnnbench.layers.fields import (
    ADDED,
    MAX_SEEDS,
    VALUE,
    Count,
    CountOrNone,
    Fraction,
    Model,
    Positive,
    Seeds,
    Size,
    drop_unchanged_additions,
    field_error,
)
from cnnbench.spec.metrics import MetricName
from cnnbench.spec.optimizers import (
    DEFAULT_OPTIMIZER,
    DEFAULT_SCHEDULE,
    Optimizer,
    ParameterGroup,
    Schedule,
)

if TYPE_CHECKING:
    from cnnbench.data.own.array_files import ArraySource

NAME_PATTERN = r"[A-Za-z][A-Za-z0-9_-]*"
LAYER_PATTERN = rf"{NAME_PATTERN}(\.[A-Za-z0-9][A-Za-z0-9_-]*)*"  # layers in blocks have paths
MAX_NAME = 64
AUTO = "auto"  # dataset.normalize and normalize_targets: from the training images
BALANCED = "balanced"  # train.class_weights and pos_weight: from the training labels

Loss = Literal[
    "cross_entropy",
    "mse",
    "mae",
    "binary_cross_entropy",
    "huber",
    "binary_cross_entropy_with_logits",
]
Precision = Literal["float32", "bfloat16"]
LOSSES: Mapping[str, tuple[Loss, ...]] = {
    "classify": ("cross_entropy",),
    "reconstruct": ("mse", "mae", "binary_cross_entropy"),
    "regress": ("mse", "mae", "huber"),
    "multilabel": ("binary_cross_entropy_with_logits",),
}
"""Losses of each task; the first is the default."""


Selector = Literal["loss", MetricName]  # of an epoch, by its value on the validation images


class Task(StrEnum):
    """The task that a network is trained for."""

    CLASSIFY = "classify"
    RECONSTRUCT = "reconstruct"
    REGRESS = "regress"
    MULTILABEL = "multilabel"

    @property
    def labels(self) -> LabelKind:
        """What images must be labeled with; for reconstruction, labels only judge the code."""
        kinds: dict[Task, LabelKind] = {Task.REGRESS: "targets", Task.MULTILABEL: "multilabel"}
        return kinds.get(self, "class")


def output_shape(task: Task, info: DatasetInfo) -> tuple[int, ...]:
    """Shape of the output for an image: like the image, or one per class, target or label."""
    return info.shape if task is Task.RECONSTRUCT else (info.num_classes,)


def _freeze(layers: dict[str, Any]) -> Mapping[str, Any]:
    return MappingProxyType(layers)


class ModelSpec(Model):
    """A graph of named layers, or a class that builds an `nnx.Module`."""

    layers: Annotated[dict[str, LayerOp], AfterValidator(_freeze), PlainSerializer(dict)] = Field(
        default_factory=dict, description="the graph: layer names and operations"
    )
    output: str | None = Field(
        None, description="name of the output layer; default: the layer that no other layer reads"
    )
    code_layer: str | None = Field(
        None,
        description="name of the code (bottleneck) layer of an autoencoder; default: the first of"
        " the narrowest layers",
    )
    python: str | None = Field(
        None, description="package.module:Class of an nnx.Module, instead of layers"
    )
    args: dict[str, Any] = Field(
        default_factory=dict, description="keyword arguments for the Python class"
    )


class ChannelStatistics(Model):
    """Mean and standard deviation of each channel or target, or of all; of pixels in [0, 1]."""

    mean: Annotated[tuple[float, ...], PlainSerializer(list)]
    std: Annotated[tuple[Positive, ...], PlainSerializer(list)]


def _normalize(value: object) -> object:
    return _statistics(value, "{mean: [0.13], std: [0.31]} with a number per channel")


def _normalize_targets(value: object) -> object:
    return _statistics(value, "{mean: [170], std: [9.5]} with a number per target")


def _statistics(value: object, example: str) -> object:
    if value in (None, AUTO) or isinstance(value, ChannelStatistics):
        return value
    if not isinstance(value, dict) or value.keys() != {"mean", "std"}:
        objection = f"{VALUE} is not a valid normalization"
    else:
        mean, std = (_floats(value[key]) for key in ("mean", "std"))
        if mean and std and min(std) > 0:
            return ChannelStatistics(mean=mean, std=std)
        wrong = f"{'std' if mean else 'mean'} is not a list of numbers"
        objection = f"std {min(std):g} is not greater than 0" if mean and std else wrong
    raise field_error(objection, f"use {AUTO}, or {example}", value)


def _floats(value: Any) -> tuple[float, ...]:
    """Finite numbers of a list, or a single one; empty if it is anything else."""
    values = value if isinstance(value, list) else [value]
    numbers = [float(one) for one in values if type(one) in {int, float} and math.isfinite(one)]
    return tuple(numbers) if len(numbers) == len(values) else ()


def _numbers_schema(**limits: float) -> dict[str, Any]:
    number = {"type": "number"} | limits
    return {"anyOf": [number, {"type": "array", "items": number, "minItems": 1}]}


COLORS: Mapping[str, tuple[int, int, int]] = {"white": (255, 255, 255), "black": (0, 0, 0)}


def _background(value: object) -> object:
    levels = list(value) if isinstance(value, (list, tuple)) else []
    if len(levels) == 3 and all(type(each) is int and 0 <= each <= 255 for each in levels):
        return tuple(levels)
    if isinstance(value, str) and value in COLORS:
        return value
    remedy = "use white, black, or [red, green, blue] with numbers from 0 to 255"
    raise field_error(f"{VALUE} is not a color", remedy, value)


def _color(background: "str | tuple[int, int, int]") -> tuple[int, int, int]:
    return COLORS[background] if isinstance(background, str) else background


Background = Annotated[
    Literal["white", "black"] | tuple[int, int, int],
    BeforeValidator(_background),
    PlainSerializer(lambda value: list(value) if isinstance(value, tuple) else value),
    WithJsonSchema(
        {
            "anyOf": [
                {"enum": list(COLORS)},
                {
                    "type": "array",
                    "items": {"type": "integer", "minimum": 0, "maximum": 255},
                    "minItems": 3,
                    "maxItems": 3,
                },
            ]
        }
    ),
]

FILE_ROLES = (*SPLITS, *KINDS, *ROLES)  # keys of `arrays`
KEY_ROLES = (*KINDS, *ROLES, CLASS_NAMES)  # keys of `keys`


def _arrays(value: object) -> object:
    if isinstance(value, dict):
        return _texts(value, FILE_ROLES, "{train: train.csv, test: test.csv}")
    if isinstance(value, str) and value:
        return value
    remedy = "use the path of an .npz, .csv or .parquet file, or {train: FILE, test: FILE}"
    raise field_error(f"{VALUE} is not a file path", remedy, value)


def _array_keys(value: object) -> object:
    if isinstance(value, dict):  # columns of a file without a header have numbers
        value = {key: str(name) if type(name) is int else name for key, name in value.items()}
        if isinstance(labels := value.get("labels"), (list, tuple)):
            names = tuple(str(name) if type(name) is int else name for name in labels)
            _require_names(names, value)
            rest = {key: name for key, name in value.items() if key != "labels"}
            others: Any = _texts(rest, KEY_ROLES, "{labels: [x, y]}") if rest else {}
            return {**others, "labels": names}
    return _texts(value, KEY_ROLES, "{images: pixels, labels: kind}")


def _require_names(names: tuple[object, ...], value: object) -> None:
    """Columns of a list, each with a name of its own."""
    wrong = [name for name in names if not isinstance(name, str) or not name]
    twice = [name for i, name in enumerate(names) if name in names[:i]]
    remedy = "use the names of columns, such as {labels: [x, y]}"
    if wrong or not names:
        what = f"{quoted(wrong[0])} is not a string" if wrong else "the list is empty"
        raise field_error(f"labels: {what}", remedy, value)
    if twice:
        raise field_error(f"labels: {quoted(twice[0])} is there twice", "remove one", value)


def _texts(value: object, known: tuple[str, ...], example: str) -> object:
    """A mapping from some of the known words to strings."""
    if not isinstance(value, dict) or not value:
        raise field_error(f"{VALUE} is not a mapping", f"use, for example, {example}", value)
    for key, text in value.items():
        if key not in known:
            near = did_you_mean(str(key), known)
            raise field_error(
                f"{quoted(key)} is not a known key{near}", f"use {or_list(known)}", value
            )
        if not isinstance(text, str) or not text:
            raise field_error(f"{key}: {quoted(text)} is not a string", f"use {example}", value)
    return value


def _texts_schema(known: tuple[str, ...], *kinds: str) -> dict[str, Any]:
    text = {"type": ["string", *kinds] if kinds else "string", "minLength": 1}
    return {
        "type": "object",
        "properties": dict.fromkeys(known, text),
        "additionalProperties": False,
        "minProperties": 1,
    }


def _array_keys_schema() -> dict[str, Any]:
    schema = _texts_schema(KEY_ROLES, "integer")
    text = schema["properties"]["labels"]
    several = {"type": "array", "items": text, "minItems": 1, "uniqueItems": True}
    return schema | {"properties": schema["properties"] | {"labels": {"anyOf": [text, several]}}}


def _image_shape(value: object) -> object:
    sizes = list(value) if isinstance(value, (list, tuple)) else []
    if len(sizes) == 3 and all(type(size) is int and size > 0 for size in sizes):
        return tuple(sizes)
    remedy = "use [height, width, channels], such as [32, 32, 3]"
    raise field_error(f"{VALUE} is not an image shape", remedy, value)


def _value_range(value: object) -> object:
    numbers = _floats(list(value)) if isinstance(value, (list, tuple)) else ()
    if len(numbers) == 2 and numbers[0] < numbers[1]:
        return numbers
    remedy = "use [black, white], two increasing numbers such as [-1, 1]"
    raise field_error(f"{VALUE} is not a range", remedy, value)


def _list_of(number: str, size: int, **limits: float) -> dict[str, Any]:
    items = {"type": number} | limits
    return {"type": "array", "items": items, "minItems": size, "maxItems": size}


ArrayFiles = Annotated[
    str | dict[str, str],
    BeforeValidator(_arrays),
    WithJsonSchema({"anyOf": [{"type": "string", "minLength": 1}, _texts_schema(FILE_ROLES)]}),
]
ArrayKeys = Annotated[
    dict[str, str | tuple[str, ...]],
    BeforeValidator(_array_keys),
    PlainSerializer(
        lambda keys: {key: name if isinstance(name, str) else [*name] for key, name in keys.items()}
    ),
    WithJsonSchema(_array_keys_schema()),
]
ImageShape = Annotated[
    tuple[int, int, int],
    BeforeValidator(_image_shape),
    PlainSerializer(list),
    WithJsonSchema(_list_of("integer", 3, minimum=1)),
]
ValueRange = Annotated[
    tuple[float, float],
    BeforeValidator(_value_range),
    PlainSerializer(list),
    WithJsonSchema(_list_of("number", 2)),
]

_STATISTICS = WithJsonSchema(
    {
        "anyOf": [
            {"enum": [AUTO]},
            {
                "type": "object",
                "properties": {
                    "mean": _numbers_schema(),
                    "std": _numbers_schema(exclusiveMinimum=0),
                },
                "required": ["mean", "std"],
                "additionalProperties": False,
            },
            {"type": "null"},
        ]
    }
)
_AutoStatistics = Literal["auto"] | ChannelStatistics | None
Normalize = Annotated[_AutoStatistics, BeforeValidator(_normalize), _STATISTICS]
NormalizeTargets = Annotated[_AutoStatistics, BeforeValidator(_normalize_targets), _STATISTICS]


def _streaming(value: object) -> object:
    if value == AUTO or isinstance(value, bool):
        return value
    raise field_error(f"{VALUE} is not a streaming mode", f"use {AUTO}, true or false", value)


Streaming = Annotated[Literal["auto"] | bool, BeforeValidator(_streaming)]


def _class_weights(value: object) -> object:
    return _weights(value, "class weight", "class")


def _pos_weight(value: object) -> object:
    return _weights(value, "weight", "label")


def _weights(value: Any, kind: str, each: str) -> object:
    if value is None or value == BALANCED or isinstance(value, tuple):
        return value
    remedy = f"use {BALANCED}, or a list of positive numbers, one per {each}"
    weights = _floats(value) if isinstance(value, list) else ()
    if not weights:
        raise field_error(f"{VALUE} is not a list of {kind}s", remedy, value)
    if min(weights) <= 0:
        place = next(place for place, weight in enumerate(weights) if weight <= 0)
        raise field_error(f"{kind} {VALUE} is not positive", remedy, value[place], place)
    return weights


_WeightList = Literal["balanced"] | tuple[float, ...] | None
_AS_LIST = PlainSerializer(lambda value: list(value) if isinstance(value, tuple) else value)
_WEIGHTS = WithJsonSchema(
    {
        "anyOf": [
            {"enum": [BALANCED]},
            {
                "type": "array",
                "items": {"type": "number", "exclusiveMinimum": 0},
                "minItems": 1,
            },
            {"type": "null"},
        ]
    }
)
ClassWeights = Annotated[_WeightList, BeforeValidator(_class_weights), _AS_LIST, _WEIGHTS]
PosWeight = Annotated[_WeightList, BeforeValidator(_pos_weight), _AS_LIST, _WEIGHTS]


class Splits(Model):
    """Number of training, validation and test images."""

    train: Count | None = Field(
        None, description="number of training images, from the start of the training set"
    )
    validation: CountOrNone | None = Field(
        None,
        description="number of validation images, from the end of the training set; 0 for none",
    )
    test: Count | None = Field(
        None, description="number of test images, from the start of the test set"
    )


class RandomCrop(Model):
    """Pads the image and takes a random crop of the original size."""

    padding: Count = Field(description="rows and columns added on each side")
    mode: Literal["zeros", "reflect"] = Field(
        "zeros",
        description="zeros for black pixels; reflect mirrors the image without repeating the edge,"
        " as in torchvision",
    )


class RandomTranslation(Model):
    """Shifts the image and fills with black pixels."""

    pixels: Count = Field(description="largest shift, in rows and in columns")


class RandAugment(Model):
    """Applies random operations, as torchvision's `RandAugment` does (Cubuk et al. 2020).

    Each is one of 14 with equal probability: identity, shear, translate, rotate, brightness, color,
    contrast, sharpness, posterize, solarize, auto-contrast and equalize, with torchvision's
    magnitudes; where these have a sign, both are equally probable.
    """

    num_ops: Count = Field(2, description="operations per image")
    magnitude: Annotated[int, Field(ge=0, le=30)] = Field(
        9, description="strength of all operations, from 0 to 30"
    )


class RandomRotation(Model):
    """Rotates the image about its center, with bilinear interpolation and black corners."""

    degrees: Annotated[float, Field(gt=0, le=180)] = Field(
        description="largest angle in either direction"
    )


class RandomErasing(Model):
    """Sets a rectangle to zero after scaling (Zhong et al. 2017): black, or the mean if normalized.

    The logarithm of its ratio of height to width is uniform from 3/10 to 10/3.
    """

    probability: Annotated[float, Field(gt=0, le=1)] = Field(0.5, description="fraction of images")
    area: Annotated[float, Field(gt=0, le=1)] = Field(
        0.33,
        description="largest fraction of the image that is erased; the smallest is 0.02, or this if"
        " less",
    )


class Mixup(Model):
    """Mixes pairs of images and their labels (Zhang et al. 2017)."""

    alpha: Positive = Field(
        0.2, description="parameter of the beta distribution of the mixing ratio"
    )


class Cutmix(Model):
    """Replaces a box with that of another image, and mixes labels by area (Yun et al. 2019)."""

    alpha: Positive = Field(1.0, description="parameter of the beta distribution of the area")


class Augment(Model):
    """Random transforms of the training images, in this order."""

    random_crop: RandomCrop | None = Field(None, description="pad, and take a random crop")
    random_translation: RandomTranslation | None = Field(
        None, description="shift by a random number of pixels"
    )
    random_flip: Literal["horizontal", "vertical"] | None = Field(
        None, description="flip images with probability 0.5: horizontal or vertical"
    )
    rand_augment: Annotated[RandAugment | None, ADDED] = Field(
        None, description="random geometric and color operations"
    )
    random_rotation: RandomRotation | None = Field(None, description="rotate by a random angle")
    random_erasing: RandomErasing | None = Field(None, description="erase a random rectangle")
    mixup: Mixup | None = Field(None, description="mix pairs of images and their labels")
    cutmix: Cutmix | None = Field(
        None, description="paste a box from another image; with mixup, each on half of the batches"
    )

    @property
    def mixes(self) -> bool:
        """True if labels are mixed."""
        return bool(self.mixup or self.cutmix)


AUGMENTATIONS: Mapping[str, type[Model]] = {
    name: model
    for name, field in Augment.model_fields.items()
    for model in get_args(field.annotation)
    if isinstance(model, type) and issubclass(model, Model)
}


class Resize(Model):
    """Scales images to the same size: bilinear, with antialiasing."""

    size: Size = Field(description="[height, width], or one number for both")
    method: ResizeMethod = Field(
        "crop",
        description="crop scales the image to cover the size and center-crops it; fit scales the"
        " whole image to fit and pads it with background; stretch ignores the aspect ratio",
    )


Folds = Annotated[int, Field(ge=2)]


class SplitSpec(Model):
    """Random split of the images into training and validation images, and test images if needed."""

    validation: Fraction = Field(
        0.15,
        description="fraction of the images for validation: of the training images of a named"
        " dataset, of all images of a folder or arrays without test images",
    )
    test: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.15, description="fraction of the images for testing, for a folder or arrays without them"
    )
    stratified: bool = Field(
        True, description="split each class separately, so that all splits have the same class mix"
    )
    seed: CountOrNone = Field(0, description="seed of the random split")
    by_seed: Annotated[bool, ADDED] = Field(
        False,
        description="give each seed its own random training and validation images; the test images"
        " stay the same",
    )
    folds: Annotated[Folds | None, ADDED] = Field(
        None,
        description="k-fold cross-validation instead of validation: seed s validates on fold s"
        " modulo folds and trains on the others; seeds defaults to this number",
    )


_OLD_SPLIT = {"validation": 0.15, "test": 0.15, "stratified": True, "seed": 0}


def _is_class(value: object) -> bool:
    return (type(value) is int and value >= 0) or (isinstance(value, str) and value != "")


def _classes(value: object) -> object:
    """Classes as tuples: `[cat, dog]`, or `{pet: [cat, dog], car: automobile}`."""
    if isinstance(value, (list, tuple)) and value and all(map(_is_class, value)):
        return tuple(value)
    if not isinstance(value, dict) or not value:
        remedy = "use a list such as [cat, dog], or classes to merge, {pet: [cat, dog], car: [car]}"
        raise field_error(f"{VALUE} is not a list of classes", remedy, value)
    groups = {}
    for name, group in value.items():
        each = tuple(group) if isinstance(group, (list, tuple)) else (group,)
        if not each or not all(map(_is_class, each)):
            message = f"{name}: {quoted(group)} is not a list of classes"
            raise field_error(message, "use names or numbers, such as [cat, dog]", value)
        groups[str(name)] = each
    return groups


def _class_order(value: object) -> object:
    if value is None:
        return None
    if isinstance(value, (list, tuple)) and value and all(map(_is_class, value)):
        return tuple(value)
    raise field_error(f"{VALUE} is not a list of classes", "use a list such as [cat, dog]", value)


def _wrong_classes(value: object) -> object:
    if value is None:
        return None
    if isinstance(value, dict) and value and all(map(_is_class, value.values())):
        return {str(one): other for one, other in value.items()}
    remedy = "use the wrong class by the true one, such as {cat: dog, dog: cat}"
    raise field_error(f"{VALUE} does not map classes to classes", remedy, value)


def _per_class(value: object) -> object:
    """A number of images, or numbers by class."""
    numbers = {str(ref): number for ref, number in value.items()} if isinstance(value, dict) else {}
    if value is None or _is_count(value):
        return value
    if numbers and all(map(_is_count, numbers.values())):
        return numbers
    wrong = next((f"{ref}: {quoted(n)}" for ref, n in numbers.items() if not _is_count(n)), VALUE)
    remedy = "use a number such as 50, or numbers by class, {cat: 50, dog: 10}"
    raise field_error(f"{wrong} is not a number of images per class", remedy, value)


def _is_count(value: object) -> bool:
    return type(value) is int and value > 0


def _is_size(value: object) -> bool:
    return _is_count(value) or (type(value) is float and 0 < value <= 1)


def _subset_size(value: object) -> object:
    if value is None or _is_size(value):
        return value
    remedy = "use a number such as 1000, or a fraction such as 0.1"
    raise field_error(f"{VALUE} is not a number of images", remedy, value)


def _short_subset(value: object) -> object:
    """`subset: 1000` is `{size: 1000}`."""
    if value is None or isinstance(value, (dict, SubsetSpec)):
        return value
    if _is_size(value):
        return {"size": value}
    remedy = "use a number such as 1000, a fraction such as 0.1, or {per_class: 50}"
    raise field_error(f"{VALUE} is not a subset", remedy, value)


def _short_imbalance(value: object) -> object:
    """`imbalance: 100` is `{ratio: 100}`."""
    if value is None or isinstance(value, (dict, ImbalanceSpec)):
        return value
    if type(value) in {int, float} and value >= 1:  # type: ignore[operator]
        return {"ratio": value}
    remedy = "use a ratio of class sizes, 1 or more, such as 100, or {ratio: 10, kind: step}"
    raise field_error(f"{VALUE} is not an imbalance", remedy, value)


def _short_noise(value: object) -> object:
    """`label_noise: 0.2` is `{rate: 0.2}`."""
    if value is None or isinstance(value, (dict, LabelNoiseSpec)):
        return value
    if type(value) in {int, float} and 0 <= value <= 1:  # type: ignore[operator]
        return {"rate": value}
    remedy = "use a fraction of the labels from 0 to 1, such as 0.2, or {rate: 0.2, kind: pair}"
    raise field_error(f"{VALUE} is not a rate of label noise", remedy, value)


_CLASS: dict[str, Any] = {
    "anyOf": [{"type": "string", "minLength": 1}, {"type": "integer", "minimum": 0}]
}
_CLASSES: dict[str, Any] = {"type": "array", "items": _CLASS, "minItems": 1}
_IMAGES: dict[str, Any] = {"type": "integer", "minimum": 1}
_SHARE: dict[str, Any] = {"type": "number", "exclusiveMinimum": 0, "maximum": 1}


def _by_class(item: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": item, "minProperties": 1}


def _or_none(*kinds: dict[str, Any]) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": [*kinds, {"type": "null"}]})


def _or_short(*kinds: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
    """Adds a short form to the JSON Schema of an optional model."""

    def add(schema: dict[str, Any]) -> None:
        schema["anyOf"] = [*kinds, *schema["anyOf"]]

    return add


def _lists(value: Any) -> Any:
    """Classes as plain data."""
    if isinstance(value, dict):
        return {name: _lists(group) for name, group in value.items()}
    return list(value) if isinstance(value, tuple) else value


ClassList = Annotated[
    tuple[ClassRef, ...] | dict[str, tuple[ClassRef, ...]],
    BeforeValidator(_classes),
    PlainSerializer(_lists),
    WithJsonSchema({"anyOf": [_CLASSES, _by_class({"anyOf": [*_CLASS["anyOf"], _CLASSES]})]}),
]


class SubsetSpec(Model):
    """Random subset of the training images; exactly one of size and per_class."""

    size: Annotated[
        int | float | None, BeforeValidator(_subset_size), _or_none(_IMAGES, _SHARE)
    ] = Field(None, description="number of images, or a fraction of the training images")
    per_class: Annotated[
        int | dict[str, int] | None,
        BeforeValidator(_per_class),
        _or_none(_IMAGES, _by_class(_IMAGES)),
    ] = Field(
        None,
        description="number of images of each class, or numbers by class, {cat: 50}; all images of"
        " the classes that are not listed",
    )
    stratified: bool = Field(
        True, description="for size: draw from each class separately, to keep the class mix"
    )
    seed: CountOrNone = Field(
        0,
        description="seed of the random draw; smaller subsets are part of larger ones with the same"
        " seed",
    )


class ImbalanceSpec(Model):
    """Removes training images, so that classes have different sizes."""

    ratio: Annotated[float, Field(ge=1)] = Field(
        description="size of the largest class divided by that of the smallest"
    )
    kind: ImbalanceKind = Field(
        "long_tailed",
        description="long_tailed: sizes decrease exponentially, as in CIFAR-10-LT; step: the second"
        " half of the classes is smaller by the ratio",
    )
    order: Annotated[
        tuple[ClassRef, ...] | None,
        BeforeValidator(_class_order),
        PlainSerializer(_lists),
        _or_none(_CLASSES),
    ] = Field(None, description="all classes from largest to smallest; default: by number")
    seed: CountOrNone = Field(0, description="seed of the random draw")


class LabelNoiseSpec(Model):
    """Wrong training labels; validation and test labels remain correct."""

    rate: Annotated[float, Field(ge=0, le=1)] = Field(
        description="fraction of the training images of each class whose label is changed"
    )
    kind: NoiseKind | None = Field(
        None,
        description="symmetric (default): to any other class with the same probability; pair: to"
        " the next class",
    )
    to: Annotated[
        dict[str, ClassRef] | None,
        BeforeValidator(_wrong_classes),
        _or_none(_by_class(_CLASS)),
    ] = Field(
        None,
        description="instead of kind: the wrong class by the true one, {cat: dog, dog: cat}; other"
        " classes keep their labels",
    )
    seed: CountOrNone = Field(0, description="seed of the random draw")


class DatasetSpec(Model):
    """The dataset and its preprocessing; exactly one of name, folder and arrays."""

    name: str | None = Field(
        None,
        description="an image classification dataset of tensorflow-datasets, mnist_5k, or noise"
        " (random/224x224x3/1000)",
    )
    folder: Annotated[str | None, ADDED] = Field(
        None,
        description="a folder of images, CLASS/* or train/CLASS/* and test/CLASS/*, relative to"
        " this file",
    )
    labels: Annotated[str | None, ADDED] = Field(
        None,
        description="for a folder: CSV file with a column of file names and columns of classes,"
        " targets or labels, instead of a folder per class; relative to this file",
    )
    resize: Annotated[Resize | None, ADDED] = Field(
        None,
        description="image size; default: that of the images, which must all have the same size",
    )
    channels: Annotated[Literal[1, 3], ADDED] = Field(
        3, description="for a folder: 1 converts images to gray, 3 to RGB"
    )
    background: Annotated[Background, ADDED] = Field(
        "white",
        description="color of the padding with method: fit, and behind transparent pixels: white,"
        " black, or [red, green, blue] from 0 to 255",
    )
    on_error: Annotated[Literal["stop", "skip"], ADDED] = Field(
        "stop", description="for a folder: stop at the first unreadable image, or skip all of them"
    )
    streaming: Annotated[Streaming, ADDED] = Field(
        "auto",
        description="for a folder: true decodes images in worker processes whenever they are"
        " needed, false keeps all of them in memory; auto streams if they do not fit there; the"
        " numbers are the same",
    )
    split: Annotated[SplitSpec | None, ADDED] = Field(
        None,
        description="random split; default: the last training images of a named dataset validate"
        " (splits), and a folder or arrays are split at random where they have no splits",
    )
    arrays: Annotated[ArrayFiles | None, ADDED] = Field(
        None,
        description="images and labels in an .npz, .csv or .parquet file or a folder of them, or"
        " files by split: {train: train.csv, test: test.csv}, or by array: {train_images: x.npy,"
        " train_labels: y.npy}; relative to this file",
    )
    keys: Annotated[ArrayKeys | None, ADDED] = Field(
        None,
        description="for arrays: names in the files, if not detected: of arrays in an .npz file"
        " {train_images: x, train_labels: y}, or of columns {images: picture, labels: kind};"
        " several columns are targets or labels: {labels: [x, y]}; also of the table in labels",
    )
    shape: Annotated[ImageShape | None, ADDED] = Field(
        None,
        description="for arrays: [height, width, channels] of flattened images; default: square"
        " and gray",
    )
    layout: Annotated[ChannelOrder | None, ADDED] = Field(
        None,
        description="for arrays: channels_last or channels_first; default: detected from the sizes"
        " of the axes",
    )
    value_range: Annotated[ValueRange | None, ADDED] = Field(
        None,
        description="for arrays: pixel values [black, white]; default: [0, 1] or [0, 255],"
        " detected from the values",
    )
    offline: str | None = Field(None, description="fallback dataset if name is not available")
    splits: Splits = Field(Splits(), description="split sizes; default: the dataset's own")
    train_examples: Count | None = Field(
        None, description="train on only this many images, from the start of the training split"
    )
    classes: Annotated[ClassList | None, ADDED] = Field(
        None,
        description="only these classes, by name or number, numbered in this order: [cat, dog]; or"
        " classes to merge: {animal: [cat, dog], vehicle: [car, truck]}; default: all",
    )
    subset: Annotated[SubsetSpec | None, BeforeValidator(_short_subset), ADDED] = Field(
        None,
        description="random subset of the training images: 1000, 0.1 for a tenth, or {per_class:"
        " 50}; stratified",
        json_schema_extra=_or_short(_IMAGES, _SHARE),
    )
    imbalance: Annotated[ImbalanceSpec | None, BeforeValidator(_short_imbalance), ADDED] = Field(
        None,
        description="make the training classes imbalanced: ratio of the largest to the smallest"
        " class, such as 100, or {ratio: 10, kind: step}",
        json_schema_extra=_or_short({"type": "number", "minimum": 1}),
    )
    label_noise: Annotated[LabelNoiseSpec | None, BeforeValidator(_short_noise), ADDED] = Field(
        None,
        description="change a fraction of the training labels: 0.2, or {rate: 0.2, kind: pair}",
        json_schema_extra=_or_short({"type": "number", "minimum": 0, "maximum": 1}),
    )
    pixel_scale: Positive = Field(256.0, description="divisor for pixel values (0 to 255)")
    normalize: Annotated[Normalize, ADDED] = Field(
        None,
        description="instead of pixel_scale: scales pixels to [0, 1], then subtracts a mean and"
        " divides by a standard deviation per channel; {mean: [0.13], std: [0.31]}, or auto for"
        " those of the training images",
    )
    normalize_targets: Annotated[NormalizeTargets, ADDED] = Field(
        None,
        description="for regress: the network predicts targets minus a mean and divided by a"
        " standard deviation per target; {mean: [170], std: [9.5]}, or auto for those of the"
        " training images; the loss is that of these normalized targets, metrics and predictions"
        " have the unit of the targets",
    )
    augment: Annotated[Augment | None, ADDED] = Field(
        None, description="data augmentation of the training images"
    )

    @model_validator(mode="before")
    @classmethod
    def _without_old_default(cls, data: Any) -> Any:
        """Older runs wrote the defaults of `split`, without effect, for any dataset."""
        match data:
            case {"name": str(), "split": {"test": _} as split} if split == _OLD_SPLIT:
                return {**data, "split": None}
        return data

    _kind: LabelKind = PrivateAttr("class")

    def labeled(self, kind: LabelKind) -> "DatasetSpec":
        """The same dataset, whose own files are read with labels of a kind."""
        if kind == self._kind:
            return self
        spec = self.model_copy()
        spec._kind = kind
        return spec

    @property
    def label(self) -> str:
        """Name of the dataset, or of its folder or file."""
        return self.name or (
            self._array_source().name if self.arrays else Path(self.folder or "").name
        )

    @property
    def source(self) -> str | OwnData:
        """Name of the dataset, or the user's own files."""
        if self.arrays:
            return self._array_source()
        if self.folder is None:
            return self.name or ""
        given = (Path(self.folder), self._image_form(), self._shares(), self.on_error == "skip")
        if self.labels is None:
            return FolderSource(*given, self._kind)
        keys = tuple((self.keys or {}).items())
        return TableSource(*given, self._kind, Path(self.labels), keys)

    @property
    def random_split(self) -> RandomSplit | None:
        """The random split of the training images; None by number, or by the files."""
        spec = self.split
        if spec is None or not (self.name or spec.by_seed or spec.folds):
            return None
        return RandomSplit(spec.validation, spec.stratified, spec.seed, spec.by_seed, spec.folds)

    def _shares(self) -> Shares:
        spec = self.split or SplitSpec()
        validation = 0.0 if self.random_split else spec.validation
        return Shares(validation, spec.test, spec.stratified, spec.seed)

    @property
    def form(self) -> ImageForm | None:
        """Size of the images of a dataset by name; None to keep theirs."""
        return self._image_form() if self.resize and self.name else None

    def _image_form(self) -> ImageForm:
        size = self.resize.size if self.resize else None
        method = self.resize.method if self.resize else "stretch"
        return ImageForm(size, method, self.channels, _color(self.background))

    def _array_source(self) -> "ArraySource":
        from cnnbench.data.own.array_files import ArraySource  # imports NumPy

        given = self.arrays or ""
        files = (
            Path(given)
            if isinstance(given, str)
            else tuple((role, Path(path)) for role, path in given.items())
        )
        keys = tuple((self.keys or {}).items())
        form = self._image_form()
        read_as = (self.shape, self.layout, self.value_range, form, self._kind)
        return ArraySource(files, ArrayOptions(keys, *read_as), self._shares())

    @property
    def adjustments(self) -> Adjustments:
        """Classes, subset, imbalance and label noise."""
        return Adjustments(
            self.classes,
            Subset(**dict(self.subset)) if self.subset else None,
            Imbalance(**dict(self.imbalance)) if self.imbalance else None,
            LabelNoise(**dict(self.label_noise)) if self.label_noise else None,
        )

    def describe(self, data_dir: Path | None = None) -> DatasetInfo:
        """Shape, classes and sizes of the dataset, without reading the images.

        With `classes`, its sizes are unknown.

        Args:
          data_dir: folder of prepared datasets, for names that are not built in.

        Raises:
          DataError: unknown dataset, or its images are not supported.
        """
        return narrowed(self.describe_source(data_dir), self.classes)

    def describe_source(self, data_dir: Path | None = None) -> DatasetInfo:
        """The same of the dataset with all of its classes."""
        source = self.source
        if not isinstance(source, str):
            return source.info()
        return resized_info(describe(source, data_dir), self.form)

    @property
    def scaling(self) -> Scaling:
        """The scaling of pixels; `auto` must have been replaced by numbers."""
        if self.normalize is None:
            return Scaling(self.pixel_scale)
        assert isinstance(self.normalize, ChannelStatistics), "auto"
        return Scaling(self.pixel_scale, self.normalize.mean, self.normalize.std)

    @property
    def target_scaling(self) -> TargetScaling | None:
        """The normalization of targets; `auto` must have been replaced by numbers."""
        if self.normalize_targets is None:
            return None
        assert isinstance(self.normalize_targets, ChannelStatistics), "auto"
        return TargetScaling(self.normalize_targets.mean, self.normalize_targets.std)


SOURCES = ("name", "folder", "arrays")  # exactly one of them
PATHS = ("folder", "labels", "arrays")  # relative to the file
_OWN_KEYS: Mapping[str, tuple[str, ...]] = {  # keys that belong to one source, or two
    "name": ("offline", "split", "resize", "background"),
    "folder": (
        *("labels", "keys", "resize", "channels", "background", "on_error", "streaming", "split"),
    ),
    "arrays": ("keys", "shape", "layout", "value_range", "resize", "background", "split"),
}
OF_SOURCE = tuple(dict.fromkeys(("splits", *chain(*_OWN_KEYS.values()))))


def foreign_keys(source: str) -> list[str]:
    """Keys of `dataset` that belong to other sources than this one."""
    return [key for key in OF_SOURCE if key not in ("splits", *_OWN_KEYS[source])]


class Clip(Model):
    """Gradient clipping, before weight decay and the optimizer; exactly one of the keys."""

    norm: Positive | None = Field(
        None,
        description="maximum norm of the gradient of all parameters together, as in PyTorch's"
        " clip_grad_norm_; larger gradients are scaled down to it",
    )
    value: Positive | None = Field(
        None, description="maximum absolute value of each element of the gradient"
    )


class Ema(Model):
    """Exponential moving average of the parameters, updated after every step."""

    decay: Fraction = Field(
        0.999, description="weight of the previous average; the parameters have weight 1 - decay"
    )


class EarlyStopping(Model):
    """Ends the training of a seed once a validation metric no longer improves."""

    metric: Selector = Field(
        "loss", description="metric on the validation images: loss, or one of metrics"
    )
    patience: Count = Field(
        description="number of consecutive epochs without improvement after which a seed stops"
    )
    min_delta: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        0.0, description="smallest change that counts as an improvement"
    )


class TrainSpec(Model):
    """Training settings; the defaults are those of the Lasagne MNIST example."""

    epochs: Count = Field(30, description="number of passes over the training images")
    batch_size: Count = Field(500, description="images per training step")
    optimizer: Optimizer = Field(DEFAULT_OPTIMIZER, description="optimizer and its options")
    schedule: Schedule = Field(DEFAULT_SCHEDULE, description="learning-rate schedule")
    groups: Annotated[tuple[ParameterGroup, ...] | None, ADDED] = Field(
        None,
        description="layers with their own learning rate or weight decay; the first matching group"
        " applies",
        strict=False,
    )
    precision: Precision = Field(
        "float32",
        description="dtype of the forward and backward pass; parameters and losses stay in float32",
    )
    loss: Loss | None = Field(
        None,
        description="loss function; default: cross_entropy for classify, mse for reconstruct and"
        " regress, binary_cross_entropy_with_logits for multilabel",
    )
    metrics: tuple[MetricName, ...] | None = Field(
        None,
        description="metrics to report; default: accuracy for classify, none for reconstruct, r2"
        " and mae for regress, mean_average_precision and macro_f1 for multilabel",
        strict=False,
    )
    clip: Annotated[Clip | None, ADDED] = Field(None, description="gradient clipping")
    label_smoothing: Annotated[Fraction, ADDED] = Field(
        0.0,
        description="fraction of the target that is spread evenly over all classes, for classify;"
        " training loss only, not validation or test loss",
    )
    class_weights: Annotated[ClassWeights, ADDED] = Field(
        None,
        description="weight of each class, for classify, as in PyTorch's CrossEntropyLoss: a list,"
        " or balanced for weights inversely proportional to the number of training images; training"
        " loss only, not validation or test loss",
    )
    pos_weight: Annotated[PosWeight, ADDED] = Field(
        None,
        description="weight of the images that have a label, for multilabel, as in PyTorch's"
        " BCEWithLogitsLoss: a list with a number per label, or balanced for the number of training"
        " images without the label divided by those with it; training loss only, not validation or"
        " test loss",
    )
    ema: Annotated[Ema | None, ADDED] = Field(
        None, description="evaluate and store an exponential moving average of the parameters"
    )
    early_stopping: Annotated[EarlyStopping | None, ADDED] = Field(
        None,
        description="stop a seed once a validation metric no longer improves; epochs is the"
        " maximum",
    )
    restore_best: Annotated[Selector | None, ADDED] = Field(
        None,
        description="test and store the weights after the epoch with the best validation value of"
        " this metric: loss, or one of metrics; default: those after the last epoch",
    )
    drop_last: Annotated[bool, ADDED] = Field(
        True,
        description="drop the last batch of an epoch if it is incomplete; false keeps it, as Keras"
        " and, by default, PyTorch's DataLoader do",
    )


class Evaluation(Model):
    """Evaluation on validation and test images."""

    augment: Literal["flip", "flip_translate"] | None = Field(
        None,
        description="test-time augmentation, not for reconstruct: the mean of the outputs (logits)"
        " over several views; flip for the image and its mirror image; flip_translate for both, and"
        " both shifted by a pixel, as in airbench",
    )


class CheckpointSpec(Model):
    """Checkpointing, so that an interrupted run can be resumed."""

    every: CountOrNone = Field(1, description="epochs between checkpoints; 0 for none")
    every_steps: Annotated[Count | None, ADDED] = Field(
        None, description="steps between further checkpoints within an epoch; default: none"
    )
    keep: Count = Field(1, description="number of checkpoints to keep per seed")


class Experiment(Model):
    """A complete experiment: dataset, model, training and seeds."""

    name: Annotated[str, Field(pattern=f"^{NAME_PATTERN}$", max_length=MAX_NAME)] = Field(
        description="short name; also the folder of its runs"
    )
    title: str = Field("", description="display name, in the Type column of tables; default: name")
    task: Task = Field(
        description="classify, reconstruct, regress (numbers) or multilabel (several labels per"
        " image)",
        strict=False,
    )
    dataset: DatasetSpec = Field(description="the dataset")
    model: ModelSpec = Field(description="the network")
    train: TrainSpec = Field(TrainSpec(), description="training settings")
    evaluation: Annotated[Evaluation, ADDED] = Field(
        Evaluation(), description="evaluation of validation and test images"
    )
    checkpoint: CheckpointSpec = Field(CheckpointSpec(), description="checkpointing")
    seeds: Seeds = Field(
        (0,), description="number of seeds, or a list of seeds; with folds, default: one per fold"
    )

    @model_validator(mode="before")
    @classmethod
    def _seed_per_fold(cls, data: Any) -> Any:
        """The default of `seeds` with cross-validation."""
        match data:
            case {"dataset": {"split": {"folds": int(folds)}}} if 1 < folds <= MAX_SEEDS:
                return {**data, "seeds": data.get("seeds", folds)}
        return data

    @model_validator(mode="after")
    def _read_labels(self) -> Self:
        """Reads the user's own files with the labels of the task."""
        dataset = self.dataset.labeled(self.task.labels)
        if dataset is not self.dataset:
            object.__setattr__(self, "dataset", dataset)
        return self

    @property
    def type_title(self) -> str:
        """The display name, shown in the Type column."""
        return self.title or self.name

    @property
    def depends_on_images(self) -> bool:
        """True if a number is computed from the images, so that `digest` changes with them."""
        data, train = self.dataset, self.train
        of_labels = BALANCED in (train.class_weights, train.pos_weight)
        return of_labels or AUTO in (data.normalize, data.normalize_targets)

    def digest(self, source: bytes = b"") -> str:
        """Hash of everything that affects training, which excludes names and seeds.

        Args:
          source: source code of a Python model.
        """
        ignored: Any = {"name": True, "title": True, "checkpoint": True, "seeds": True}
        ignored["model"] = {"code_layer"}  # used only after training
        # Its content has a digest, wherever it is and however it is read.
        ignored["dataset"] = {*PATHS, "streaming"}
        content = self.model_dump(mode="json", exclude=ignored)
        drop_unchanged_additions(content, self)
        if not self.dataset.name and self.dataset.split == SplitSpec():
            content["dataset"].pop("split", None)  # the default, whether it is written or not
        above = INPUT
        for name, layer in content["model"]["layers"].items():
            if layer["inputs"] == [above]:
                layer["inputs"] = None  # the default, whether it is written or not
            above = name
        # Keys are not sorted: the order of layers determines their default inputs.
        text = json.dumps(content, separators=(",", ":"))
        return "sha256:" + hashlib.sha256(text.encode() + source).hexdigest()
