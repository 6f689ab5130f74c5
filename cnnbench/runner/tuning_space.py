"""The search space of ``run --tune``: keys, and the factors or values to try for each."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import product

from cnnbench.errors import UsageError, or_list, quoted
from cnnbench.formatting import is_number
from cnnbench.runs.settings import as_override, leaves
from cnnbench.spec.experiment import Experiment
from cnnbench.spec.vocabulary import KEY

FACTORS = (0.1, 0.3, 1.0, 3.0, 10.0)
MOST_POINTS = 100  # without a stated budget
_BUDGET = ("train.epochs", "seeds")
_TUNABLE = ("train.", "model.", "dataset.augment.")
_OPTIMIZER = "train.optimizer."
_SHOWN = 4  # keys that a message lists
_EXAMPLE = "learning_rate=x0.3:x1:x3"


@dataclass(frozen=True, slots=True)
class Axis:
    """A key to tune.

    Args:
      key: dotted path, its end, or a pattern, as the user wrote it.
      factors: factors of the value in each file; empty if there are values.
      values: values for all files, as in an override; empty if there are factors.
    """

    key: str
    factors: tuple[float, ...] = ()
    values: tuple[str, ...] = ()

    @property
    def points(self) -> tuple[str, ...]:
        """The points as text: factors with an x, or values.

        >>> Axis("learning_rate", factors=(0.1, 1.0)).points
        ('x0.1', 'x1')
        """
        return tuple(f"x{factor:g}" for factor in self.factors) or self.values

    @property
    def text(self) -> str:
        """The option that gives this axis."""
        return f"{self.key}={':'.join(self.points)}"


@dataclass(frozen=True, slots=True)
class Setting:
    """A value that a trial gives to a key.

    Args:
      path: dotted path of the key.
      value: as in an override.
      written: True if the file has this value.
    """

    path: str
    value: str
    written: bool

    @property
    def override(self) -> str:
        """The override that sets it."""
        return f"{self.path}={self.value}"


def parse_axes(texts: Sequence[str]) -> tuple[Axis, ...]:
    """Parses the values of ``--tune``.

    Args:
      texts: keys separated by commas, each with its points after an equals sign, separated by
        colons. Without points, the factors are `FACTORS`.

    Raises:
      UsageError: a text is not of this form.

    >>> parse_axes(["learning_rate,train.batch_size=x0.5:x1"])
    (Axis(key='learning_rate', factors=(0.1, 0.3, 1.0, 3.0, 10.0), values=()), \
Axis(key='train.batch_size', factors=(0.5, 1.0), values=()))
    >>> parse_axes(["optimizer.momentum=0.9:0.99"])
    (Axis(key='optimizer.momentum', factors=(), values=('0.9', '0.99')),)
    """
    axes = [_axis(part.strip()) for text in texts for part in text.split(",")]
    keys = [axis.key for axis in axes]
    for key in keys:
        if keys.count(key) > 1:
            raise UsageError(f"--tune: {quoted(key)} is given twice; remove one of them.")
    return tuple(axes)


def _axis(text: str) -> Axis:
    key, equals, points = text.partition("=")
    key = key.strip()
    if not key or is_number(key.removeprefix("x")):
        what = f"{quoted(key)} is not a key" if key else "a key is missing"
        raise UsageError(f"--tune: {what}; write, for example, --tune {_EXAMPLE}.")
    if not equals:
        return Axis(key, FACTORS)
    words = [word.strip() for word in points.split(":")]
    _check_points(key, words)
    if words[0].startswith("x"):
        return Axis(key, tuple(_factor(key, word) for word in words))
    return Axis(key, values=tuple(words))


def _check_points(key: str, words: Sequence[str]) -> None:
    """Checks that there are several points of one kind.

    Raises:
      UsageError: there are not.
    """
    if not all(words) or len(words) < 2:
        message = f"--tune {key}: {quoted(':'.join(words))} is not a list of values"
        raise UsageError(f"{message}; write at least two with colons, such as {_EXAMPLE}.")
    if twice := next((word for word in words if words.count(word) > 1), None):
        raise UsageError(f"--tune {key}: {twice} is given twice; remove one of them.")
    factors = [word for word in words if word.startswith("x") and is_number(word[1:])]
    plain = [word for word in words if word not in factors and is_number(word)]
    if factors and plain:
        message = f"--tune {key}: {factors[0]} is a factor, and {plain[0]} is a value"
        raise UsageError(f"{message}; write all with x, or all without.")


def _factor(key: str, word: str) -> float:
    if is_number(word[1:]) and 0 < float(word[1:]) < float("inf"):
        return float(word[1:])
    message = f"--tune {key}: {quoted(word)} is not a factor"
    raise UsageError(f"{message}; write a positive number after the x, such as x0.3.")


def settings_at(axis: Axis, point: int, experiment: Experiment, file: str) -> tuple[Setting, ...]:
    """The values that a point of an axis gives to the keys of an experiment.

    Args:
      axis: the axis; a pattern may name several keys.
      point: index of the point.
      experiment: the experiment as written.
      file: its file, for messages.

    Raises:
      UsageError: the experiment has no such key, or no value that can be multiplied.
    """
    flat = dict(flattened(experiment))
    return tuple(
        _setting(path, flat.get(path, flat.get(f"{path}.name")), axis, point, file)
        for path in resolve_key(axis.key, flat, file, given=bool(axis.values))
    )


def _setting(path: str, base: object, axis: Axis, point: int, file: str) -> Setting:
    if axis.values:
        value = axis.values[point]
        return Setting(path, value, written=_same(base, value))
    if isinstance(base, bool) or not isinstance(base, int | float) or not base:
        zero = "0, and so is every multiple of it" if base == 0 else "not a number"
        found = f"{path} is {'not set' if base is None else zero}"
        message = f"--tune {axis.key}: in {file} {found}"
        raise UsageError(f"{message}; write values, such as {axis.key}=1e-4:1e-3.")
    factor = axis.factors[point]
    new = base if factor == 1 else base * factor
    text = str(max(1, round(new))) if isinstance(base, int) else f"{new:.6g}"
    return Setting(path, text, written=factor == 1)


def _same(base: object, value: str) -> bool:
    """True if the text of a value is what the file has.

    >>> _same(0.01, "1e-2"), _same("sgd", "adam"), _same(True, "true")
    (True, False, True)
    """
    if isinstance(base, int | float) and not isinstance(base, bool) and is_number(value):
        return float(value) == base
    return str(base).lower() == value.lower()


def flattened(experiment: Experiment) -> Iterator[tuple[str, object]]:
    """Yields the dotted path of each value of an experiment, as in an override, and the value."""
    for path, value in leaves(experiment.model_dump(mode="json"), lists=True):
        if not isinstance(value, Mapping | list):
            yield as_override(path), value


def resolve_key(
    key: str, flat: Mapping[str, object], file: str, *, given: bool = False
) -> tuple[str, ...]:
    """The dotted paths that a key of ``--tune`` refers to.

    Args:
      key: a path, the end of one, or a pattern such as ``model.*.rate`` for several.
      flat: values of the experiment by path.
      file: its file, for messages.
      given: True if values are given, so that the key need not have one.

    Raises:
      UsageError: there is none, several without being a pattern, or it cannot be tuned.
    """
    key = as_override(key)
    if key in _BUDGET:
        raise UsageError(_not_tunable(key, key))
    found = [path for path in flat if path == key] or [p for p in flat if fnmatchcase(p, key)]
    found = found or [path for path in flat if path.endswith(f".{key}")]
    tunable = [path for path in found if path.startswith(_TUNABLE) and path not in _BUDGET]
    if found and not tunable:
        raise UsageError(_not_tunable(key, found[0]))
    optimizer = [path for path in tunable if path.startswith(_OPTIMIZER)]
    pattern = {"*", "?", "["} & set(key)
    if len(tunable) > 1 and len(optimizer) != 1 and not pattern:
        raise UsageError(_ambiguous(key, tunable, file))
    if not tunable and given and key.startswith(_TUNABLE):
        return (key,)  # the loader knows whether it exists
    if not tunable:
        raise UsageError(_unknown(key, flat, file))
    return tuple(tunable) if pattern or len(tunable) == 1 else tuple(optimizer)


def _not_tunable(key: str, path: str) -> str:
    if path in _BUDGET:
        key = key.rpartition(".")[2]
        return f"--tune: {key} is part of the budget, which is equal for all; set it with --{key}."
    message = f"--tune: {path} is not a setting of the network or its training"
    return f"{message}; tune a key of train, model or dataset.augment."


def _ambiguous(key: str, paths: Sequence[str], file: str) -> str:
    more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    names = ", ".join(paths[:_SHOWN])
    message = f"--tune: {quoted(key)} may be {names}{more} in {file}"
    return f"{message}; write one, or '*.{key}' for all of them."


def _unknown(key: str, flat: Mapping[str, object], file: str) -> str:
    known = [path for path in flat if path.startswith(_TUNABLE) and path not in _BUDGET]
    names = list(dict.fromkeys(path.rpartition(".")[2] for path in known))
    last = key.rpartition(".")[2]
    near = [path for path in known if path.endswith(f".{last}")][:_SHOWN]
    hint = "" if near else KEY.hint(last, names)
    numbers = [path for path in known if path.startswith(_OPTIMIZER) and _is_number(flat[path])]
    message = f"--tune: {file} has no {quoted(key)}{hint}"
    return f"{message}; write, for example, {or_list((near or numbers or known)[:_SHOWN])}."


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def choose_points(axes: Sequence[Axis], trials: int | None) -> tuple[tuple[int, ...], ...]:
    """The points that every experiment tries: all combinations, or a part that fills the space.

    The part is quasi-random (a Halton sequence), and contains the point as written.

    Args:
      axes: the axes.
      trials: number of points; None for all.

    Returns:
      For each point the index on each axis, in order.

    Raises:
      UsageError: there are fewer points, or too many to try all.

    >>> axes = parse_axes(["learning_rate,weight_decay"])
    >>> choose_points(axes, 4)
    ((1, 3), (2, 1), (2, 2), (3, 0))
    """
    every = list(product(*(range(len(axis.points)) for axis in axes)))
    if trials is None and len(every) > MOST_POINTS:
        message = f"--tune: {len(every)} combinations for each experiment"
        raise UsageError(f"{message}; state a budget with --trials N, or try fewer values.")
    if trials is None:
        return tuple(every)
    if trials > len(every):
        message = f"--trials: {trials} is more than the {len(every)} combinations"
        raise UsageError(f"{message}; omit it to try all, or add values.")
    chosen = dict.fromkeys([*_as_written(axes), *_halton(axes, 64 * len(every)), *every])
    return tuple(sorted(list(chosen)[:trials]))


def _as_written(axes: Sequence[Axis]) -> list[tuple[int, ...]]:
    if not all(1.0 in axis.factors for axis in axes):
        return []
    return [tuple(axis.factors.index(1.0) for axis in axes)]


def _halton(axes: Sequence[Axis], number: int) -> Iterator[tuple[int, ...]]:
    """Yields the cells that the points of a Halton sequence fall into."""
    from scipy.stats.qmc import Halton

    sizes = [len(axis.points) for axis in axes]
    for place in Halton(len(axes), scramble=False).random(number)[1:]:  # the first is a corner
        yield tuple(int(x * size) for x, size in zip(place, sizes, strict=True))
