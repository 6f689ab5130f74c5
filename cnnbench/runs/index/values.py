"""Values of runs by name, for searches and tables: recorded ones, means over seeds, settings."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import cached_property

from cnnbench.errors import UsageError, did_you_mean, or_list, quoted
from cnnbench.formatting import is_number
from cnnbench.runs.folder import RunEntry
from cnnbench.runs.index.resolved import Resolved, read_resolved
from cnnbench.runs.settings import LAYERS, NULL, as_override

Value = bool | float | str | datetime | tuple[str, ...] | None
RECORDED = (
    "run",
    "name",
    "title",
    "status",
    "tags",
    "task",
    "dataset",
    "epochs",
    "batch_size",
    "seeds",
    "started",
    "ended",
    "device",
    "device_kind",
    "diverged",
)
_PREFERRED = ("train.", "train.optimizer.", "train.schedule.", "dataset.")  # of equal ends
_SHOWN = 4  # names in a message


class RunValues:
    """Runs whose values can be looked up.

    Args:
      entries: the runs.
      option: the option that names values, for messages.
    """

    def __init__(self, entries: Sequence[RunEntry], option: str) -> None:
        self.entries, self.option = entries, option
        self._columns: dict[str, list[Value]] = {}

    def column(self, name: str) -> list[Value]:
        """The values of a name, one per run; None where a run has none.

        Raises:
          UsageError: no run has such a value, or several settings have that end.
        """
        if name not in self._columns:
            self._columns[name] = self._column(name)
        return self._columns[name]

    @cached_property
    def settings(self) -> list[Mapping[str, str]]:
        """The settings of each run by dotted path."""
        resolved = read_resolved([entry.path for entry in self.entries])
        return [_settings(*each) for each in zip(self.entries, resolved, strict=True)]

    def _column(self, name: str) -> list[Value]:
        if name in RECORDED:
            return [_recorded(entry, name) for entry in self.entries]
        measured = [_measured(entry, name) for entry in self.entries]
        if any(value is not None for value in measured):
            return measured
        key = self._full(name, self.settings)
        return [parsed(each.get(key)) for each in self.settings]

    def _full(self, name: str, settings: Sequence[Mapping[str, str]]) -> str:
        """The dotted path that a name refers to."""
        keys = dict.fromkeys(key for each in settings for key in each)
        layer = name.replace("model.", LAYERS, 1) if name.startswith("model.") else name
        for form in (name, layer, f"{name}.name"):
            if form in keys:
                return form
        ends = [key for key in keys if key.endswith(f".{name}")]
        found = [key for key in ends if key.removesuffix(name) in _PREFERRED] or ends
        if len(found) == 1:
            return found[0]
        if found:
            several = or_list(as_override(key) for key in found[:_SHOWN])
            raise UsageError(
                f"{self.option}: several settings end in {quoted(name)}; write {several}."
            )
        raise UsageError(self._unknown(name, keys))

    def _unknown(self, name: str, keys: Iterable[str]) -> str:
        measured = dict.fromkeys(each for entry in self.entries for each in names_of(entry))
        ends = [key.rpartition(".")[2] for key in keys]
        hint = did_you_mean(name, [*RECORDED, *measured, *map(as_override, keys), *ends])
        listed = ", ".join(["name", "status", "tags", "started", *list(measured)[:_SHOWN]])
        return (
            f"{self.option}: no run has a value {quoted(name)}{hint}; write, for example, {listed}"
            " or the dotted path of a setting."
        )


def names_of(entry: RunEntry) -> Mapping[str, float]:
    """Measured values of a run by name; bare metrics are those of tables."""
    return {**entry.facts.values, **_bare(entry)}


def _bare(entry: RunEntry) -> dict[str, float]:
    """Metrics without a prefix: on the validation images, or else on the test images."""
    values = entry.facts.values
    starts = ("test_", "validation_")
    return {
        name.removeprefix(start): value
        for start in starts
        for name, value in values.items()
        if name.startswith(start)
    }


def _measured(entry: RunEntry, name: str) -> Value:
    values = entry.facts.values
    bare = values.get(f"validation_{name}", values.get(f"test_{name}"))
    return values.get(name, bare)


def _recorded(entry: RunEntry, name: str) -> Value:
    facts = entry.facts
    special: dict[str, Value] = {
        "run": facts.run_id,
        "seeds": len(facts.seeds),
        "started": facts.started_at,
        "ended": facts.finished_at,
        "diverged": facts.num_diverged,
    }
    if name == "status":
        return entry.status
    found: Value = special[name] if name in special else getattr(facts, name)
    return found


def _settings(entry: RunEntry, resolved: Resolved) -> Mapping[str, str]:
    found = resolved.settings
    return {**found, "train.epochs": str(entry.facts.epochs)} if found else {}


def parsed(text: str | None) -> Value:
    """The value that a setting's text stands for.

    >>> [parsed(text) for text in ("1e-2", "true", "null", "relu", "[3, 3]", None)]
    [0.01, True, None, 'relu', '[3, 3]', None]
    """
    if text is None or text == NULL:
        return None
    if text in {"true", "false"}:
        return text == "true"
    if is_number(text):
        return float(text)
    return text.strip("'\"")
