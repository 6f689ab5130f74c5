"""The part of pydantic that is needed to read valid experiment files.

Values are converted, and keys and types are checked, but not bounds. A test compares the results
with pydantic's.
"""

import copy
from collections.abc import Callable, Mapping
from enum import StrEnum
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    ClassVar,
    Generic,
    Literal,
    Self,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

T = TypeVar("T")
ConfigDict = dict


class ValidationError(ValueError):
    """A value is invalid."""


class _Marker:
    def __init__(self, value: Any = None) -> None:
        self.value = value


class BeforeValidator(_Marker):
    """Convert a value before validation."""


class AfterValidator(_Marker):
    """Convert a value after validation."""


class PlainSerializer(_Marker):
    """Convert a value when dumping it."""


class WithJsonSchema(_Marker):
    """Unused here."""


class Discriminator(_Marker):
    """Unused here: the first member of a union that fits is taken."""


class Tag(_Marker):
    """Unused here, as `Discriminator`."""


def model_validator(*, mode: Literal["before", "after"]) -> Callable[[T], T]:
    """Unused here: no benchmark needs what the validators of models add."""
    assert mode in {"before", "after"}
    return lambda function: function


def PrivateAttr(default: T) -> T:  # noqa: N802 - pydantic's name
    """The default."""
    return default


_MISSING: Any = object()


class FieldInfo:
    """A field's default, and the discriminator of its union."""

    def __init__(self, default: Any = _MISSING, **options: Any) -> None:
        self.default, self.make = default, options.get("default_factory")
        self.discriminator = options.get("discriminator")
        self.annotation: Any = None
        self.metadata: tuple[Any, ...] = ()

    def filled(self) -> Any:
        """The default value."""
        if self.make is None and self.default is _MISSING:
            raise ValidationError("a value is missing")
        return copy.copy(self.default) if self.make is None else self.make()


def Field(default: Any = _MISSING, **options: Any) -> Any:  # noqa: N802 - pydantic's name
    """Like pydantic's Field."""
    return FieldInfo(default, **options)


class BaseModel:
    """Frozen fields by annotation."""

    model_fields: ClassVar[dict[str, FieldInfo]] = {}
    _hints: ClassVar[dict[str, Any]] = {}

    def __init_subclass__(cls, **_: Any) -> None:
        hints = get_type_hints(cls, include_extras=True)
        cls._hints = {
            name: hint for name, hint in hints.items() if get_origin(hint) is not ClassVar
        }
        cls._hints = {n: h for n, h in cls._hints.items() if not n.startswith(("_", "model_"))}
        fields = dict(cls.model_fields)
        for name, hint in cls._hints.items():
            given = vars(cls).get(name, fields.get(name, _MISSING))
            fields[name] = given if isinstance(given, FieldInfo) else FieldInfo(given)
            fields[name].annotation = hint
            fields[name].metadata = getattr(hint, "__metadata__", ())
        cls.model_fields = fields

    def __init__(self, **values: Any) -> None:
        if unknown := values.keys() - self.model_fields.keys():
            raise ValidationError(f"{type(self).__name__}: unknown {sorted(unknown)}")
        for name, field in self.model_fields.items():
            value = values.get(name, _MISSING)
            value = field.filled() if value is _MISSING else _converted(self._hints[name], value)
            vars(self)[name] = value

        vars(self)["model_fields_set"] = frozenset(values)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and self._values == other._values

    def __hash__(self) -> int:
        return hash((type(self), *self._values.values()))

    @property
    def _values(self) -> dict[str, Any]:
        return {name: vars(self)[name] for name in self.model_fields}

    @classmethod
    def model_validate(cls, data: Any) -> Self:
        """Validate a mapping."""
        if isinstance(data, cls):
            return data
        if not isinstance(data, Mapping):
            raise ValidationError(f"{cls.__name__}: not a mapping")
        return cls(**data)

    def model_copy(self, *, update: Mapping[str, Any]) -> Self:
        """A copy with other values, which are not validated."""
        copied = copy.copy(self)
        vars(copied).update(update)
        return copied

    def model_dump(
        self, mode: str = "python", exclude: Any = (), *, exclude_none: bool = False
    ) -> dict[str, Any]:
        """Values by name, with exclusions: a set of names, or a mapping for nested ones."""
        dumped = {}
        for name, value in self._values.items():
            inner = exclude.get(name, ()) if isinstance(exclude, Mapping) else ()
            left_out = name in exclude and not isinstance(exclude, Mapping)
            if inner is True or left_out or (exclude_none and value is None):
                continue
            dumped[name] = _dumped(_serialized(self._hints[name], value), mode, inner)
        return dumped


def _serialized(hint: Any, value: Any) -> Any:
    for marker in get_args(hint)[1:] if get_origin(hint) is Annotated else ():
        if isinstance(marker, PlainSerializer):
            return marker.value(value)
    return value


def _dumped(value: Any, mode: str, exclude: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode, exclude)
    if isinstance(value, Mapping):
        return {key: _dumped(item, mode, ()) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [_dumped(item, mode, ()) for item in value]
        return items if mode == "json" or isinstance(value, list) else tuple(items)
    return str(value) if mode == "json" and isinstance(value, StrEnum) else value


class TypeAdapter(Generic[T]):
    """Validates values of an annotation."""

    def __init__(self, hint: Any) -> None:
        self._hint = hint

    def validate_python(self, value: Any) -> Any:
        """Convert a value."""
        return _converted(self._hint, value)


def _converted(hint: Any, value: Any) -> Any:
    """A value converted to its annotation.

    Raises:
      ValidationError: the value does not match the annotation.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _annotated(arguments[0], arguments[1:], value)
    if origin is Literal:
        return _checked(value in arguments, value)
    if origin in {Union, UnionType}:
        return _first_fitting(arguments, value)
    if origin is tuple:
        return _tuple(arguments, value)
    if origin in {dict, list}:
        _checked(isinstance(value, origin), value)
        if origin is list:
            return [_converted(arguments[0], item) for item in value]
        return {key: _converted(arguments[1], item) for key, item in value.items()}
    return _plain(hint, value)


def _annotated(hint: Any, markers: tuple[Any, ...], value: Any) -> Any:
    for marker in markers:
        if isinstance(marker, BeforeValidator):
            value = marker.value(value)
    keys = [m.discriminator for m in markers if isinstance(m, FieldInfo) and m.discriminator]
    value = _member(hint, keys[0], value) if keys else _converted(hint, value)
    for marker in markers:
        if isinstance(marker, AfterValidator):
            value = marker.value(value)
    return value


def _member(union: Any, key: str, value: Any) -> Any:
    """The member of a union selected by the discriminator."""
    name = value.get(key) if isinstance(value, Mapping) else getattr(value, key, None)
    for kind in get_args(union):
        if name in get_args(kind.model_fields[key].annotation):
            return kind.model_validate(value)
    raise ValidationError(f"no member for {name!r}")


def _first_fitting(hints: tuple[Any, ...], value: Any) -> Any:
    for hint in hints:
        try:
            return _converted(hint, value)
        except ValidationError:
            continue
    raise ValidationError(f"{value!r} fits none of {hints}")


def _tuple(hints: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
    _checked(isinstance(value, list | tuple), value)
    if hints[-1] is ...:
        hints = hints[:1] * len(value)
    _checked(len(hints) == len(value), value)
    return tuple(_converted(hint, item) for hint, item in zip(hints, value, strict=True))


def _plain(hint: Any, value: Any) -> Any:
    if hint is Any:
        return value
    if hint in {None, NoneType}:
        return _checked(value is None, value)
    if issubclass(hint, BaseModel):
        return hint.model_validate(value)
    if issubclass(hint, StrEnum):
        return hint(value)
    if hint is float:
        return float(_checked(isinstance(value, int | float), value))
    is_bool = isinstance(value, bool)
    return _checked(isinstance(value, hint) and is_bool == (hint is bool), value)


def _checked(fits: bool, value: Any) -> Any:
    if not fits:
        raise ValidationError(f"{value!r} does not fit")
    return value
