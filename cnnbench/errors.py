"""Exceptions, source locations and suggestions.

All errors that users can cause are subclasses of `CnnbenchError`. The command line prints
them without a traceback and exits with their `exit_code`; anything else is a bug and crashes.
Messages have three parts: location, what is wrong with the value, and a remedy.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

Notify = Callable[[str], None]  # shows a message to the user, such as a warning


@dataclass(frozen=True, slots=True)
class Location:
    """Location in a file, or the command line.

    Args:
      path: file name as given by the user, or ``command line``.
      line: line number from 1; None if not applicable.
      column: column number from 1; None if not applicable.
      text: the scalar at this location, as written; None if it is not a single-line scalar.

    >>> str(Location("idea.yaml", 12, 5))
    'idea.yaml:12:5'
    >>> str(Location("command line"))
    'command line'
    """

    path: str
    line: int | None = None
    column: int | None = None
    text: str | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return ":".join(str(p) for p in (self.path, self.line, self.column) if p is not None)


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """An error in an experiment file.

    Args:
      location: source location of the value.
      where: dotted path of the value in the experiment, empty for the whole file.
      message: what is wrong with the value.
      remedy: what to write instead.

    >>> place = Location("a.yaml", 3, 9)
    >>> str(Diagnostic(place, "train.epochs", "0 is too small", "use 1 or more"))
    'a.yaml:3:9: train.epochs: 0 is too small; use 1 or more.'
    """

    location: Location
    where: str
    message: str
    remedy: str

    def __str__(self) -> str:
        place = f"{self.location}: {self.where}" if self.where else str(self.location)
        return f"{place}: {self.message}; {self.remedy}."


@dataclass(frozen=True, slots=True)
class Issue:
    """An error without its source location.

    Args:
      at: path of the value: keys and indices, such as ``("train", "epochs")``.
      message: what is wrong with the value.
      remedy: what to write instead.
      of_key: True if the key is wrong, not its value.
    """

    at: tuple[str | int, ...]
    message: str
    remedy: str
    of_key: bool = False


class CnnbenchError(Exception):
    """Base class of all errors that users can cause; `exit_code` is that of the process."""

    exit_code: ClassVar[int] = 1


class UsageError(CnnbenchError):
    """Invalid command line: an unknown option, name or file."""

    exit_code = 2


class SpecError(CnnbenchError):
    """Invalid experiment file; `problems` lists all errors in file order."""

    exit_code = 2

    def __init__(self, problems: Iterable[Diagnostic]) -> None:
        self.problems = tuple(sorted(problems, key=_position))
        super().__init__("\n".join(str(problem) for problem in self.problems))


class ModelError(UsageError):
    """A Python model cannot be used as an experiment file specifies.

    Args:
      key: the key of `model` in the file that is wrong.
      message: what is wrong.
      remedy: what to do.

    >>> str(ModelError("python", "no module named 'net'", "install it"))
    "model.python: no module named 'net'; install it."
    """

    def __init__(self, key: str, message: str, remedy: str) -> None:
        super().__init__(f"model.{key}: {message}; {remedy}.")
        self.key = key

    def at(self, location: Location) -> UsageError:
        """The same error with the source location of the value."""
        return UsageError(f"{location}: {self}")


class DataError(CnnbenchError):
    """A dataset is not available, or its files are invalid."""


class StoreError(CnnbenchError):
    """A run folder cannot be read or written."""


class OutOfMemoryError(CnnbenchError):
    """Not enough memory for training."""


class ProcessLostError(CnnbenchError):
    """A process that trained together with this one has ended; the run can be resumed."""


class IncomparableError(CnnbenchError):
    """No runs to compare, or runs that are not comparable."""

    exit_code = 4


def _position(problem: Diagnostic) -> tuple[str, int, int]:
    location = problem.location
    return location.path, location.line or 0, location.column or 0


Path = tuple[str | int, ...]  # path of a value: keys and indices


def quoted(value: object, at: Path = (), places: Mapping[Path, Location] | None = None) -> str:
    """Formats a value for a message, on one line of at most 40 characters.

    Args:
      value: plain data.
      at: path of the value in its document.
      places: source locations of the values of the document. Scalars are shown as written
        there, or else in YAML syntax.

    >>> quoted(True), quoted("abc"), quoted(None), quoted((5, None))
    ('true', "'abc'", 'an empty value', '[5, null]')
    >>> quoted(31, ("name",), {("name",): Location("a.yaml", 1, 7, "0x1F")})
    '0x1F'
    """
    if isinstance(value, Mapping):
        return "a mapping"
    if value is None and not _written(at, places):
        return "an empty value"
    text = _flow(value, at, places)
    if len(text) <= 40:
        return text
    return text[:36] + "..." + (text[0] if isinstance(value, str) else "")


def _written(at: Path, places: Mapping[Path, Location] | None) -> str | None:
    place = (places or {}).get(at)
    return place.text if place else None


def _flow(value: object, at: Path, places: Mapping[Path, Location] | None) -> str:
    if not isinstance(value, Mapping | list | tuple) and (text := _written(at, places)):
        return text
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case float() if not math.isfinite(value):
            return ".nan" if math.isnan(value) else f"{'-' if value < 0 else ''}.inf"
        case Mapping():
            return "{...}"
        case list() | tuple():
            # 40 entries fill 40 characters
            items = enumerate(value[:40])
            return f"[{', '.join(_flow(item, (*at, i), places) for i, item in items)}]"
        case _:
            return repr(value)


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """A suggestion for a misspelled word, or an empty string.

    >>> did_you_mean("kernal", ["kernel", "stride"])
    " (did you mean 'kernel'?)"
    >>> did_you_mean("zebra", ["kernel", "stride"])
    ''
    """
    near = nearest(word, choices)
    return f" (did you mean '{near}'?)" if near else ""


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """The choice closest in spelling to `word`; None if none is similar.

    Allows one edit per three letters (rounded up, at most three), and none for words of one or two
    letters.

    >>> nearest("reLU", ["relu", "tanh"]), nearest("scheduel", ["schedule"])
    ('relu', 'schedule')
    >>> nearest("layer_norm", ["batch_norm"]), nearest("pad", ["add"])
    (None, None)
    """
    wanted, found = normalized(word), None
    most = _max_edits(len(wanted))
    for choice in choices:
        if abs(len(other := normalized(choice)) - len(wanted)) > most:
            continue
        distance = spelling_distance(wanted, other, most)
        if distance is not None and wanted:
            found, most = choice, distance - 1
    return found


_SHORT = 2  # letters of abbreviations that no misspelling is compared with: grn is not gn


def _max_edits(length: int) -> int:
    return 0 if length < 3 else 1 if length < 6 else 2 if length < 9 else 3


def spelling_distance(one: str, other: str, most: int) -> int | None:
    """Edit distance with transpositions (Damerau 1964; optimal string alignment).

    Returns:
      The distance; None if it is greater than `most`.

    >>> spelling_distance("tset", "test", 2), spelling_distance("pad", "add", 1)
    (1, None)
    """
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        before, above, row = row, before, [i]
        for j, sign in enumerate(other, 1):
            best = min(before[j] + 1, row[-1] + 1, before[j - 1] + (letter != sign))
            if i > 1 and j > 1 and letter == other[j - 2] and one[i - 2] == sign:
                best = min(best, above[j - 2] + 1)
            row.append(best)
        if min(*row, *before) > most:
            return None
    return row[-1] if row[-1] <= most else None


def normalized(word: str) -> str:
    """Normalizes a name: lower case, letters and digits only.

    >>> normalized("MaxPooling2D"), normalized("max-pooling_2d")
    ('maxpooling2d', 'maxpooling2d')
    """
    return "".join(letter for letter in word.lower() if letter.isalnum())


@dataclass(frozen=True, slots=True)
class KnownNames:
    """Names of one kind in experiment files or on the command line, with their aliases.

    Args:
      aliases: names in other libraries, by our name.
      unsupported: names of unsupported features, separated by spaces.
      options: by name in another library, the option that makes ours the same.
    """

    aliases: Mapping[str, tuple[str, ...]]
    unsupported: str = ""
    options: Mapping[str, str] = field(default_factory=dict)

    def match(self, word: str, choices: Iterable[str]) -> str | None:
        """The choice that `word` is an alias or a misspelling of.

        Exact matches (except for case and punctuation) come first, then names in other
        libraries, then the closest spelling. None if the word is an unsupported feature.

        >>> names = KnownNames({"conv": ("Conv2d",)}, "attention")
        >>> names.match("nn.Conv2D", ["conv", "dense"]), names.match("attention", ["add"])
        ('conv', None)
        """
        names = list(choices)
        word = word.rpartition(".")[2]  # strips nn. or keras.layers.
        if found := self.find_alias(word, names):
            return found
        if self._is_listed_unsupported(word):
            return None
        key = normalized(word)
        for form in (key.removesuffix("2d"), key.removesuffix("layer")):
            if found := self.find_alias(form, names):
                return found
        if self.is_unsupported(word, names):
            return None
        theirs = {
            other: name
            for name in names
            for other in self.aliases.get(name, ())
            if len(normalized(other)) > _SHORT
        }
        return nearest(word, names) or theirs.get(nearest(word, theirs) or "")

    def find_alias(self, word: str, names: Iterable[str]) -> str | None:
        """The name that equals a word, or has it as an alias; None if there is none."""
        key = normalized(word)
        known = ((name, (name, *self.aliases.get(name, ()))) for name in names)
        return next((name for name, words in known if key in map(normalized, words)), None)

    def is_unsupported(self, word: str, choices: Iterable[str]) -> bool:
        """Returns True if a word, perhaps misspelled, is an unsupported feature.

        >>> names = KnownNames({}, "attention")
        >>> names.is_unsupported("atention", ["add"]), names.is_unsupported("ad", ["add"])
        (True, False)
        """
        known, names = self.unsupported.split(), list(choices)
        others = [w for name in names for w in (name, *self.aliases.get(name, ()))]
        word = word.rpartition(".")[2]
        return self._is_listed_unsupported(word) or nearest(word, [*others, *known]) in known

    def _is_listed_unsupported(self, word: str) -> bool:
        known, key = set(map(normalized, self.unsupported.split())), normalized(word)
        return bool({key, key.removesuffix("2d"), key.removesuffix("layer")} & known)

    def hint(self, word: str, choices: Iterable[str]) -> str:
        """A suggestion in parentheses, or an empty string."""
        found = self.match(word, choices)
        if not found:
            return ""
        option = next((o for w, o in self.options.items() if self._is_word(word, w)), "")
        return f" (did you mean '{found}'{f' with {option}' if option else ''}?)"

    @staticmethod
    def _is_word(word: str, other: str) -> bool:
        return normalized(word.rpartition(".")[2]) == normalized(other)


def cannot_write(what: object, error: OSError, remedy: str) -> StoreError:
    """Error for a file that cannot be written, with a remedy.

    >>> print(cannot_write("a.json", OSError(28, "No space left on device"), "choose another"))
    a.json: cannot be written: no space left on device; choose another.
    """
    reason = (error.strerror or str(error)).lower()
    return StoreError(f"{what}: cannot be written: {reason}; {remedy}.")


def or_list(choices: Iterable[str]) -> str:
    """Joins names with commas and "or".

    >>> or_list(["a", "b", "c"])
    'a, b or c'
    """
    names = list(choices)
    return " or ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
