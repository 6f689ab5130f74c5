"""Layered layout: properties that every drawing has, and small graphs by hand."""

from collections.abc import Sequence
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnbench.report.plots.layered import GAP, Edge, Layout, NodeSize, layout, ranked

BOX = NodeSize(2.0, 0.5)


def graph(text: str) -> tuple[dict[str, NodeSize], list[Edge]]:
    """A graph from words such as `ab`, an edge from a to b."""
    edges = [Edge(word[0], word[1]) for word in text.split()]
    names = sorted({name for edge in edges for name in edge[:2]})
    return dict.fromkeys(names, BOX), edges


def centers(found: Layout) -> dict[str, float]:
    return {name: left + BOX.width / 2 for name, (left, _) in found.corners.items()}


def test_ranks_are_the_longest_ways() -> None:
    sizes, edges = graph("ab bc cd ad ae ed")
    assert ranked("abced", edges) == {"a": 0, "b": 1, "c": 2, "e": 1, "d": 3}
    assert set(sizes) == set("abcde")


def test_a_chain_is_a_straight_line_down() -> None:
    found = layout(*graph("ab bc"))
    assert set(centers(found).values()) == {1.0}
    assert [top for _, top in found.corners.values()] == pytest.approx([0, 0.5 + GAP, 1 + 2 * GAP])
    assert (found.width, found.height) == pytest.approx((2.0, 1.5 + 2 * GAP))
    assert found.routes[0].points == ((1.0, 0.5), (1.0, 0.5 + GAP))


def test_a_skip_runs_beside_the_chain_and_has_an_arrowhead_of_its_own() -> None:
    found = layout(*graph("ab bc cd ad"))
    assert set(centers(found).values()) == {1.0}
    *chain, skip = found.routes
    assert all({x for x, _ in route.points} == {1.0} for route in chain)
    assert max(x for x, _ in skip.points) > BOX.width
    assert skip.points[-1][0] > chain[-1].points[-1][0] + 0.1
    assert skip.points[-1][1] == chain[-1].points[-1][1]


def test_branches_are_symmetric() -> None:
    found = layout(*graph("ab ac ad ae bf cf df ef"))
    middle = centers(found)
    assert middle["a"] == middle["f"] == pytest.approx(found.width / 2)
    assert np.diff([middle[name] for name in "bcde"]) == pytest.approx([2.3] * 3)
    ends = [route.points[-1][0] for route in found.routes[4:]]
    assert ends == sorted(ends)
    assert np.mean(ends) == pytest.approx(middle["f"])


def test_branches_of_different_lengths_are_symmetric() -> None:
    """Two inception blocks: the first branch of each is shorter than the three others."""
    found = layout(*graph("ab ac ad ae cg dh ei bj gj hj ij jk jl jm jn lo mp nq kr or pr qr"))
    middle = centers(found)
    assert [middle[name] for name in "ajr"] == pytest.approx([found.width / 2] * 3)
    assert found.width == pytest.approx(4 * BOX.width + 3 * 0.3)


def test_crossings_that_can_be_avoided_are() -> None:
    found = layout(*graph("ad ae bc bd ce"))  # as written, with c before d, lines would cross
    gaps: dict[float, list[tuple[float, float]]] = {}
    for (x0, y0), (x1, _) in (pair for route in found.routes for pair in pairwise(route.points)):
        gaps.setdefault(y0, []).append((x0, x1))
    for lines in gaps.values():  # whatever starts further left ends further left
        ends = [end for _, end in sorted(lines)]
        assert ends == sorted(ends)
    left = centers(found)
    assert (left["a"] < left["b"]) == (left["d"] < left["c"])


def test_lines_of_one_source_share_a_lane_and_others_do_not() -> None:
    found = layout(*graph("ab bc cd de ac ad ae bd be"))
    lanes: dict[str, set[float]] = {"a": set(), "b": set()}
    for route in found.routes:
        if len(route.points) > 2:
            lanes[route.edge.source] |= {x for x, _ in route.points[1:-1]}
    (of_a,), (of_b,) = lanes["a"], lanes["b"]
    assert of_a != of_b


def test_a_graph_without_edges() -> None:
    found = layout({"a": BOX}, [])
    assert (found.width, found.height, found.routes) == (2.0, 0.5, ())


def test_edges_enter_and_leave_where_a_node_says() -> None:
    frame = NodeSize(3.0, 1.0, enters=0.5, leaves=2.5)
    found = layout({"a": BOX, "b": frame, "c": BOX}, [Edge("a", "b"), Edge("b", "c")])
    left = found.corners["b"][0]
    assert [route.points for route in found.routes] == [
        ((left + 0.5, 0.5), (left + 0.5, 0.5 + GAP)),
        ((left + 2.5, 1.5 + GAP), (left + 2.5, 1.5 + 2 * GAP)),
    ]


@st.composite
def graphs(draw: st.DrawFn) -> tuple[dict[str, NodeSize], list[Edge]]:
    """Nodes of many sizes, each of which reads any of those before it, some twice."""
    names = "abcdefghijkl"[: draw(st.integers(2, 12))]
    sides = st.sampled_from([0.5, 1.0, 2.5])
    sizes = {name: NodeSize(draw(sides), draw(sides)) for name in names}
    edges = []
    for at, name in enumerate(names[1:], 1):
        for source in draw(st.lists(st.sampled_from(names[:at]), min_size=1, max_size=4)):
            edges.append(Edge(source, name, draw(st.sampled_from(["", "", "", "tie"]))))
    return sizes, edges


def overlap(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether rectangles (left, top, right, bottom) have more than an edge in common."""
    return all(one[i] < other[i + 2] - 1e-6 and other[i] < one[i + 2] - 1e-6 for i in (0, 1))


@settings(max_examples=40)
@given(graphs())
def test_what_every_layout_has(drawn: tuple[dict[str, NodeSize], list[Edge]]) -> None:
    sizes, edges = drawn
    found = layout(sizes, edges)
    boxes = {
        name: (left, top, left + sizes[name].width, top + sizes[name].height)
        for name, (left, top) in found.corners.items()
    }
    assert not any(overlap(one, other) for one, other in combinations(boxes.values(), 2))
    tips = [route.points[-1] for route in found.routes]
    assert len(set(tips)) == len(tips)
    assert [route.edge for route in found.routes] == edges
    for route in found.routes:
        source, target = boxes[route.edge.source], boxes[route.edge.target]
        (x, y), (tip_x, tip_y) = route.points[0], route.points[-1]
        assert source[0] <= x <= source[2]
        assert y == pytest.approx(source[3])
        assert target[0] <= tip_x <= target[2]
        assert tip_y == pytest.approx(target[1])
        for (x0, y0), (x1, y1) in zip(route.points, route.points[1:], strict=False):
            assert y0 < y1
            around = (min(x0, x1), y0, max(x0, x1) + 1e-3, y1)  # a curve stays in its rectangle
            assert not any(overlap(around, box) for box in boxes.values())
    assert layout(sizes, edges) == found
