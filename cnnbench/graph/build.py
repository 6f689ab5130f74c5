"""Which layer reads which: inputs by name, the order of the layers, cycles."""

import heapq
from collections.abc import Iterable, Mapping

from cnnbench.errors import Flaw, Noun, listing, shown
from cnnbench.layers import Conv, ConvTranspose, LayerOp
from cnnbench.layers.base import INPUT

Wiring = Mapping[str, tuple[str, ...]]
MAX_HINTS = 20  # looking for similar names among thousands of layers takes seconds
_IMAGE = Noun({"input": ("image", "images", "img", "inputs", "InputLayer")})


def resolve_inputs(
    layers: Mapping[str, LayerOp | None], known: Wiring
) -> tuple[dict[str, tuple[str, ...]], list[Flaw]]:
    """Inputs by layer; unknown names are reported and left out.

    Args:
      layers: operations by name in file order; None for a wrong layer.
      known: inputs of the wrong layers, as far as they can be read.
    """
    wiring: dict[str, tuple[str, ...]] = {}
    unknown: list[tuple[str, int, str]] = []
    previous = INPUT
    for name, op in layers.items():
        wanted = known.get(name) if op is None else op.inputs
        found = []
        for i, source in enumerate(wanted or (previous,)):
            if source == INPUT or source in layers:
                found.append(source)
                continue
            unknown.append((name, i, source))
        wiring[name] = tuple(found)
        previous = name
    readers = _readers(wiring)
    return wiring, [_unknown_input(*each, readers, n) for n, each in enumerate(unknown)]


def _unknown_input(name: str, i: int, source: str, readers: Wiring, number: int) -> Flaw:
    """Suggests neither the layer itself nor one that reads it, on its way to the output."""
    later = _downstream(name, readers) if number < MAX_HINTS else {name}
    choices = [INPUT, *(other for other in readers if other not in later)]
    hint = _IMAGE.hint(source, choices) if number < MAX_HINTS else ""
    message = f"there is no layer {shown(source)}{hint}"
    return Flaw(("model", "layers", name, "inputs", i), message, name_one(choices))


def _readers(wiring: Wiring) -> dict[str, tuple[str, ...]]:
    """The layers that read each."""
    readers: dict[str, list[str]] = {name: [] for name in wiring}
    for name, sources in wiring.items():
        for source in dict.fromkeys(sources):
            if source != INPUT:
                readers[source].append(name)
    return {name: tuple(found) for name, found in readers.items()}


def _downstream(name: str, readers: Wiring) -> set[str]:
    """A layer, those that read it, those that read them, and so on."""
    found, waiting = {name}, [name]
    while waiting:
        new = set(readers[waiting.pop()]) - found
        found |= new
        waiting += new
    return found


def with_ties(wiring: Wiring, layers: Mapping[str, LayerOp | None]) -> Wiring:
    """A tied layer comes after its owner, whose shapes it needs."""
    ties = {name: tie_of(op) or "" for name, op in layers.items()}
    return {
        name: (*sources, ties[name]) if isinstance(layers.get(ties[name]), Conv) else sources
        for name, sources in wiring.items()
    }


def file_order(wiring: Wiring) -> tuple[list[str], list[Flaw]]:
    """Layers after those they read, else in file order (Kahn 1962).

    >>> file_order({"b": ("a",), "a": ("input",), "c": ("a",)})
    (['a', 'b', 'c'], [])
    """
    position = {name: i for i, name in enumerate(wiring)}
    waiting = {name: {s for s in sources if s != INPUT} for name, sources in wiring.items()}
    readers = _readers(wiring)
    ready = [position[name] for name, sources in waiting.items() if not sources]
    names, order = list(wiring), []
    while ready:
        name = names[heapq.heappop(ready)]
        order.append(name)
        for reader in readers[name]:
            waiting[reader].discard(name)
            if not waiting[reader]:
                heapq.heappush(ready, position[reader])
    if len(order) == len(wiring):
        return order, []
    stuck = wiring.keys() - set(order)
    return order, _cycle_flaws(
        {n: [s for s in wiring[n] if s in stuck] for n in names if n in stuck}
    )


def _cycle_flaws(stuck: Mapping[str, list[str]]) -> list[Flaw]:
    """Walks upstream from each layer until a walk meets itself; each cycle is told once."""
    seen: set[str] = set()
    flaws = []
    for name in stuck:
        walk: dict[str, None] = {}
        while name not in seen:
            seen.add(name)
            walk[name] = None
            name = stuck[name][0]  # noqa: PLW2901
        if name in walk:
            cycle = list(walk)
            flaws.append(_cycle_flaw(cycle[cycle.index(name) :], list(stuck)))
    return flaws


def _cycle_flaw(cycle: list[str], file_order: list[str]) -> Flaw:
    start = cycle.index(min(cycle, key=file_order.index))
    first, *others = cycle[start:] + cycle[:start]
    at = ("model", "layers", first, "inputs")
    if not others:
        return Flaw(at, "the layer reads itself", "name another layer")
    path = " reads ".join([first, *others, first])
    remedy = (
        "let one of them read an earlier layer; without inputs, a layer reads the one before it"
    )
    return Flaw(at, f"the layers form a cycle ({path})", f"{remedy}, and new ones come last")


def tie_of(op: LayerOp | None) -> str | None:
    """Name of the layer that an operation shares a kernel with."""
    return op.tie if isinstance(op, ConvTranspose) else None


def name_one(names: Iterable[str]) -> str:
    """What to write where a layer's name is expected."""
    shortened = list(names)
    if len(shortened) > 8:
        return "name a layer of this file"
    return f"name {listing(shortened)}" if shortened else "add layers"
