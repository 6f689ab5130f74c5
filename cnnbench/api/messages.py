"""Errors and warnings in Python's terms: parameters instead of options."""

import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from cnnbench.errors import CnnbenchError

_PARAMETERS = {"tag": "tags", "tune": "keys"}  # options that can be repeated take a list


@contextmanager
def names_parameters() -> Iterator[None]:
    """Decorates a function: errors name its parameters instead of command-line options."""
    try:
        yield
    except CnnbenchError as error:
        error.args = (in_python(str(error)),)
        raise


def in_python(message: str) -> str:
    """Rewrites an error message, except for commands that it shows.

    >>> in_python("--min-effect: 'x' is not a size; write 0.1pp.")
    "min_effect: 'x' is not a size; write 0.1pp."
    >>> in_python("--device gpu: there is none; write --device auto.")
    "device='gpu': there is none; write device='auto'."
    >>> in_python("--tune: write --tune learning_rate=x0.3:x1; remove --test unpaired.")
    "keys: write keys='learning_rate=x0.3:x1'; remove test='unpaired'."
    >>> in_python("command line: train.epochs: 0 is too small; write 1 or more.")
    'train.epochs: 0 is too small; write 1 or more.'
    >>> in_python("no runs; start one with: cnnbench run standard --results-dir out")
    'no runs; start one with: cnnbench run standard --results-dir out'
    >>> in_python("'runs--old/mlp' and '/tmp/--all/a---b' are no runs; remove --all.")
    "'runs--old/mlp' and '/tmp/--all/a---b' are no runs; remove all."
    """
    return "\n".join(map(_line_in_python, message.split("\n")))


_FIRST = re.compile(r"^--([a-z][a-z-]*)(?: (?P<value>[^\s:]+))?(?=:)")
_VALUE = r"\d+\b|auto\b|[A-Z]+\b|(?:un)?paired\b|[\w.]+=[\w.:,]*\w"
_LATER = re.compile(rf"(?<![\w'/-])--([a-z][a-z-]*)(?: (?P<value>{_VALUE}))?")


def _line_in_python(line: str) -> str:
    text, command, words = line.removeprefix("command line: ").partition("cnnbench ")
    return _LATER.sub(_parameter, _FIRST.sub(_parameter, text)) + command + words


def _parameter(option: re.Match[str]) -> str:
    name = _PARAMETERS.get(option[1], option[1].replace("-", "_"))
    value = option["value"]
    if value is None:
        return name
    return f"{name}={value if value.isdigit() or value.isupper() else repr(value)}"


def warn_all(texts: Iterable[str]) -> None:
    """Issues a `UserWarning` for each text, at the line outside cnnbench that called."""
    for text in texts:
        # Four frames up: this function, one of the API, its decorator, the caller.
        warnings.warn(text, UserWarning, stacklevel=4)
