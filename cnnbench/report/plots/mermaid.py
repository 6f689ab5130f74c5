"""Diagrams as Mermaid text, for a README or a notebook."""

from collections.abc import Iterator, Mapping, Sequence

from cnnbench.formatting import clean
from cnnbench.report.plots.blocks import ENTRY, Block, Cell, Diagram, DiagramNode, Repeat
from cnnbench.report.plots.diagram import STYLES


def mermaid(drawings: Sequence[tuple[str, Diagram]]) -> str:
    """Diagrams as a Mermaid code block.

    Args:
      drawings: titles and diagrams; each of several gets a frame with its title.
    """
    lines = ["```mermaid", "flowchart TD"]
    for number, (title, drawn) in enumerate(drawings):
        body = list(_flow(drawn, f"n{number}x" if number else "n"))
        if len(drawings) > 1:
            body = [f'  subgraph g{number}["{_entities(title)}"]', *body, "  end"]
        lines += body
    used = {block.mark for _, drawn in drawings for block in drawn.blocks}
    lines += [
        f"  classDef {style.name} stroke:{style.color},stroke-width:2px{style.dashes}"
        for mark, style in STYLES.items()
        if mark in used
    ]
    return "\n".join([*lines, "```", ""])


def _flow(drawn: Diagram, prefix: str) -> Iterator[str]:
    ids = {block.name: f"{prefix}{number}" for number, block in enumerate(drawn.blocks)}
    yield from _nodes(drawn.nodes, ids, "  ")
    yield from (f"  {ids[one]} --> {ids[other]}" for one, other in _edges(drawn.nodes, "", {}))
    yield from (f"  {ids[one]} -. same kernel .- {ids[other]}" for one, other in drawn.ties)


def _nodes(nodes: Sequence[DiagramNode], ids: Mapping[str, str], indent: str) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, Block):
            style = f":::{STYLES[node.mark].name}" if node.mark else ""
            yield f'{indent}{ids[node.name]}["{_words(node)}"]{style}'
        else:
            first = next(iter(Diagram(node.body).blocks))
            depth = len(indent) // 2  # blocks inside of this one may begin with the same box
            frame = f"{ids[first.name]}{'r' * depth}"
            yield f'{indent}subgraph {frame}["x {node.count}"]'
            yield from _nodes(node.body, ids, f"{indent}  ")
            yield f"{indent}end"


def _words(block: Block) -> str:
    """Text of a box: three lines for a single layer, else a line per layer and the shape."""
    mark = f"{_entities(block.mark)} " if block.mark else ""
    if len(block.cells) == 1:
        (cell,) = block.cells
        words = [f"{mark}<b>{cell.name}</b>", cell.operation, cell.shape]
    else:
        words = [f"{mark}{_line(cell)}" for cell in block.cells] + [block.cells[-1].shape]
    return "<br>".join(filter(None, words))


def _line(cell: Cell) -> str:
    return f"<b>{cell.name}</b> {cell.operation}"


def _edges(
    nodes: Sequence[DiagramNode], entry: str, exits: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """Yields edges between boxes, including those into and out of repeated blocks.

    Args:
      nodes: of the diagram or of a repeated block.
      entry: the input of the repeated block.
      exits: the box whose output is that of a repeated block, by its name.
    """
    exits = dict(exits)
    for node in nodes:
        sources = [entry if name == ENTRY else exits.get(name, name) for name in node.inputs]
        if isinstance(node, Repeat):
            yield from _edges(node.body, sources[0], exits)
            exits[node.name] = _exit(node)
        else:
            yield from ((source, node.name) for source in sources)


def _exit(repeat: Repeat) -> str:
    """Name of the box whose output is that of a repeated block."""
    inner = next(node for node in repeat.body if node.name == repeat.exit)
    return _exit(inner) if isinstance(inner, Repeat) else inner.name


def _entities(text: str) -> str:
    """Text for a label: characters that may be Mermaid syntax become entities."""
    return "".join(c if c.isalnum() or c in " .,-" else f"#{ord(c)};" for c in clean(text))
