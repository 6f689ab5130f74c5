"""Folding: which layers share a box, which blocks are drawn once, and which are not."""

from collections.abc import Sequence

import pytest

from cnnbench.report.plots.blocks import (
    ENTRY,
    Block,
    Cell,
    DiagramNode,
    Repeat,
    build_diagram,
    folded,
)


def cells(text: str) -> list[Cell]:
    """Layers from words such as `b:conv<a`; kinds in lower case share the box of their input."""
    made = []
    for word in text.split():
        head, _, inputs = word.partition("<")
        name, _, kind = head.partition(":")
        kind, _, mark = kind.partition("!")
        read = tuple(inputs.split(",")) if inputs else ()
        stacks = kind in {"relu", "norm"}
        made.append(Cell(name, read, kind, "8x8", mark=mark, identity=kind, stacks=stacks))
    return made


def outline(nodes: Sequence[DiagramNode]) -> list[object]:
    """Names of the layers in each box; repeated blocks as (repetitions, outline)."""
    return [
        "+".join(cell.name for cell in node.cells)
        if isinstance(node, Block)
        else (node.count, outline(node.body))
        for node in nodes
    ]


def drawn(text: str, *, expand: bool = False) -> list[object]:
    return outline(build_diagram(cells(text), expand=expand).nodes)


def test_elementwise_layers_share_the_box_of_what_they_alone_read() -> None:
    assert drawn("i: a:conv<i n:norm<a r:relu<n b:conv<r") == ["i", "a+n+r", "b"]
    assert drawn("i: r:relu<i") == ["i", "r"], "the input has a box of its own"
    assert drawn("i: a:conv<i r:relu<a b:conv<a c:add<r,b") == ["i", "a", "r", "b", "c"]
    assert drawn("i: a:conv<i r:relu!~<a") == ["i", "a", "r"], "another mark, another border"
    assert drawn("i: a:conv<i b:conv<i r:relu<a c:add<r,b") == ["i", "a+r", "b", "c"]


CHAIN = "i: a:conv<i b:pool<a c:conv<b d:pool<c e:conv<d f:pool<e g:dense<f"


def test_equal_blocks_are_drawn_once() -> None:
    assert drawn(CHAIN) == ["i", (3, ["a", "b"]), "g"]
    assert drawn(CHAIN, expand=True) == list("iabcdefg")


def test_a_repeated_block_reads_what_its_first_did_and_is_read_where_its_last_was() -> None:
    _, repeat, last = build_diagram(cells(CHAIN)).nodes
    assert isinstance(repeat, Repeat)
    assert (repeat.name, repeat.inputs, repeat.exit) == ("f", ("i",), "b")
    assert repeat.body[0].inputs == (ENTRY,)
    assert last.inputs == ("f",)


def test_single_layers_are_folded_from_three_on() -> None:
    assert drawn("i: a:conv<i b:conv<a c:dense<b") == ["i", "a", "b", "c"]
    assert drawn("i: a:conv<i b:conv<a c:conv<b d:dense<c") == ["i", (3, ["a"]), "d"]


RESIDUAL = "i: a:conv<i b:conv<a s:add<b,i c:conv<s d:conv<c t:add<d,s e:conv<t f:conv<e u:add<f,t"


def test_a_skip_is_part_of_its_block() -> None:
    assert drawn(f"{RESIDUAL} g:dense<u") == ["i", (3, ["a", "b", "s"]), "g"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # The second block reads its branches in the other order.
        ("i: a:conv<i b:pool<i c:cat<a,b d:conv<c e:pool<c f:cat<e,d", "iabcdef"),
        # A layer in the middle is read further down.
        ("i: a:conv<i b:pool<a c:conv<b d:pool<c e:cat<d,a", "iabcde"),
        # A block reads further up than the one before it.
        ("i: a:conv<i b:add<a,i c:conv<b d:add<c,i", "iabcd"),
        # Another mark.
        ("i: a:conv<i b:pool<a c:conv!~<b d:pool<c", "iabcd"),
        # The end of a block is not what the next one reads.
        ("i: a:conv<i b:pool<a x:dense<a c:conv<b d:pool<c y:dense<c z:cat<x,y,d", "iabxcdyz"),
    ],
)
def test_blocks_that_are_not_equal_are_all_drawn(text: str, expected: str) -> None:
    assert drawn(text) == list(expected)


def test_marked_blocks_are_folded_with_their_like() -> None:
    text = "i: a:conv<i b:pool<a c:conv<b d:pool<c e:conv!+<d f:pool!+<e g:conv!+<f h:pool!+<g"
    assert drawn(text) == ["i", (2, ["a", "b"]), (2, ["e", "f"])]


def test_blocks_inside_of_repeated_blocks_are_folded_too() -> None:
    inner = " ".join(f"{n}{i}:conv<{n}{i - 1}" for n in "ab" for i in (1, 2, 3))
    text = inner.replace("a1:conv<a0", "a1:conv<i").replace("b1:conv<b0", "p:pool<a3 b1:conv<p")
    assert drawn(f"i: {text} q:pool<b3") == ["i", (2, [(3, ["a1"]), "p"])]


def test_folding_keeps_every_layer_once() -> None:
    diagram = build_diagram(cells(f"{RESIDUAL} g:dense<u"))
    total = sum(_num_layers(node) for node in diagram.nodes)
    assert total == len(cells(f"{RESIDUAL} g:dense<u"))


def _num_layers(node: DiagramNode) -> int:
    if isinstance(node, Block):
        return len(node.cells)
    return node.count * sum(map(_num_layers, node.body))


def test_nothing_is_folded_where_nothing_repeats() -> None:
    assert folded([]) == []
    assert drawn("i: a:conv<i b:pool<a c:dense<b") == ["i", "a", "b", "c"]
