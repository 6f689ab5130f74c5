"""Serialization of task errors between worker and driver."""

import traceback
from dataclasses import dataclass, field
from typing import Any

from cnnbench.errors import CnnbenchError


@dataclass(frozen=True, slots=True)
class SentError:
    """An error that can be pickled, whatever its constructor takes.

    Args:
      kind: its class.
      arguments: its `args`.
      attributes: its other attributes.
      notes: its notes.
    """

    kind: type[Exception]
    arguments: tuple[Any, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def error(self) -> Exception:
        """The error, as it was raised."""
        found = self.kind.__new__(self.kind, *self.arguments)
        found.args = self.arguments
        vars(found).update(self.attributes)
        for note in self.notes:
            found.add_note(note)
        return found


def sent(error: Exception) -> SentError:
    """An error to send; a bug gets a note with its traceback."""
    attributes = {name: value for name, value in vars(error).items() if name != "__notes__"}
    notes = tuple(getattr(error, "__notes__", ()))
    if isinstance(error, CnnbenchError):
        return SentError(type(error), error.args, attributes, notes)
    text = "".join(traceback.format_exception(error))
    kind = type(error) if type(error).__module__ == "builtins" else RuntimeError
    arguments = tuple(map(str, error.args)) if kind is RuntimeError else error.args
    return SentError(kind, arguments, notes=(f"in a worker process:\n{text}",))
