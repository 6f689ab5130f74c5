"""Runs without their epochs, from an index or their folders."""

import dataclasses
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from cnnbench.errors import StoreError
from cnnbench.runs.folder import EPOCHS_FILE, RECORD_FILE, SUMMARY_FILE, RunEntry, read_run_entry
from cnnbench.runs.index.curves import CURVE_POINTS, binned
from cnnbench.runs.index.lookup import Indexed, look_up
from cnnbench.runs.records import FORMAT_VERSION, Facts, Status

_FIELDS = dataclasses.fields(Facts)
_TIMES = tuple(n for n, field in enumerate(_FIELDS) if field.name in ("started_at", "finished_at"))
_TUPLES = tuple(n for n, field in enumerate(_FIELDS) if field.name in ("tags", "seeds"))
_STATUS = [field.name for field in _FIELDS].index("status")
_MEANING = "devices of all seeds"  # changes with the content of a field that keeps its type
SETTLED_RUNNING_S = 600.0  # since the last epoch: a run that goes on is not worth a row


def read_entries(folders: Sequence[Path]) -> list[RunEntry | StoreError]:
    """Reads runs without their epochs, in the order of the folders; or why one cannot be read."""
    return look_up(folders, RUNS)


def _read(folder: Path) -> RunEntry | StoreError:
    try:
        return read_run_entry(folder)
    except StoreError as error:
        return error


def _encoded(entry: RunEntry | StoreError) -> list[Any] | None:
    if isinstance(entry, StoreError) or _is_going_on(entry):
        return None
    facts: list[Any] = [getattr(entry.facts, field.name) for field in _FIELDS]
    for number in _TIMES:
        facts[number] = facts[number] and facts[number].isoformat()
    return [facts, binned(entry.curve, CURVE_POINTS)]


def _is_going_on(entry: RunEntry) -> bool:
    if entry.facts.status is not Status.RUNNING:
        return False
    try:
        changed = (entry.path / EPOCHS_FILE).stat().st_mtime
    except OSError:
        changed = 0.0
    return changed > time.time() - SETTLED_RUNNING_S


def _decoded(folder: Path, row: list[Any]) -> RunEntry:
    facts, curve = list(row[0]), row[1]
    for number in _TIMES:
        facts[number] = facts[number] and datetime.fromisoformat(facts[number])
    for number in _TUPLES:
        facts[number] = tuple(facts[number])
    facts[_STATUS] = Status(facts[_STATUS])
    return RunEntry(folder, None, None, Facts(*facts), tuple(curve))


RUNS: Indexed[RunEntry | StoreError] = Indexed(
    name="runs",
    verb="indexed",
    schema=" ".join(
        [str(FORMAT_VERSION), _MEANING, *(f"{field.name}:{field.type}" for field in _FIELDS)]
    ),
    files=(RECORD_FILE, SUMMARY_FILE, EPOCHS_FILE),
    read=_read,
    encode=_encoded,
    decode=_decoded,
)
