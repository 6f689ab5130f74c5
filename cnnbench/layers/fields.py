"""Field types of experiment files, with their own error messages."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

from cnnbench.errors import quoted

MAX_SEEDS = 1000


class Model(BaseModel):
    """Base model: frozen, strict, and without extra keys."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class _Added:
    """Marks a key that was added later: its default is not part of the digest of an experiment."""


ADDED = _Added()
DEPTHWISE = "depthwise"
VALUE = "\0"  # placeholder in messages for the value as written in the file


def field_error(message: str, remedy: str, value: object, *at: int) -> PydanticCustomError:
    """A validation error with message and remedy.

    Args:
      message: what is wrong, with `VALUE` as a placeholder for the value.
      remedy: what to write instead.
      value: the invalid value.
      *at: its index, if it is an item of a list.
    """
    context = {"message": message, "remedy": remedy, "at": at}
    text = message.replace(VALUE, quoted(value))
    return PydanticCustomError("cnnbench", "{text}; {remedy}", context | {"text": text})


def _whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


# Common forms of numbers that users put in quotes; not all of YAML's.
_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")


def _refuse_quotes(value: object) -> None:
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        raise field_error(f"expected a number, got the string {VALUE}", "remove the quotes", value)


def _pair(value: object, least: int) -> tuple[int, int] | None:
    if _whole(value, least):
        return (value, value)  # type: ignore[return-value]
    if isinstance(value, (list, tuple)) and len(value) == 2:
        height, width = value
        if _whole(height, least) and _whole(width, least):
            return (height, width)
    return None


def _size(value: object) -> tuple[int, int]:
    _refuse_quotes(value)
    if pair := _pair(value, 1):
        return pair
    remedy = "use a positive integer, or a pair [height, width] such as [3, 5]"
    raise field_error(f"{VALUE} is not a valid size", remedy, value)


def _padding(value: object) -> object:
    _refuse_quotes(value)
    if value in ("valid", "same"):
        return value
    if pair := _pair(value, 0):
        return pair
    remedy = "use valid, same, a non-negative integer, or a pair such as [1, 2]"
    raise field_error(f"{VALUE} is not a valid padding", remedy, value)


def _groups(value: object) -> object:
    _refuse_quotes(value)
    if value == DEPTHWISE or _whole(value, 1):
        return value
    remedy = "use a positive integer, or depthwise for one group per input channel"
    raise field_error(f"{VALUE} is not a valid number of groups", remedy, value)


def _edges(value: object) -> tuple[int, int, int, int]:
    _refuse_quotes(value)
    if pair := _pair(value, 0):
        return pair[0], pair[0], pair[1], pair[1]
    if isinstance(value, (list, tuple)) and len(value) == 4 and all(_whole(n, 0) for n in value):
        top, bottom, left, right = value
        return top, bottom, left, right
    remedy = "use a non-negative integer, [height, width], or [top, bottom, left, right]"
    raise field_error(f"{VALUE} is not a valid number of rows and columns", remedy, value)


def _ends(value: object) -> tuple[int, int]:
    _refuse_quotes(value)
    if isinstance(value, (list, tuple)) and (pair := _pair(value, 0)):
        return pair
    raise field_error(f"{VALUE} is not a valid number of channels", "use [before, after]", value)


def _order(value: object) -> tuple[int, int, int]:
    _refuse_quotes(value)
    numbers = isinstance(value, (list, tuple)) and all(_whole(axis, 1) for axis in value)
    if isinstance(value, (list, tuple)) and numbers and sorted(value) == [1, 2, 3]:
        first, second, third = value
        return first, second, third
    remedy = "use each of 1 (height), 2 (width) and 3 (channels) once, such as [3, 1, 2]"
    raise field_error(f"{VALUE} is not a valid order of axes", remedy, value)


def _inputs(value: object) -> tuple[str, ...] | None:
    if value is None or isinstance(value, tuple):
        return value
    names = [value] if isinstance(value, str) else value
    if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
        return tuple(names)
    raise field_error(f"{VALUE} is not a layer name", "use a layer name or a list of names", value)


def _shape(value: object) -> tuple[int, ...]:
    if (
        isinstance(value, (list, tuple))
        and len(value) in (1, 3)
        and all(_whole(n, 1) for n in value)
    ):
        return tuple(value)
    remedy = "use [height, width, channels] or [units]"
    raise field_error(f"{VALUE} is not a valid shape", remedy, value)


def _milestones(value: object) -> tuple[int, ...]:
    _refuse_quotes(value)
    if isinstance(value, (list, tuple)) and value and all(_whole(epoch, 1) for epoch in value):
        if list(value) == sorted(set(value)):
            return tuple(value)
        raise field_error(
            f"{VALUE} is not in increasing order", "sort the epochs and list each once", value
        )
    raise field_error(f"{VALUE} is not a list of epochs", "use a list such as [80, 120]", value)


def _seeds(value: object) -> tuple[int, ...]:
    _refuse_quotes(value)
    num = value if isinstance(value, int) else len(value) if isinstance(value, (list, tuple)) else 0
    if num > MAX_SEEDS:
        number = VALUE if isinstance(value, int) else f"{num:,}"
        raise field_error(f"{number} seeds are too many", f"use at most {MAX_SEEDS:,}", value)
    if isinstance(value, int) and _whole(value, 1):
        return tuple(range(value))
    if isinstance(value, (list, tuple)) and value and all(_whole(seed, 0) for seed in value):
        twice = [i for i, seed in enumerate(value) if seed in value[:i]]
        if twice:
            raise field_error(
                f"duplicate seed {VALUE}", "list each seed once", value[twice[0]], twice[0]
            )
        if (most := max(value)) >= 2**32:
            message = f"seed {VALUE} is too large"
            raise field_error(message, "use seeds below 4294967296", most, value.index(most))
        return tuple(value)
    remedy = "use a number of seeds (1 or more), or a list such as [0, 1, 2]"
    raise field_error(f"{VALUE} is not a valid seeds value", remedy, value)


def _as_list(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _whole_schema(least: int, most: int | None = None) -> dict[str, Any]:
    """JSON Schema of an integer."""
    return {"type": "integer", "minimum": least} | ({} if most is None else {"maximum": most})


def _list_schema(item: Mapping[str, Any], least: int, most: int | None = None) -> dict[str, Any]:
    """JSON Schema of a list."""
    bounds = {"minItems": least} | ({} if most is None else {"maxItems": most})
    return {"type": "array", "items": item, **bounds}


def _any_of(*kinds: Mapping[str, Any]) -> WithJsonSchema:
    """JSON Schema of the accepted values, including short forms."""
    return WithJsonSchema({"anyOf": list(kinds)})


_TEXT = {"type": "string"}
Size = Annotated[
    tuple[int, int],
    BeforeValidator(_size),
    PlainSerializer(_as_list),
    _any_of(_whole_schema(1), _list_schema(_whole_schema(1), 2, 2)),
]
Padding = Annotated[
    Literal["valid", "same"] | tuple[int, int],
    BeforeValidator(_padding),
    PlainSerializer(_as_list),
    _any_of({"enum": ["valid", "same"]}, _whole_schema(0), _list_schema(_whole_schema(0), 2, 2)),
]
Groups = Annotated[
    Literal["depthwise"] | int,
    BeforeValidator(_groups),
    _any_of({"enum": [DEPTHWISE]}, _whole_schema(1)),
]
Edges = Annotated[
    tuple[int, int, int, int],
    BeforeValidator(_edges),
    PlainSerializer(_as_list),
    _any_of(
        _whole_schema(0),
        _list_schema(_whole_schema(0), 2, 2),
        _list_schema(_whole_schema(0), 4, 4),
    ),
]
Ends = Annotated[
    tuple[int, int],
    BeforeValidator(_ends),
    PlainSerializer(_as_list),
    _any_of(_list_schema(_whole_schema(0), 2, 2)),
]
Order = Annotated[
    tuple[int, int, int],
    BeforeValidator(_order),
    PlainSerializer(_as_list),
    _any_of(_list_schema(_whole_schema(1, 3), 3, 3) | {"uniqueItems": True}),
]
Inputs = Annotated[
    tuple[str, ...] | None,
    BeforeValidator(_inputs),
    PlainSerializer(_as_list),
    _any_of(_TEXT, _list_schema(_TEXT, 1), {"type": "null"}),
]
ShapeField = Annotated[
    tuple[int, ...],
    BeforeValidator(_shape),
    PlainSerializer(_as_list),
    _any_of(_list_schema(_whole_schema(1), 1, 1), _list_schema(_whole_schema(1), 3, 3)),
]
Milestones = Annotated[
    tuple[int, ...],
    BeforeValidator(_milestones),
    PlainSerializer(_as_list),
    _any_of(_list_schema(_whole_schema(1), 1) | {"uniqueItems": True}),
]
Seeds = Annotated[
    tuple[int, ...],
    BeforeValidator(_seeds),
    PlainSerializer(_as_list),
    _any_of(
        _whole_schema(1, MAX_SEEDS),
        _list_schema(_whole_schema(0, 2**32 - 1), 1, MAX_SEEDS) | {"uniqueItems": True},
    ),
]
Count = Annotated[int, Field(ge=1)]
CountOrNone = Annotated[int, Field(ge=0)]  # zero disables something
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


def drop_unchanged_additions(content: dict[str, Any], model: BaseModel) -> None:
    """Removes keys that were added later and have their default.

    Args:
      content: the dumped model, which may lack keys.
      model: the model.
    """
    for name, info in type(model).model_fields.items():
        value = getattr(model, name)
        if ADDED in info.metadata and value == info.default:
            content.pop(name, None)
        elif isinstance(value, BaseModel) and name in content:
            drop_unchanged_additions(content[name], value)
        elif isinstance(value, Mapping) and name in content:
            for key, item in value.items():
                if isinstance(item, BaseModel):
                    drop_unchanged_additions(content[name][key], item)


def members(union: Any, discriminator: str) -> dict[str, type[Model]]:
    """The models of an annotated union by discriminator value."""
    kinds = get_args(get_args(union)[0])
    return {get_args(kind.model_fields[discriminator].annotation)[0]: kind for kind in kinds}
