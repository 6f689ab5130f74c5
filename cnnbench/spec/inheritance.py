"""Merges documents: a file with the file it extends, and overrides with both.

Mappings are merged key by key; the child (upper) document takes precedence. A layer, optimizer
or schedule of another kind replaces the parent's completely, and null removes a key of the
parent. `Causes` finds the line of a child document that makes a value of its parent invalid, by
removing lines and validating again.
"""

import os
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
from cnnbench.layers.parameters import INIT_KEYS
from cnnbench.spec.document import Document, KeyPath, parse_document, read_document
from cnnbench.spec.experiment import OF_SOURCE, PATHS, SOURCES, Experiment
from cnnbench.spec.optimizers import DEFAULT_OPTIMIZER, DEFAULT_SCHEDULE
from cnnbench.spec.shipped import find_shipped, shipped_names
from cnnbench.spec.yaml_parser import MAX_DEPTH
from cnnbench.system.commands import cnnbench
from cnnbench.system.files import expand_home

COMMAND_LINE = "command line"
MAX_PARENTS = 8
MAX_LISTED = 20  # names of layers in a message
MAX_WORK = 20_000  # total number of revalidated values; takes a second if they are layers
_MODEL_KEYS = ("layers", "output", "code_layer", "python", "args", "params", "blocks")
_NULLS = ("null", "Null", "NULL", "~")
NOT_INHERITED = ("name", "title", "extends")
_REMEDY = "specify a file in the same folder or a subfolder"

FindIssues = Callable[[Document], Collection[KeyPath]]  # paths of the issues of a document
NamesIn = Callable[[Document], Sequence[str]]  # names of all layers of a document


def read_with_parents(path: Path) -> Document:
    """Reads a file and merges it with the file that it extends, if any.

    Raises:
      SpecError: a file cannot be read, or `extends` does not refer to a file.
    """
    return reduce(merge, read_layers(path))


def read_layers(path: Path, children: tuple[Path, ...] = ()) -> tuple[Document, ...]:
    """Reads a file and the files that it extends.

    Args:
      path: the file.
      children: files that extend this one.

    Returns:
      The documents from the root parent to the file itself, in merge order.

    Raises:
      SpecError: a file cannot be read, or `extends` does not refer to a file.
    """
    document = read_document(path)
    if not isinstance(document.data, dict):
        place = document.values.get((), Location(str(path), 1, 1))
        message = (
            "the file is empty" if document.data is None else "the file is not a mapping of keys"
        )
        raise SpecError([Diagnostic(place, "", message, "start with 'name: NAME'")])
    removed = NOT_INHERITED if children else ("extends",)
    own = {key: value for key, value in document.data.items() if key not in removed}
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
        raise refuse(f"{written} is not a file name", _REMEDY)
    if PurePosixPath(value).is_absolute() or ".." in PurePosixPath(value).parts:
        raise refuse(f"{written} is outside the folder of this file", _REMEDY)
    parent, shipped = _parent_of(path, value)
    if not _is_file(parent):
        files = {p.stem: p.name for p in path.parent.glob("*.yaml") if p != path}
        choices = {name: name for name in shipped_names()} | files
        near = nearest(Path(value).stem, choices)
        hint = f" (did you mean '{choices[near]}'?)" if near else ""
        message = f"no file {written} in the folder of this file, nor among the shipped experiments"
        raise refuse(message + hint, f"use a file, or {or_list(shipped_names())}")
    if not shipped and path.parent.resolve() not in parent.resolve().parents:
        message = f"{written} is outside the folder of this file (symbolic link)"
        raise refuse(message, _REMEDY)
    chain = (*children, path)
    if any(parent.samefile(link) for link in chain):
        itself = parent.samefile(path)
        message = "a file cannot extend itself" if itself else f"{written} extends this file"
        raise refuse(message, "remove the circular extends")
    if len(chain) > MAX_PARENTS:
        message = f"the chain of extends has more than {MAX_PARENTS} files"
        raise refuse(message, "merge some of them")
    return parent


def _parent_of(path: Path, value: str) -> tuple[Path, bool]:
    """The file that `extends: value` refers to, and True if it ships with cnnbench.

    Files in the same folder take precedence. The file may not exist.
    """
    if _is_file(path.parent / value):
        return path.parent / value, False
    by_name = path.parent / f"{value}.yaml"
    if _is_file(by_name) and not by_name.samefile(path):
        return by_name, False
    shipped = find_shipped(value)
    return shipped or path.parent / value, shipped is not None


def lineage(path: Path) -> tuple[Path, ...]:
    """The chain of a file and its parents, as far as they can be read.

    The last one may not exist.
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
    except (OSError, ValueError):  # name too long, or contains a null byte
        return False


def anchored(document: Document) -> Document:
    """The document with paths of the user's data relative to its file, or to the working folder.

    Paths on the command line are relative to the working folder.
    """
    dataset = document.data.get("dataset") if isinstance(document.data, dict) else None
    found = dataset if isinstance(dataset, dict) else {}
    paths = {key: found[key] for key in PATHS if found.get(key)}
    if not paths:
        return document
    for key, written in paths.items():
        if isinstance(written, dict):
            paths[key] = {
                role: _anchored(document, path, ("dataset", key, role))
                for role, path in written.items()
            }
        else:
            paths[key] = _anchored(document, written, ("dataset", key))
    return replace(document, data={**document.data, "dataset": {**found, **paths}})


def _anchored(document: Document, written: object, at: KeyPath) -> object:
    if not isinstance(written, str) or not written:
        return written
    file = document.values[at].path
    above = Path() if file == COMMAND_LINE else Path(file).parent
    return os.path.normpath(above.absolute() / expand_home(Path(written)))


def merge(lower: Document, upper: Document) -> Document:
    """Merges two documents, dropping the locations of replaced values."""
    replaced: list[KeyPath] = []
    data = _merged(lower.data, upper.data, (), replaced)
    gone = set(replaced)

    def kept(places: Mapping[KeyPath, Location]) -> dict[KeyPath, Location]:
        return {at: place for at, place in places.items() if not _within(at, gone)}

    values = {**kept(lower.values), **upper.values}
    # A key on the command line may be nested deeper than the value it replaces.
    for at in gone - upper.values.keys():
        below = [place for key, place in upper.values.items() if key[: len(at)] == at]
        values |= dict(zip([at], below, strict=False))
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
    for key in _of_another_source(lower, upper, at):
        del result[key]
        replaced.append((*at, key))
    for key, value in upper.items():
        if value is None and key in result and not _is_params(at):
            del result[key]
            replaced.append((*at, key))
        elif key in result:
            result[key] = _merged(result[key], value, (*at, key), replaced)
        else:
            result[key] = value
    return result


def _of_another_source(
    lower: Mapping[str, Any], upper: Mapping[str, Any], at: KeyPath
) -> list[str]:
    """Keys of a dataset that are dropped because another source replaces it, such as a folder."""
    if at != ("dataset",):
        return []
    chosen = {key for key in SOURCES if upper.get(key) is not None}
    if not chosen or not chosen.isdisjoint(lower):
        return []
    return [key for key in lower if key in (*SOURCES, *OF_SOURCE)]


def _is_params(at: KeyPath) -> bool:
    """Returns True for parameters of a block, where an empty value means a required one."""
    return len(at) == 4 and (at[:2], at[3]) == (("model", "blocks"), "params")


def replaces(lower: Any, upper: Any, at: KeyPath) -> bool:
    """Returns True if a value replaces the lower one, instead of being merged with it."""
    tag, default = _tag_key(at)
    if tag and isinstance(lower, str):
        lower = {tag: lower}
    if not (isinstance(lower, Mapping) and isinstance(upper, Mapping)):
        return True
    if tag == "op" and ("block" in upper) != ("block" in lower):
        return not upper.keys().isdisjoint(("op", "block"))
    return bool(tag and tag in upper and upper[tag] != lower.get(tag, default))


def _tag_key(at: KeyPath) -> tuple[str | None, str | None]:
    """The discriminator key of the union at a path, and its default; None if it is not a union."""
    match at:
        case ("model", "layers", _) | ("model", "blocks", _, "layers", _):
            return "op", None
        case ("model", "layers", _, key) | ("model", "blocks", _, "layers", _, key) if (
            key in INIT_KEYS
        ):
            return "name", None
        case ("train", "optimizer"):
            return "name", DEFAULT_OPTIMIZER.name
        case ("train", "schedule"):
            return "name", DEFAULT_SCHEDULE.name
        case _:
            return None, None


def sort_overrides(overrides: Sequence[str]) -> list[str]:
    """Sorts overrides so that an optimizer comes before its options, whatever their order.

    The same holds for layers and schedules. Otherwise, the choice of another kind would
    silently drop options given before it.

    >>> sort_overrides(["train.epochs=2", "train.optimizer.b1=0.5", "train.optimizer=adam"])
    ['train.epochs=2', 'train.optimizer=adam', 'train.optimizer.b1=0.5']
    """
    kinds = {i: at for i, text in enumerate(overrides) if (at := _selected_union(text))}
    order = list(range(len(overrides)))
    for i, at in kinds.items():
        options = (j for j in order if j not in kinds and _path(overrides[j])[: len(at)] == at)
        first = next(options, i)
        if order.index(first) < order.index(i):
            order.remove(i)
            order.insert(order.index(first), i)
    return [overrides[i] for i in order]


def _selected_union(text: str) -> KeyPath | None:
    """Path of the union whose member an override selects, such as `train.optimizer=adam`."""
    *at, last = path = _path(text)
    if path[:1] == ("dataset",) and len(path) == 2 and last in SOURCES:
        return ("dataset",)
    if last in ("op", "name") and _tag_key(tuple(at))[0] == last:
        return tuple(at)
    word = text.partition("=")[2].strip()
    is_word = _tag_key(path)[0] == "name" and word.isidentifier() and word not in _NULLS
    return path if is_word else None


def override(document: Document, text: str, names_in: NamesIn) -> Document:
    """Parses one ``key=value`` override from the command line.

    Args:
      document: the files merged with earlier overrides.
      text: a dotted path and a YAML value, as in ``train.epochs=5``; a layer is
        addressed by its name, as in ``model.conv1.kernel=7``.
      names_in: names of all layers of a document; those in blocks contain dots.

    Returns:
      The document to merge; for an invalid override, only its problems.
    """
    nothing = Document({}, {}, {}, text=document.text)
    try:
        upper = _parsed(text, document, names_in)
    except SpecError as error:
        return replace(nothing, problems=error.problems)
    if _unsets_nothing(upper.data, document.data, Experiment):
        return nothing
    return replace(upper, text=document.text)


def _unsets_nothing(upper: Any, lower: Any, model: Any) -> bool:
    """Returns True if an override unsets a valid key that the files do not set."""
    if not isinstance(upper, dict) or not isinstance(lower, dict):
        return upper is None and lower is None
    if len(upper) != 1:
        return False
    ((key, value),) = upper.items()
    members = [member for member in (model, *get_args(model)) if hasattr(member, "model_fields")]
    fields = [member.model_fields[key] for member in members if key in member.model_fields]
    inner = lower.get(key, {} if isinstance(value, dict) else None)
    return any(_unsets_nothing(value, inner, field.annotation) for field in fields)


def _parsed(text: str, lower: Document, names_in: NamesIn) -> Document:
    key, equals, value_text = text.partition("=")
    at = _path(text)
    if not equals or not all(at) or len(at) > MAX_DEPTH or not key.isprintable():
        raise _refused("", f"{quoted(text)} is not an override", "use key=value")
    if at[0] == "extends":
        raise _refused(key, "cannot be overridden", "set it in a file")
    adds = len(at) == 3 and value_text.strip() not in _NULLS
    if at[:2] == ("model", "layers") and len(at) > 2 and not adds:
        names = names_in(lower)
        at = _with_layer_name(at, names)
        _check_layer(key, at, names, lower.data)
    value = _parse_value(key, value_text)
    if adds and at[:2] == ("model", "layers") and not isinstance(value.data, Mapping):
        _check_macro(key, at, names_in(lower), lower.data)
    if value.data is None and value_text.strip() not in _NULLS:  # empty, or a comment
        raise _refused(key, "the value is missing", f"use {key}=VALUE, or {key}=null to unset it")
    if end := _end_of_list(at, lower.data):
        return _with_item(at, end, value, lower)
    places = _on_command_line(at, value)
    new = (at[:end] for end in range(1, len(at)) if at[:end] not in lower.values)
    places |= dict.fromkeys(new, Location(COMMAND_LINE))  # sections that are in no file
    return Document(_nested(at, value.data), places, places, value.problems)


def _on_command_line(at: KeyPath, value: Document) -> dict[KeyPath, Location]:
    found = value.values.items()
    return {(*at, *inner): Location(COMMAND_LINE, text=place.text) for inner, place in found}


def _nested(at: Sequence[str], value: Any) -> Any:
    for part in reversed(at):
        value = {part: value}
    return value


def _end_of_list(at: Sequence[str], data: Any) -> int | None:
    """Number of parts of a path up to the list of which an override changes an item, if any.

    Raises:
      SpecError: the path has the number of an item, but there is no list.
    """
    for end, part in enumerate(at):
        if isinstance(data, list):
            return end
        if part.isdecimal() and at[0] != "model" and not isinstance(data, Mapping):
            name = ".".join(at[:end])
            message = f"{name} is not {'set, so it has no items' if data is None else 'a list'}"
            raise _refused(f"{name}.{part}", message, f"use {name}=VALUE")
        data = data.get(part) if isinstance(data, Mapping) else None
    return None


def _with_item(at: tuple[str, ...], end: int, value: Document, lower: Document) -> Document:
    """The override of a whole list, of which an item or a part of an item is new."""
    items = reduce(lambda data, part: data[part], at[:end], lower.data)
    changed, path = _changed(items, at, end, value.data)

    def places(old: Mapping[KeyPath, Location]) -> dict[KeyPath, Location]:
        kept = {p: place for p, place in old.items() if p[:end] == at[:end]}
        return {p: place for p, place in kept.items() if p[: len(path)] != path}

    new, data = _on_command_line(path, value), _nested(at[:end], changed)
    return Document(data, places(lower.values) | new, places(lower.keys) | new, value.problems)


def _changed(data: Any, at: tuple[str, ...], end: int, value: Any) -> tuple[Any, KeyPath]:
    """Replaces a part of a list or mapping; numbers of items become integers in the path.

    >>> _changed([{"a": 1}, {"a": 2}], ("list", "1", "a"), 1, 3)
    ([{'a': 1}, {'a': 3}], ('list', 1, 'a'))
    """
    if end == len(at):
        return value, at
    key = at[end]
    if not isinstance(data, list):
        known = data if isinstance(data, Mapping) else {}
        if value is None and end == len(at) - 1:
            return {k: v for k, v in known.items() if k != key}, at
        inner, path = _changed(known.get(key), at, end + 1, value)
        return {**known, key: inner}, path
    if not key.isdecimal() or int(key) >= len(data):
        name, last = ".".join(at[:end]), len(data) - 1
        remedy = f"use {name}.0" + (f" to {name}.{last}" if last > 0 else "")
        raise _refused(
            f"{name}.{key}",
            f"{name} has no item {quoted(key)}",
            remedy if data else f"use {name}=VALUE",
        )
    i = int(key)
    inner, path = _changed(data[i], at, end + 1, value)
    return [*data[:i], inner, *data[i + 1 :]], (*path[:end], i, *path[end + 1 :])


def _path(text: str) -> tuple[str, ...]:
    """Path of the value of an override; layer names are looked up in `model.layers`."""
    first, *others = text.partition("=")[0].split(".")
    if first == "model" and others and others[0] not in _MODEL_KEYS:
        others.insert(0, "layers")
    return (first, *others)


def _with_layer_name(at: tuple[str, ...], names: Sequence[str]) -> tuple[str, ...]:
    """Joins the parts of a path that are the name of a layer, such as `stage2.0.a`.

    >>> _with_layer_name(("model", "layers", "stage2", "0", "a", "stride"), ["stage2.0.a"])
    ('model', 'layers', 'stage2.0.a', 'stride')
    """
    known = set(names)
    for end in range(len(at), 2, -1):
        if (name := ".".join(at[2:end])) in known:
            found = (*at[:2], name, *at[end:])
            # Options are words; a number is a repetition, which the call does not have.
            return found if not at[end:] or not at[end].isdecimal() else _whole_name(at)
    return _whole_name(at) if any(part.isdecimal() for part in at[3:]) else at


def _whole_name(at: tuple[str, ...]) -> tuple[str, ...]:
    end = len(at) if at[-1].isdecimal() else len(at) - 1  # a repetition, or the option of a layer
    return (*at[:2], ".".join(at[2:end]), *at[end:])


def _parse_value(key: str, text: str) -> Document:
    """Parses a value; problems are located by its key instead of a line."""
    try:
        value = parse_document(text.encode(), COMMAND_LINE)
    except UnicodeEncodeError:
        raise _refused(key, "is not UTF-8 text", "encode it in UTF-8") from None
    except SpecError as error:
        raise SpecError(_moved(problem, key) for problem in error.problems) from None
    return replace(value, problems=tuple(_moved(problem, key) for problem in value.problems))


def _moved(problem: Diagnostic, key: str) -> Diagnostic:
    where = ".".join(part for part in (key, problem.where) if part)
    return replace(problem, location=Location(COMMAND_LINE), where=where)


def _refused(key: str, message: str, remedy: str) -> SpecError:
    return SpecError([Diagnostic(Location(COMMAND_LINE), key, message, remedy)])


def _check_layer(key: str, at: tuple[str, ...], names: Sequence[str], data: Any) -> None:
    """Raises SpecError if an override changes or removes a layer that does not exist."""
    if at[2] in names:
        return
    _check_macro(key, at, names, data)
    message = f"unknown layer {quoted(at[2])}{did_you_mean(at[2], names)}"
    remedy = f"use {or_list(names)}" if names else "remove it (the model has no layers)"
    if len(names) > MAX_LISTED:
        remedy = f"use the name of a layer; {cnnbench('show', '--expand')} lists them"
    raise _refused(key, message, remedy)


def _check_macro(key: str, at: tuple[str, ...], names: Sequence[str], data: Any) -> None:
    """Raises SpecError if the layer of an override is the name of a parameter or block."""
    model = data.get("model") if isinstance(data, Mapping) else None
    for section, noun in (("params", "parameter"), ("blocks", "block")):
        own = model.get(section) if isinstance(model, Mapping) else None
        if isinstance(own, Mapping) and at[2] in own and at[2] not in names:
            rest = ["layers", *at[3:]] if section == "blocks" and at[3:] else at[3:]
            remedy = f"use {'.'.join(['model', section, at[2], *rest])}"
            raise _refused(key, f"{quoted(at[2])} is a {noun}, not a layer", remedy)


class Causes:
    """Finds the causes of issues in a stack of documents.

    Args:
      layers: the documents, in merge order.
      check: finds the issues of the merged document.
      origin: the path in the merged document of the path of an issue, which may be that of a
        layer in a block.
      work: number of values that a check validates.
    """

    def __init__(
        self,
        layers: Sequence[Document],
        check: FindIssues,
        origin: Callable[[KeyPath], KeyPath] = lambda at: at,
        work: int = 0,
    ) -> None:
        self._layers, self._check, self._origin, self._work = layers, check, origin, work
        self._whole = reduce(merge, layers)
        self._found: dict[tuple[int, frozenset[KeyPath]], frozenset[KeyPath]] = {}
        self._left = MAX_WORK

    def of(self, issue: Issue, known: Collection[KeyPath]) -> tuple[int, KeyPath] | None:
        """The change in a later document that causes an issue in an earlier one.

        Takes the last document whose removal resolves the issue, and from a minimal set of its
        changes whose removal resolves it the first one (Zeller & Hildebrandt 2002).

        Args:
          issue: an issue in one of the documents.
          known: paths of all issues.

        Returns:
          The index of the later document and the path of its change; None if no later document
          causes the issue, or if the search would take too long.
        """
        owner = self._owner(issue.at)
        for number in range(len(self._layers) - 1, owner, -1):
            lower = reduce(merge, self._layers[:number])
            found = list(changed_paths(lower.data, self._layers[number].data))
            found = [change for change in found if change[0] not in NOT_INHERITED]
            for change in found:
                if self._resolves(number, [change], issue.at, known):
                    return number, change
            if found and self._resolves(number, found, issue.at, known):
                return number, self._fewest(number, found, issue.at, known)[0]
        return None

    def _fewest(
        self, number: int, left: list[KeyPath], at: KeyPath, known: Collection[KeyPath]
    ) -> list[KeyPath]:
        for change in list(left):
            fewer = [other for other in left if other != change]
            if fewer and self._resolves(number, fewer, at, known):
                left = fewer
        return left

    def _owner(self, at: KeyPath) -> int:
        """Index of the last document that sets the value at a path, or its nearest parent."""
        at = self._origin(at)
        while at and at not in self._whole.values:
            at = at[:-1]
        place = self._whole.values.get(at)
        numbers = (i for i, layer in enumerate(self._layers) if layer.values.get(at) == place)
        return max(numbers, default=len(self._layers))

    def _resolves(
        self, number: int, removed: Collection[KeyPath], at: KeyPath, known: Collection[KeyPath]
    ) -> bool:
        """Returns True if removing some changes resolves an issue without causing others."""
        issues = self._without(number, frozenset(removed))
        return issues is not None and at not in issues and issues <= frozenset(known)

    def _without(self, number: int, removed: frozenset[KeyPath]) -> frozenset[KeyPath] | None:
        if (number, removed) not in self._found:
            self._left -= max(len(self._whole.values), self._work) + 1
            if self._left < 0:
                return None
            layers = list(self._layers)
            kept = without(layers[number].data, removed)
            layers[number] = replace(layers[number], data=kept)
            self._found[number, removed] = frozenset(self._check(reduce(merge, layers)))
        return self._found[number, removed]


def changed_paths(lower: Any, upper: Any, at: KeyPath = ()) -> Iterator[KeyPath]:
    """Paths of the largest parts of a document that replace or add values in the lower one.

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
    """Removes the values at some paths from plain data.

    >>> without({"a": {"b": 1, "c": 2}}, {("a", "b")})
    {'a': {'c': 2}}
    """
    return {
        key: without(value, gone, (*at, key)) if isinstance(value, Mapping) else value
        for key, value in data.items()
        if (*at, key) not in gone
    }
