"""Reads W&B's offline files: a LevelDB log of the protocol buffers that come with the library.

The library writes and uploads them by a program of its own, and reads them with nothing else.
"""

import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_BLOCK, _HEADER = 32_768, 7
_IDENT = b":W&B" + struct.pack("<HB", 0xBEE1, 0)
_FULL, _FIRST, _LAST = 1, 2, 4


@dataclass
class WandbRun:
    """One or several files of a run, in the order in which they were written."""

    record: Any = None
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None


def read_wandb(results: Path, run: str, seed: int) -> WandbRun:
    """What the files of a seed say."""
    return read_files(
        sorted((results / "wandb").glob(f"offline-run-*/run-{run}-seed-{seed}.wandb"))
    )


def read_files(paths: Sequence[Path]) -> WandbRun:
    from wandb.proto import wandb_internal_pb2

    found = WandbRun()
    for path in paths:
        for content in _messages(path.read_bytes()):
            record = wandb_internal_pb2.Record.FromString(content)
            match record.WhichOneof("record_type"):
                case "run":
                    found.record = record.run
                    items = record.run.config.update
                    found.config |= {each.key: json.loads(each.value_json) for each in items}
                case "history":
                    found.history.append(_values(record.history.item))
                case "summary":
                    found.summary |= _values(record.summary.update)
                case "exit":
                    found.exit_code = record.exit.exit_code
    return found


def _values(items: Any) -> dict[str, Any]:
    return {each.key or ".".join(each.nested_key): json.loads(each.value_json) for each in items}


def _messages(content: bytes) -> Iterator[bytes]:
    """The messages in a log; each is in one part, or in several in the next blocks."""
    assert content[: len(_IDENT) - 1] == _IDENT[:-1]
    position, message = len(_IDENT), b""
    while position + _HEADER <= len(content):
        if _BLOCK - position % _BLOCK < _HEADER:
            position += _BLOCK - position % _BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        part = content[position + _HEADER : position + _HEADER + length]
        message = part if kind in (_FULL, _FIRST) else message + part
        if kind in (_FULL, _LAST):
            yield message
        position += _HEADER + length
