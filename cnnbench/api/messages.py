"""Errors and warnings in Python's terms: parameters instead of options."""

import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from cnnbench.errors import CnnbenchError

_PARAMETERS = {"tag": "tags"}  # where an option that can be repeated takes a list


@contextmanager
def names_parameters() -> Iterator[None]:
    """Decorates a function: errors name its parameters instead of command-line options."""
    try:
        yield
    except CnnbenchError as error:
        error.args = (in_python(str(error)),)
        raise


def in_python(message: str) -> str:
    """Rewrites the places at the beginning of lines of an error message.

    >>> in_python("--min-effect: 'x' is not a size; write 0.1pp.")
    "min_effect: 'x' is not a size; write 0.1pp."
    >>> in_python("command line: train.epochs: 0 is too small; write 1 or more.")
    'train.epochs: 0 is too small; write 1 or more.'
    """
    message = re.sub(r"^command line: ", "", message, flags=re.MULTILINE)
    option = re.compile(r"^--([a-z][a-z-]*)(?=[: ])", re.MULTILINE)
    return option.sub(lambda found: _PARAMETERS.get(found[1], found[1].replace("-", "_")), message)


def warn_all(texts: Iterable[str]) -> None:
    """Issues a `UserWarning` for each text, at the line outside cnnbench that called."""
    for text in texts:
        # Four frames up: this function, one of the API, its decorator, the caller.
        warnings.warn(text, UserWarning, stacklevel=4)
