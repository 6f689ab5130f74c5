"""Which line of a later file makes an earlier one wrong, found by leaving lines out again."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from typing import Any

from cnnbench.errors import Flaw
from cnnbench.spec.document import Document, KeyPath
from cnnbench.spec.inheritance import NOT_INHERITED, lay_over, replaces

MAX_WORK = 20_000  # values that are checked again, in all; a second where they are layers

Check = Callable[[Document], Collection[KeyPath]]  # a document to the paths of its flaws


class Causes:
    """Looks for what leads to flaws in a stack of documents.

    Args:
      layers: the documents, each laid over those before it.
      check: finds the flaws of what comes of them.
    """

    def __init__(self, layers: Sequence[Document], check: Check) -> None:
        self._layers, self._check = layers, check
        self._whole = reduce(lay_over, layers)
        self._found: dict[tuple[int, frozenset[KeyPath]], frozenset[KeyPath]] = {}
        self._left = MAX_WORK

    def of(self, flaw: Flaw, known: Collection[KeyPath]) -> tuple[int, KeyPath] | None:
        """The change that leads to a flaw in what an earlier document says.

        Of the last document without which the flaw would not be there, the first of the fewest
        changes without which it would not be there either (Zeller & Hildebrandt 2002).

        Args:
          flaw: stands in one of the documents.
          known: the paths of all flaws.

        Returns:
          The number of the later document and the path of its change; None where the flaw does
          not follow from one, or where that would take long to say.
        """
        owner = self._owner(flaw.at)
        for number in range(len(self._layers) - 1, owner, -1):
            lower = reduce(lay_over, self._layers[:number])
            found = list(changes(lower.data, self._layers[number].data))
            found = [change for change in found if change[0] not in NOT_INHERITED]
            for change in found:
                if self._heals(number, [change], flaw.at, known):
                    return number, change
            if found and self._heals(number, found, flaw.at, known):
                return number, self._fewest(number, found, flaw.at, known)[0]
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
        """Tests whether a flaw is gone without some changes, and no other appears."""
        flaws = self._without(number, frozenset(left_out))
        return flaws is not None and at not in flaws and flaws <= frozenset(known)

    def _without(self, number: int, left_out: frozenset[KeyPath]) -> frozenset[KeyPath] | None:
        if (number, left_out) not in self._found:
            self._left -= len(self._whole.values) + 1
            if self._left < 0:
                return None
            layers = list(self._layers)
            kept = without(layers[number].data, left_out)
            layers[number] = replace(layers[number], data=kept)
            self._found[number, left_out] = frozenset(self._check(reduce(lay_over, layers)))
        return self._found[number, left_out]


def changes(lower: Any, upper: Any, at: KeyPath = ()) -> Iterator[KeyPath]:
    """The largest parts of a document that replace or add something in the one below.

    >>> list(changes({"a": 1, "b": {"c": 1}}, {"b": {"c": 2, "d": 3}, "e": {"f": 1}}))
    [('b', 'c'), ('b', 'd'), ('e',)]
    """
    if at and replaces(lower, upper, at):
        yield at
        return
    for key, value in upper.items():
        if isinstance(lower, Mapping) and key in lower:
            yield from changes(lower[key], value, (*at, key))
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
