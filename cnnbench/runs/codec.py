"""Results as JSON: `encode_*` writes it, `decode_*` parses it strictly.

A decoder rejects, with file, line and field, anything that the encoder cannot have written. JSON
has no NaN and no infinity, but a loss can be either: they are written as the strings `"NaN"`,
`"Infinity"` and `"-Infinity"`.
"""

import dataclasses
import functools
import json
import math
import reprlib
import types
import typing
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, NoReturn, TypeVar

from cnnbench.errors import Diagnostic, Location, StoreError, did_you_mean, or_list
from cnnbench.runs.records import FORMAT_VERSION, EpochRecord, RunRecord, Summary
from cnnbench.spec.metrics import DEFAULT_METRICS

_NON_FINITE = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
EPOCH_PREFIX = "validation_"  # of metrics in epochs.jsonl
_TASKS = tuple(DEFAULT_METRICS)
_T = TypeVar("_T")
_DAMAGED = "restore the file from a copy, or remove the run's folder"


def encode_record(record: RunRecord) -> bytes:
    """Encodes a run record as `run.json`."""
    return encode_document(_plain_fields(record))


def decode_record(content: bytes, path: str) -> RunRecord:
    """Decodes the content of the `run.json` at `path`.

    Raises:
      StoreError: `encode_record` of this version cannot have written it.
    """
    record: RunRecord = _decode_document(RunRecord, content, path)
    if record.task not in _TASKS:
        message = f"{reprlib.repr(record.task)} is not {or_list(_TASKS)}"
        raise _refusal(Location(path), "task", message, _DAMAGED)
    return record


def encode_summary(summary: Summary) -> bytes:
    """Encodes a summary as `summary.json`."""
    return encode_document(_plain_fields(summary))


def decode_summary(content: bytes, path: str) -> Summary:
    """Decodes the content of the `summary.json` at `path`.

    Raises:
      StoreError: `encode_summary` of this version cannot have written it.
    """
    summary: Summary = _decode_document(Summary, content, path)
    for number, seed in enumerate(summary.seeds):
        validated = ("final", "best") if seed.final or seed.best else ()
        for name in (*validated, "test"):
            if set(getattr(seed, name)) != set(summary.metrics):
                where = f"seeds.{number}.{name}"
                raise _refusal(
                    Location(path), where, "metrics differ from those of the run", _DAMAGED
                )
    return summary


def encode_epoch(epoch: EpochRecord) -> bytes:
    r"""Encodes an epoch record as a line of `epochs.jsonl`.

    >>> encode_epoch(EpochRecord(0, 1, float("nan"), 0.5, {"accuracy": 0.75}, 2, 1, 25))[:60]
    b'{"seed": 0, "epoch": 1, "train_loss": "NaN", "validation_los'
    """
    fields: dict[str, object] = {}
    for name, value in _plain_fields(epoch).items():
        if name == "metrics":
            fields |= {EPOCH_PREFIX + metric: _plain(v) for metric, v in epoch.metrics.items()}
        else:
            fields[name] = value
    return _text(fields, indent=None)


def decode_epoch(line: bytes, location: Location) -> EpochRecord:
    """Decodes a line of the `epochs.jsonl` at `location`.

    Raises:
      StoreError: `encode_epoch` of this version cannot have written it.
    """
    fields = _parse(line, location)
    try:
        fields = _expect(dict, fields, "an object", "")
        metrics = {
            name: fields[name]
            for name in fields
            if name.startswith(EPOCH_PREFIX) and name != "validation_loss"
        }
        rest = {name: fields[name] for name in fields if name not in metrics}
        if "metrics" in rest:
            _mismatch("", "unknown field 'metrics'")
        epoch: EpochRecord = _decode(EpochRecord, rest | {"metrics": {}}, "")
        values = {name: _decode(float, value, name) for name, value in metrics.items()}
    except _MismatchError as error:
        raise _refusal(location, error.where, error.message, _DAMAGED) from None
    plain = {name.removeprefix(EPOCH_PREFIX): value for name, value in values.items()}
    return dataclasses.replace(epoch, metrics=plain)


def encode_document(fields: Mapping[str, object]) -> bytes:
    """Encodes a JSON file: the format version, then `fields`, which may contain results."""
    plain = {name: _plain(value) for name, value in fields.items()}
    return _text({"format_version": FORMAT_VERSION} | plain, indent=2)


class _MismatchError(Exception):
    """A value does not fit its field; converted to a StoreError once the file is known."""

    def __init__(self, where: str, message: str) -> None:
        super().__init__(message)
        self.where = where
        self.message = message


def _mismatch(where: str, message: str) -> NoReturn:
    raise _MismatchError(where, message)


def _refusal(location: Location, where: str, message: str, remedy: str) -> StoreError:
    return StoreError(str(Diagnostic(location, where, message, remedy)))


def _text(fields: dict[str, object], indent: int | None) -> bytes:
    text = json.dumps(fields, indent=indent, ensure_ascii=False, allow_nan=False) + "\n"
    # A command line may contain bytes that are not text (lone surrogates in Python);
    # the replacement \udcXX is their escape in JSON too, so they survive.
    return text.encode("utf-8", "backslashreplace")


def _plain_fields(value: Any) -> dict[str, object]:
    return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}


def _plain(value: object) -> object:
    """Converts a value to JSON types."""
    match value:
        case float() if not math.isfinite(value):
            return _NON_FINITE[str(value)]
        case datetime():
            if value.utcoffset() is None:
                raise ValueError(f"time without a time zone: {value}")
            return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        case Mapping():
            return {key: _plain(entry) for key, entry in value.items()}
        case tuple():
            return [_plain(entry) for entry in value]
        case _ if dataclasses.is_dataclass(value):
            return _plain_fields(value)
    return value


def _parse(content: bytes, location: Location) -> object:
    try:
        return json.loads(
            content.decode(),
            object_pairs_hook=_unique,
            parse_constant=_constant,
            # Python refuses to read integers of thousands of digits; no field holds one.
            parse_int=lambda digits: int(digits) if len(digits) < 30 else float(digits),
        )
    except json.JSONDecodeError as error:
        place = Location(location.path, location.line or error.lineno, error.colno)
        raise _refusal(place, "", f"not JSON: {error.msg}", _DAMAGED) from None
    except UnicodeDecodeError:
        raise _refusal(location, "", "not UTF-8 text", _DAMAGED) from None
    except RecursionError:
        raise _refusal(location, "", "nested too deeply", _DAMAGED) from None
    except _MismatchError as error:
        raise _refusal(location, error.where, error.message, _DAMAGED) from None


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        _mismatch("", f"duplicate field {next(n for n in names if names.count(n) > 1)!r}")
    return fields


def _constant(name: str) -> NoReturn:
    _mismatch("", f"not JSON: a bare {name}")


def encode_fields(value: Any) -> bytes:
    """Encodes a dataclass as a JSON file."""
    return encode_document(_plain_fields(value))


def decode_document(kind: type[_T], content: bytes, path: str) -> _T:
    """Decodes what `encode_fields` writes.

    Raises:
      StoreError: `encode_fields` of this version cannot have written it.
    """
    decoded: _T = _decode_document(kind, content, path)
    return decoded


def _decode_document(kind: Any, content: bytes, path: str) -> Any:
    location = Location(path)
    fields = _parse(content, location)
    try:
        fields = dict(_expect(dict, fields, "an object", ""))
        _check_version(fields.pop("format_version", None), location)
        return _decode(kind, fields, "")
    except _MismatchError as error:
        raise _refusal(location, error.where, error.message, _DAMAGED) from None


def _check_version(version: object, location: Location) -> None:
    if type(version) is int and 1 <= version <= FORMAT_VERSION:
        return  # fields that version 1 lacks have defaults
    if type(version) is int and version > FORMAT_VERSION:
        message = f"version {version} is newer than this cnnbench supports ({FORMAT_VERSION})"
        raise _refusal(location, "format_version", message, "install a newer cnnbench")
    message = f"{reprlib.repr(version)} is not a format version"
    raise _refusal(location, "format_version", message, _DAMAGED)


_Decoder = Callable[[object, str], Any]  # of a parsed value and its place, for messages


def _decode(kind: Any, value: object, where: str) -> Any:
    """Converts parsed JSON to a `kind`, which is one of the types of results."""
    return _decoder(kind)(value, where)


@functools.cache
def _decoder(kind: Any) -> _Decoder:
    """Makes the function that converts parsed JSON to a `kind`, so that types are read once."""
    arguments = typing.get_args(kind)
    match typing.get_origin(kind) or kind:
        case types.UnionType:  # X | None
            some = _decoder(arguments[0])
            return lambda value, where: None if value is None else some(value, where)
        case origin if origin is tuple:
            return _tuple_decoder(_decoder(arguments[0]))
        case origin if origin is Mapping:
            return _mapping_decoder(_decoder(arguments[1]))
        case origin if dataclasses.is_dataclass(origin):
            return _fields_decoder(origin)
    return _scalar_decoder(kind)


def _tuple_decoder(entry: _Decoder) -> _Decoder:
    def decode(value: object, where: str) -> Any:
        entries = _expect(list, value, "a list", where)
        return tuple([entry(v, f"{where}[{i}]") for i, v in enumerate(entries)])

    return decode


def _mapping_decoder(entry: _Decoder) -> _Decoder:
    def decode(value: object, where: str) -> Any:
        entries = _expect(dict, value, "an object", where)
        return {k: entry(v, f"{where}.{k}") for k, v in entries.items()}

    return decode


def _fields_decoder(kind: Any) -> _Decoder:
    types_ = typing.get_type_hints(kind)
    fields = dataclasses.fields(kind)
    required = [field.name for field in fields if field.default is dataclasses.MISSING]
    decoders: dict[str, _Decoder] = {}

    def decode(value: object, where: str) -> Any:
        if not decoders:  # now, because a type may contain itself
            decoders.update({name: _decoder(of) for name, of in types_.items()})
        found = _expect(dict, value, "an object", where)
        for name in found:
            if name not in decoders:
                hint = did_you_mean(name, decoders)
                _mismatch(where, f"unknown field {reprlib.repr(name)}{hint}")
        for name in required:
            if name not in found:
                _mismatch(where, f"field '{name}' is missing")
        dotted = f"{where}." if where else ""
        return kind(**{n: own(found[n], dotted + n) for n, own in decoders.items() if n in found})

    return decode


def _scalar_decoder(kind: Any) -> _Decoder:
    if kind is float:
        return _decode_float
    if kind is datetime:
        return _decode_time
    if issubclass(kind, StrEnum):
        members = {str(member): member for member in kind}

        def decode(value: object, where: str) -> Any:
            if type(value) is not str or value not in members:
                _mismatch(where, f"{reprlib.repr(value)} is not {or_list(kind)}")
            return members[value]

        return decode
    names = {int: "an integer", str: "a string", bool: "true or false"}
    return lambda value, where: _expect(kind, value, names[kind], where)


def _decode_float(value: object, where: str) -> float:
    if type(value) is float and math.isfinite(value):
        return value
    if type(value) is str and value in _NON_FINITE.values():
        return float(value)
    if type(value) is int:
        return float(value)
    found: float = _expect(float, value, "a number", where)
    if not math.isfinite(found):  # such as 1e999
        _mismatch(where, "the number is too large")
    return found


def _decode_time(value: object, where: str) -> datetime:
    try:
        time = datetime.fromisoformat(_expect(str, value, "a string", where))
    except ValueError:
        _mismatch(where, f"{reprlib.repr(value)} is not an ISO 8601 time")
    if time.utcoffset() != timedelta(0):
        _mismatch(where, f"{reprlib.repr(value)} is not in UTC")
    return time.replace(tzinfo=UTC)


def _expect(kind: type, value: object, name: str, where: str) -> Any:
    # Not isinstance: True is an int in Python, but not in JSON.
    if type(value) is not kind:
        _mismatch(where, f"{reprlib.repr(value)} is not {name}")
    return value
