"""One document laid over another: a file over the file it extends, overrides over both.

Mappings are merged key by key and the upper document wins. A layer, optimiser or
schedule of another kind replaces the lower one as a whole, and null takes away
what the lower document says. `Causes` finds which line of a later document makes an earlier
one wrong, by leaving lines out again.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path, PurePosixPath
from typing import Any, get_args

from cnnbench.errors import (
    Diagnostic,
    Issue,
    Location,
    SpecError,
    did_you_mean,
    nearest,
    or_list,
    quoted,
)
from cnnbench.spec.document import Document, KeyPath, parse_document, read_document
from cnnbench.spec.experiment import Experiment
from cnnbench.spec.optimizers import DEFAULT_OPTIMIZER, DEFAULT_SCHEDULE
from cnnbench.spec.shipped import find_shipped, shipped_names
from cnnbench.spec.yaml_parser import MAX_DEPTH

COMMAND_LINE = "command line"
MAX_PARENTS = 8
MAX_WORK = 20_000  # values that are checked again, in all; a second where they are layers
_MODEL_KEYS = ("layers", "output", "python", "args")
_NULLS = ("null", "Null", "NULL", "~")
NOT_INHERITED = ("name", "title", "extends")

FindIssues = Callable[[Document], Collection[KeyPath]]  # a document to the paths of its issues


def read_with_parents(path: Path) -> Document:
    """Reads a file and lays it over the file that it extends, if any.

    Raises:
      SpecError: a file cannot be read, or `extends` names none.
    """
    return reduce(merge, read_layers(path))


def read_layers(path: Path, children: tuple[Path, ...] = ()) -> tuple[Document, ...]:
    """Reads a file and those that it extends.

    Args:
      path: the file.
      children: the files that extend it.

    Returns:
      The documents, each to be laid over those before it; the file's own is the last.

    Raises:
      SpecError: a file cannot be read, or `extends` names none.
    """
    document = read_document(path)
    if not isinstance(document.data, dict):
        place = document.values.get((), Location(str(path), 1, 1))
        message = "the file is empty" if document.data is None else "the file holds no keys"
        raise SpecError([Diagnostic(place, "", message, "begin with 'name: NAME'")])
    left_out = NOT_INHERITED if children else ("extends",)
    own = {key: value for key, value in document.data.items() if key not in left_out}
    own_document = replace(document, data=own)
    if "extends" not in document.data:
        return (own_document,)
    parent = _parent_path(path, document, children)
    return (*read_layers(parent, (*children, path)), own_document)


def _parent_path(path: Path, document: Document, children: tuple[Path, ...]) -> Path:
    value = document.data["extends"]
    place = document.values[("extends",)]
    written = quoted(value, ("extends",), document.values)

    def refuse(message: str, remedy: str) -> SpecError:
        return SpecError([*document.problems, Diagnostic(place, "extends", message, remedy)])

    if not isinstance(value, str) or not value:
        raise refuse(f"{written} is not a file name", "name a file beside this one")
    if PurePosixPath(value).is_absolute() or ".." in PurePosixPath(value).parts:
        raise refuse(f"{written} leaves the folder", "name a file beside this one")
    parent, shipped = _parent_of(path, value)
    if not _is_file(parent):
        files = {p.stem: p.name for p in path.parent.glob("*.yaml") if p != path}
        choices = {name: name for name in shipped_names()} | files
        near = nearest(Path(value).stem, choices)
        hint = f" (did you mean '{choices[near]}'?)" if near else ""
        message = f"there is no file {written} beside this one{hint}"
        raise refuse(message, "name an existing file")
    if not shipped and path.parent.resolve() not in parent.resolve().parents:
        raise refuse(f"{written} leaves the folder through a link", "name a file beside this one")
    chain = (*children, path)
    if any(parent.samefile(link) for link in chain):
        what = "is this file itself" if parent.samefile(path) else "extends this file in turn"
        raise refuse(f"{written} {what}", "end the circle")
    if len(chain) > MAX_PARENTS:
        raise refuse(f"more than {MAX_PARENTS} files extend one another", "merge some of them")
    return parent


def _parent_of(path: Path, value: str) -> tuple[Path, bool]:
    """The file that `extends: value` means, and whether it is one that comes with cnnbench.

    A file beside this one comes first. It may be missing.
    """
    if _is_file(path.parent / value):
        return path.parent / value, False
    by_name = path.parent / f"{value}.yaml"
    if _is_file(by_name) and not by_name.samefile(path):
        return by_name, False
    shipped = find_shipped(value)
    return shipped or path.parent / value, shipped is not None


def lineage(path: Path) -> tuple[Path, ...]:
    """A file, the file that it extends, and so on, as far as they can be read.

    The last one may be missing.
    """
    found = [path]
    while len(found) <= MAX_PARENTS:
        try:
            data = read_document(found[-1]).data
        except (SpecError, ValueError):  # a null byte in a name
            break
        value = data.get("extends") if isinstance(data, dict) else None
        if not isinstance(value, str) or not value:
            break
        parent, _ = _parent_of(found[-1], value)
        if parent in found:
            break
        found.append(parent)
    return tuple(found)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long, or one with a null byte
        return False


def merge(lower: Document, upper: Document) -> Document:
    """Merges two documents; the places of all that was replaced go with it."""
    replaced: list[KeyPath] = []
    data = _merged(lower.data, upper.data, (), replaced)
    gone = set(replaced)

    def kept(places: Mapping[KeyPath, Location]) -> dict[KeyPath, Location]:
        return {at: place for at, place in places.items() if not _within(at, gone)}

    values = {**kept(lower.values), **upper.values}
    # A key given on the command line may lie deeper than what it replaces.
    for at in gone - upper.values.keys():
        values[at] = next(p for key, p in upper.values.items() if key[: len(at)] == at)
    problems = (*lower.problems, *upper.problems)
    return Document(data, values, {**kept(lower.keys), **upper.keys}, problems, upper.text)


def _within(at: KeyPath, paths: set[KeyPath]) -> bool:
    return any(at[:end] in paths for end in range(1, len(at) + 1))


def _merged(lower: Any, upper: Any, at: KeyPath, replaced: list[KeyPath]) -> Any:
    tag, _ = _tag_key(at)
    if tag and isinstance(lower, str):
        lower = {tag: lower}  # the short form "optimizer: adam"
    if replaces(lower, upper, at):
        replaced.append(at)
        return upper
    result = dict(lower)
    for key, value in upper.items():
        if value is None and key in result:
            del result[key]
            replaced.append((*at, key))
        elif key in result:
            result[key] = _merged(result[key], value, (*at, key), replaced)
        else:
            result[key] = value
    return result


def replaces(lower: Any, upper: Any, at: KeyPath) -> bool:
    """Tests whether a value replaces the one below, instead of being merged with it."""
    tag, default = _tag_key(at)
    if tag and isinstance(lower, str):
        lower = {tag: lower}
    if not (isinstance(lower, Mapping) and isinstance(upper, Mapping)):
        return True
    return bool(tag and tag in upper and upper[tag] != lower.get(tag, default))


def _tag_key(at: KeyPath) -> tuple[str | None, str | None]:
    """The key that selects a member of a union, where `at` is one, and the default's word."""
    match at:
        case ("model", "layers", _):
            return "op", None
        case ("train", "optimizer"):
            return "name", DEFAULT_OPTIMIZER.name
        case ("train", "schedule"):
            return "name", DEFAULT_SCHEDULE.name
        case _:
            return None, None


def in_order(overrides: Sequence[str]) -> list[str]:
    """Overrides as they are applied: one that names an optimizer comes before its options.

    So do the other choices of a kind. Whatever their order on the command line, options are
    those of the kind that is named there, instead of being dropped without a word.

    >>> in_order(["train.epochs=2", "train.optimizer.b1=0.5", "train.optimizer=adam"])
    ['train.epochs=2', 'train.optimizer=adam', 'train.optimizer.b1=0.5']
    """
    kinds = {i: at for i, text in enumerate(overrides) if (at := _kind_chosen(text))}
    order = list(range(len(overrides)))
    for i, at in kinds.items():
        options = (j for j in order if j not in kinds and _path(overrides[j])[: len(at)] == at)
        first = next(options, i)
        if order.index(first) < order.index(i):
            order.remove(i)
            order.insert(order.index(first), i)
    return [overrides[i] for i in order]


def _kind_chosen(text: str) -> KeyPath | None:
    """The union whose member an override chooses by a word, as `train.optimizer=adam` does."""
    *at, last = path = _path(text)
    if last in ("op", "name") and _tag_key(tuple(at))[0] == last:
        return tuple(at)
    word = text.partition("=")[2].strip()
    is_word = _tag_key(path)[0] == "name" and word.isidentifier() and word not in _NULLS
    return path if is_word else None


def override(document: Document, text: str) -> Document:
    """Parses one ``key=value`` of the command line that is laid over a document.

    Args:
      document: what the files and earlier overrides say.
      text: a dotted path and a YAML value, as in ``train.epochs=5``; a layer is
        addressed by its name, as in ``model.conv1.kernel=7``.

    Returns:
      What has to be laid over it; of a wrong override only the problems.
    """
    nothing = Document({}, {}, {}, text=document.text)
    try:
        upper = _parsed(text, document)
    except SpecError as error:
        return replace(nothing, problems=error.problems)
    if _unsets_nothing(upper.data, document.data, Experiment):
        return nothing
    return replace(upper, text=document.text)


def _unsets_nothing(upper: Any, lower: Any, model: Any) -> bool:
    """Whether an override takes away a key of the language that the files leave out anyway."""
    if not isinstance(upper, dict) or not isinstance(lower, dict):
        return upper is None and lower is None
    if len(upper) != 1:
        return False
    ((key, value),) = upper.items()
    members = [member for member in (model, *get_args(model)) if hasattr(member, "model_fields")]
    fields = [member.model_fields[key] for member in members if key in member.model_fields]
    inner = lower.get(key, {} if isinstance(value, dict) else None)
    return any(_unsets_nothing(value, inner, field.annotation) for field in fields)


def _parsed(text: str, lower: Document) -> Document:
    key, equals, value_text = text.partition("=")
    at = _path(text)
    if not equals or not all(at) or len(at) > MAX_DEPTH or not key.isprintable():
        raise _refused("", f"{quoted(text)} is not an override", "write key=value")
    if at[0] == "extends":
        raise _refused(key, "cannot be overridden", "write it into a file")
    _check_layer(at, value_text, lower.data)
    value = _parse_value(key, value_text)
    if value.data is None and value_text.strip() not in _NULLS:  # nothing, or a comment
        raise _refused(key, "the value is missing", f"write {key}=VALUE, or {key}=null to unset it")
    found = value.values.items()
    places = {(*at, *inner): Location(COMMAND_LINE, text=place.text) for inner, place in found}
    new = (at[:end] for end in range(1, len(at)) if at[:end] not in lower.values)
    places |= dict.fromkeys(new, Location(COMMAND_LINE))  # sections that no file has
    nested = value.data
    for part in reversed(at):
        nested = {part: nested}
    return Document(nested, places, places, value.problems)


def _path(text: str) -> tuple[str, ...]:
    """Where the value of an override belongs; a layer's name stands below `model.layers`."""
    first, *others = text.partition("=")[0].split(".")
    if first == "model" and others and others[0] not in _MODEL_KEYS:
        others.insert(0, "layers")
    return (first, *others)


def _parse_value(key: str, text: str) -> Document:
    """A value whose problems name the key it was given for instead of a line."""
    try:
        value = parse_document(text.encode(), COMMAND_LINE)
    except UnicodeEncodeError:
        raise _refused(key, "is not UTF-8 text", "write it in UTF-8") from None
    except SpecError as error:
        raise SpecError(_moved(problem, key) for problem in error.problems) from None
    return replace(value, problems=tuple(_moved(problem, key) for problem in value.problems))


def _moved(problem: Diagnostic, key: str) -> Diagnostic:
    where = ".".join(part for part in (key, problem.where) if part)
    return replace(problem, location=Location(COMMAND_LINE), where=where)


def _refused(key: str, message: str, remedy: str) -> SpecError:
    return SpecError([Diagnostic(Location(COMMAND_LINE), key, message, remedy)])


def _check_layer(at: tuple[str, ...], value: str, data: Mapping[str, Any]) -> None:
    """A key of a layer, or the removal of one, needs a layer of that name."""
    model = data.get("model")
    layers = model.get("layers") if isinstance(model, dict) else None
    names = list(layers) if isinstance(layers, dict) else []
    adds = len(at) == 3 and value.strip() not in _NULLS
    if at[:2] != ("model", "layers") or len(at) < 3 or adds or at[2] in names:
        return
    message = f"there is no layer {quoted(at[2])}{did_you_mean(at[2], names)}"
    remedy = f"name {or_list(names)}" if names else "the model has no layers, remove it"
    raise _refused(".".join(["model", *at[2:]]), message, remedy)


class Causes:
    """Looks for what leads to issues in a stack of documents.

    Args:
      layers: the documents, each laid over those before it.
      check: finds the issues of what comes of them.
    """

    def __init__(self, layers: Sequence[Document], check: FindIssues) -> None:
        self._layers, self._check = layers, check
        self._whole = reduce(merge, layers)
        self._found: dict[tuple[int, frozenset[KeyPath]], frozenset[KeyPath]] = {}
        self._left = MAX_WORK

    def of(self, issue: Issue, known: Collection[KeyPath]) -> tuple[int, KeyPath] | None:
        """The change that leads to an issue in what an earlier document says.

        Of the last document without which the issue would not be there, the first of the fewest
        changes without which it would not be there either (Zeller & Hildebrandt 2002).

        Args:
          issue: stands in one of the documents.
          known: the paths of all issues.

        Returns:
          The number of the later document and the path of its change; None where the issue does
          not follow from one, or where that would take long to say.
        """
        owner = self._owner(issue.at)
        for number in range(len(self._layers) - 1, owner, -1):
            lower = reduce(merge, self._layers[:number])
            found = list(changed_paths(lower.data, self._layers[number].data))
            found = [change for change in found if change[0] not in NOT_INHERITED]
            for change in found:
                if self._heals(number, [change], issue.at, known):
                    return number, change
            if found and self._heals(number, found, issue.at, known):
                return number, self._fewest(number, found, issue.at, known)[0]
        return None

    def _fewest(
        self, number: int, left: list[KeyPath], at: KeyPath, known: Collection[KeyPath]
    ) -> list[KeyPath]:
        for change in list(left):
            fewer = [other for other in left if other != change]
            if fewer and self._heals(number, fewer, at, known):
                left = fewer
        return left

    def _owner(self, at: KeyPath) -> int:
        """The last document that says something at a path, or above where none does."""
        while at and at not in self._whole.values:
            at = at[:-1]
        place = self._whole.values.get(at)
        numbers = (i for i, layer in enumerate(self._layers) if layer.values.get(at) == place)
        return max(numbers, default=len(self._layers))

    def _heals(
        self, number: int, left_out: Collection[KeyPath], at: KeyPath, known: Collection[KeyPath]
    ) -> bool:
        """Tests whether an issue is gone without some changes, and no other appears."""
        issues = self._without(number, frozenset(left_out))
        return issues is not None and at not in issues and issues <= frozenset(known)

    def _without(self, number: int, left_out: frozenset[KeyPath]) -> frozenset[KeyPath] | None:
        if (number, left_out) not in self._found:
            self._left -= len(self._whole.values) + 1
            if self._left < 0:
                return None
            layers = list(self._layers)
            kept = without(layers[number].data, left_out)
            layers[number] = replace(layers[number], data=kept)
            self._found[number, left_out] = frozenset(self._check(reduce(merge, layers)))
        return self._found[number, left_out]


def changed_paths(lower: Any, upper: Any, at: KeyPath = ()) -> Iterator[KeyPath]:
    """The largest parts of a document that replace or add something in the one below.

    >>> list(changed_paths({"a": 1, "b": {"c": 1}}, {"b": {"c": 2, "d": 3}, "e": {"f": 1}}))
    [('b', 'c'), ('b', 'd'), ('e',)]
    """
    if at and replaces(lower, upper, at):
        yield at
        return
    for key, value in upper.items():
        if isinstance(lower, Mapping) and key in lower:
            yield from changed_paths(lower[key], value, (*at, key))
        else:
            yield (*at, key)


def without(data: Mapping[str, Any], gone: Collection[KeyPath], at: KeyPath = ()) -> dict[str, Any]:
    """Plain data without the values at some paths.

    >>> without({"a": {"b": 1, "c": 2}}, {("a", "b")})
    {'a': {'c': 2}}
    """
    return {
        key: without(value, gone, (*at, key)) if isinstance(value, Mapping) else value
        for key, value in data.items()
        if (*at, key) not in gone
    }
