"""Values of a sweep: `KEY=1,2,3`, `choice(..)`, `range(..)`, `log(a..b)` and `uniform(a..b)`."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from cnnbench.errors import Diagnostic, Location, UsageError, did_you_mean, or_list, quoted
from cnnbench.formatting import is_number
from cnnbench.spec.document import Document, KeyPath, inline_text

CHOICE, RANGE, LOG, UNIFORM = "choice", "range", "log", "uniform"
FUNCTIONS = (CHOICE, RANGE, LOG, UNIFORM)
SWEEP = "sweep"
MOST_VALUES = 1000  # of range(..)
_CALL = re.compile(r"\s*([A-Za-z_]\w*)\s*\((.*)\)\s*", re.DOTALL)
_TEXTS = ("name", "title")  # a comma is part of the text
# Functions of Hydra, Guild and Ray Tune, and what to write instead.
_FOREIGN = {
    "interval": "uniform(0.1..0.5)",
    "tag": "log(0.001..0.1)",
    "shuffle": "the values in any order",
    "sort": "the values in order",
    "glob": "the values, separated by commas",
    "loguniform": "log(0.001..0.1)",
    "logspace": "log(0.001..0.1), with --trials N",
    "linspace": "uniform(0..1), with --trials N",
    "randint": "uniform(1..10)",
    "grid_search": "the values, separated by commas",
}
_LOGARITHMIC = ("loguniform",)  # with both ends
_CLOSING = {"(": ")", "[": "]", "{": "}"}


@dataclass(frozen=True, slots=True)
class Choices:
    """Values to try.

    Args:
      values: each as in an override.
    """

    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Range:
    """A range to draw values from.

    Args:
      low: smallest value.
      high: largest value.
      log: True to draw the logarithm uniformly.
      text: as it was written.
    """

    low: float
    high: float
    log: bool
    text: str

    def at(self, share: float, *, whole: bool) -> str:
        """The value at a share of the range, with four significant digits.

        Args:
          share: from 0 for `low` to 1 for `high`.
          whole: True for an integer; every integer of a linear range then has an equal share.

        >>> decades = Range(0.003, 0.3, True, "log(0.003..0.3)")
        >>> decades.at(0.5, whole=False), Range(1, 3, False, "").at(0.99, whole=True)
        ('0.03', '3')
        """
        more = 0.5 if whole and (self.low >= 1 or not self.log) else 0.0
        low, high = self.low - more, self.high + more
        value = low * (high / low) ** share if self.log else low + (high - low) * share
        if whole:
            return str(min(math.floor(self.high), max(math.ceil(self.low), round(value))))
        return rounded(value)

    @property
    def integers(self) -> int:
        """Number of integers in it."""
        return max(0, math.floor(self.high) - math.ceil(self.low) + 1)


def rounded(value: float) -> str:
    """A value drawn from a range, with four significant digits.

    >>> rounded(0.0123456), rounded(1234567.0)
    ('0.01235', '1.235e+06')
    """
    return f"{float(f'{value:.4g}'):g}"


Swept = Choices | Range


def split_values(text: str) -> list[str]:
    """Splits at commas outside of brackets and quotes.

    >>> split_values("3,[3,5],'a,b',{x: 1, y: 2}")
    ['3', '[3,5]', "'a,b'", '{x: 1, y: 2}']
    """
    parts, start, closing, quote = [], 0, [], ""
    for place, char in enumerate(text):
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"" and not text[start:place].strip(" [{(,:"):
            quote = char
        elif char in _CLOSING:
            closing.append(_CLOSING[char])
        elif closing and char == closing[-1]:
            closing.pop()
        elif char == "," and not closing:
            parts.append(text[start:place].strip())
            start = place + 1
    return [*parts, text[start:].strip()]


def parse_values(key: str, text: str) -> Swept | None:
    """Parses the value of an override.

    Args:
      key: its key, for messages.
      text: its value.

    Returns:
      The values or the range of a sweep; None for a single value.

    Raises:
      UsageError: values are missing, given twice, or a function is not valid.

    >>> parse_values("a", "1,2"), parse_values("a", "range(1,7,2)"), parse_values("a", "[1,2]")
    (Choices(values=('1', '2')), Choices(values=('1', '3', '5')), None)
    >>> parse_values("a", "log(0.1..10)")
    Range(low=0.1, high=10.0, log=True, text='log(0.1..10)')
    """
    if key in _TEXTS:
        return None
    parts = split_values(text)
    if len(parts) > 1:
        _refuse_calls(key, parts)
        return choices(key, parts)
    if not (call := _CALL.fullmatch(text)):
        _refuse_ends(key, text)
        return None
    name, inside = call.groups()
    match name:
        case "choice":
            return choices(key, split_values(inside))
        case "range":
            return choices(key, _progression(key, text, split_values(inside)))
        case "log" | "uniform":
            return _range(key, name, text.strip(), inside)
    if instead := _FOREIGN.get(name):
        if name in _LOGARITHMIC and len(ends := split_values(inside)) == 2:
            instead = f"log({'..'.join(ends)})"
        raise UsageError(f"{key}: {name}(..) is not a function of sweeps; write {instead}.")
    if hint := did_you_mean(name, FUNCTIONS):
        raise UsageError(f"{key}: unknown function {quoted(name)}{hint}; write {_names()}.")
    return None


def _refuse_ends(key: str, text: str) -> None:
    """Refuses both ends of a range without a function."""
    ends = text.strip().split("..")
    if len(ends) == 2 and all(map(is_number, ends)):
        names = [name for name in (LOG, UNIFORM) if name == UNIFORM or float(ends[0]) > 0]
        remedy = or_list([f"{name}({text.strip()})" for name in names])
        raise UsageError(f"{key}: {text} does not say how to draw from it; write {remedy}.")


def _names() -> str:
    return or_list([f"{name}(..)" for name in FUNCTIONS])


def _refuse_calls(key: str, parts: Sequence[str]) -> None:
    for part in parts:
        if (call := _CALL.fullmatch(part)) and call[1] in {*FUNCTIONS, *_FOREIGN}:
            message = f"{key}: {part} stands among other values"
            raise UsageError(f"{message}; write either values or a function.")


def choices(key: str, values: Sequence[str]) -> Choices:
    """Values to try, without repetitions.

    Raises:
      UsageError: a value is missing, or given twice.
    """
    if list(values) == [""]:
        message = f"{key}: there are no values"
        raise UsageError(f"{message}; write, for example, {key}=1,2, or null for no value.")
    if not all(values):
        message = f"{key}: a value is missing in {quoted(','.join(values))}"
        raise UsageError(f"{message}; write, for example, {key}=1,2, or null for no value.")
    for place, value in enumerate(values):
        if any(same_value(value, other) for other in values[:place]):
            raise UsageError(f"{key}: {value} is given twice; remove one of them.")
    return Choices(tuple(values))


def same_value(one: str, other: str) -> bool:
    """True if two texts are the same value of a setting.

    >>> same_value("1e-2", "0.01"), same_value("sgd", "adam"), same_value("[1,2]", "[1, 2]")
    (True, False, True)
    """
    if is_number(one) and is_number(other):
        return float(one) == float(other)
    return one.replace(" ", "").lower() == other.replace(" ", "").lower()


def _progression(key: str, text: str, words: Sequence[str]) -> list[str]:
    """The values of `range(start,stop,step)` without `stop`, as in Hydra and Python."""
    if len(words) not in {1, 2, 3} or not all(map(is_number, words)):
        message = f"{key}: {quoted(text)} is not range(START,STOP,STEP) in numbers"
        raise UsageError(f"{message}; write, for example, range(1,10,2), which ends before 10.")
    start, stop, step = {1: ("0", *words, "1"), 2: (*words, "1"), 3: tuple(words)}[len(words)]
    first, end, by = float(start), float(stop), float(step)
    number = math.ceil(round((end - first) / by, 9)) if by else 0
    if not 0 < number <= MOST_VALUES:
        found = "no values" if number <= 0 else f"{number:,} values; at most {MOST_VALUES:,}"
        raise UsageError(f"{key}: {text} has {found}; write another start, stop or step.")
    return [f"{float(f'{first + place * by:.12g}'):.12g}" for place in range(number)]


def _range(key: str, name: str, text: str, inside: str) -> Range:
    ends = [part.strip() for part in inside.split("..")]
    example = f"{name}(0.001..0.1)"
    if len(ends) != 2 or not all(map(is_number, ends)):
        message = f"{key}: {quoted(text)} is not {name}(LOW..HIGH) in numbers"
        raise UsageError(f"{message}; write, for example, {example}.")
    low, high = map(float, ends)
    if not low < high:
        message = f"{key}: in {text} the low end is not below the high end"
        raise UsageError(f"{message}; write, for example, {example}.")
    if name == LOG and low <= 0:
        message = f"{key}: {text} has an end that is not positive, and no logarithm"
        raise UsageError(f"{message}; write a positive low end, or uniform({ends[0]}..{ends[1]}).")
    return Range(low, high, name == LOG, text)


@dataclass(frozen=True, slots=True)
class FileSweep:
    """`sweep:` of an experiment file.

    Args:
      overrides: a key and its values each, as on the command line.
      trials: number of trials; None for all combinations.
    """

    overrides: tuple[str, ...]
    trials: int | None


def split_sweep(document: Document) -> tuple[Document, Document]:
    """A document without `sweep`, and one with nothing else."""
    if not isinstance(document.data, dict) or SWEEP not in document.data:
        return document, Document({}, {}, {})

    def part(places: Mapping[KeyPath, Location], *, inside: bool) -> dict[KeyPath, Location]:
        return {at: place for at, place in places.items() if not at or (at[0] == SWEEP) == inside}

    values, keys = document.values, document.keys
    others = {key: value for key, value in document.data.items() if key != SWEEP}
    outer = replace(
        document, data=others, values=part(values, inside=False), keys=part(keys, inside=False)
    )
    own = {SWEEP: document.data[SWEEP]}
    return outer, Document(own, part(values, inside=True), part(keys, inside=True))


def read_sweep_section(document: Document) -> tuple[FileSweep | None, tuple[Diagnostic, ...]]:
    """Checks `sweep`.

    Args:
      document: a document with nothing else.

    Returns:
      The sweep; None if there is none. Its problems.
    """
    sweep = document.data.get(SWEEP)
    if sweep is None:
        return None, ()
    if not isinstance(sweep, dict):
        remedy = "write, for example, sweep: {train.optimizer.learning_rate: [0.01, 0.03]}"
        what = f"{quoted(sweep)} is not a mapping of keys to values"
        return None, (Diagnostic(document.values[SWEEP,], SWEEP, what, remedy),)
    trials, overrides, problems = None, [], []
    for key, value in sweep.items():
        try:
            if key == "trials":
                trials = _number_of_trials(value)
            else:
                overrides.append(f"{key}={_file_values(key, value)}")
        except UsageError as error:
            message, _, remedy = str(error).removeprefix(f"{key}: ").rpartition("; ")
            place = document.values[SWEEP, key]
            problems.append(Diagnostic(place, f"{SWEEP}.{key}", message, remedy.rstrip(".")))
    return FileSweep(tuple(overrides), trials), tuple(problems)


def _number_of_trials(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    raise UsageError(f"{quoted(value)} is not a number of trials; write a positive integer.")


def _file_values(key: str, value: object) -> str:
    """The values of a key of `sweep` as on the command line.

    Raises:
      UsageError: they are not valid.
    """
    if isinstance(value, list):
        choices(key, [inline_text(item) for item in value] or [""])
        return f"{CHOICE}({','.join(map(inline_text, value))})"
    if isinstance(value, str) and parse_values(key, value):
        return value
    message = f"{quoted(value)} is a single value"
    raise UsageError(f"{message}; write a list such as [0.01, 0.03], or log(0.001..0.1).")
