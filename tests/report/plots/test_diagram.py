"""Drawings of architectures: where blocks stand, Mermaid's text, pictures, and the option."""

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from cnnbench.cli.app import app
from cnnbench.graph.plan import Plan
from cnnbench.report.plots.diagram import BOX, center, diagram, diagram_picture, mermaid, routes
from cnnbench.spec.diff import marked
from cnnbench.spec.loader import load_experiment
from tests.support.oracles import make_plan
from tests.support.paths import EXPERIMENTS

ALPHABET = "abcdefghij"
Layers = Mapping[str, Mapping[str, Any]]
TIED: Layers = {
    "conv": {"op": "conv", "filters": 2, "kernel": 3},
    "side": {"op": "conv", "filters": 2, "kernel": 3, "inputs": "input"},
    "sum": {"op": "add", "inputs": ["side", "conv", "side"]},
    "back": {"op": "conv_transpose", "tie": "conv"},
}


def plan_of(name: str) -> Plan:
    plan = load_experiment(EXPERIMENTS / f"{name}.yaml").plan
    assert plan is not None
    return plan


def test_branches_have_lanes_and_everything_stands_below_what_it_reads() -> None:
    drawn = diagram(plan_of("modified"))
    places = {block.name: (block.lane, block.row) for block in drawn.blocks}
    assert places["input"] == (0, 0)
    assert (places["conv1"], places["conv1a"]) == ((0, 1), (1, 1))
    assert places["flat1a"] == (1, 3)
    assert places["concat"] == (0, places["dense1"][1] + 1)
    assert len(set(places.values())) == len(places)
    for one, other in drawn.edges:
        assert places[one][1] < places[other][1]


@pytest.mark.parametrize("name", ["standard", "modified", "autoencoder", "mlp"])
def test_every_layer_is_drawn_with_what_it_reads(name: str) -> None:
    plan = plan_of(name)
    drawn = diagram(plan)
    assert [block.name for block in drawn.blocks] == ["input", *plan.by_name]
    assert set(drawn.edges) == {(n, node.name) for node in plan.nodes for n in node.inputs}
    assert all(block.shape for block in drawn.blocks)


def test_mermaid() -> None:
    assert mermaid([("", diagram(make_plan(TIED, (5, 5, 1), (5, 5, 1))))]) == (
        "```mermaid\n"
        "flowchart TD\n"
        '  n0["<b>input</b><br>5x5x1"]\n'
        '  n1["<b>conv</b><br>conv 2 @ 3x3<br>3x3x2"]\n'
        '  n2["<b>side</b><br>conv 2 @ 3x3<br>3x3x2"]\n'
        '  n3["<b>sum</b><br>add<br>3x3x2"]\n'
        '  n4["<b>back</b><br>conv_transpose tied to conv<br>5x5x1"]\n'
        "  n0 --> n1\n"
        "  n0 --> n2\n"
        "  n2 --> n3\n"
        "  n1 --> n3\n"
        "  n2 --> n3\n"
        "  n3 --> n4\n"
        "  n1 -. same kernel .- n4\n"
        "```\n"
    )


@pytest.mark.parametrize("name", ["modified", "autoencoder"])
def test_the_text_of_a_picture_can_be_read(name: str) -> None:
    plan = plan_of(name)
    content = diagram_picture([("A & B", diagram(plan))], "svg")
    root = ElementTree.fromstring(content)
    texts = {
        "".join(element.itertext()) for element in root.iter("{http://www.w3.org/2000/svg}text")
    }
    assert {"input", "A & B", *plan.by_name} <= texts
    assert diagram_picture([("A & B", diagram(plan))], "svg") == content
    assert diagram_picture([("A & B", diagram(plan))], "png").startswith(b"\x89PNG")


WIDER: Layers = {
    "conv": {"op": "conv", "filters": 2, "kernel": 3},
    "sum": {"op": "add", "inputs": ["conv", "conv"]},
    "new": {"op": "activation", "activation": "relu"},
    "back": {"op": "conv_transpose", "filters": 1, "kernel": 3},
}


def test_mermaid_marks_what_differs() -> None:
    plans = [make_plan(layers, (5, 5, 1), (5, 5, 1)) for layers in (TIED, WIDER)]
    drawings = [
        (title, diagram(plan, marks))
        for title, plan, marks in zip(('A "b"', "B"), plans, marked(plans), strict=True)
    ]
    lines = mermaid(drawings).splitlines()
    assert '  subgraph g0["A #34;b#34;"]' in lines
    assert '  subgraph g1["B"]' in lines
    assert lines.count("  end") == 2
    assert (
        '  n2["#45; <b>side</b><br>conv 2 @ 3x3<br>3x3x2"]:::removed'.replace("#45;", "-") in lines
    )
    assert '  n1x3["#43; <b>new</b><br>activation, relu<br>3x3x2"]:::added' in lines
    assert '  n1x2["#126; <b>sum</b><br>add<br>3x3x2"]:::changed' in lines
    assert "  classDef removed stroke:#b03030,stroke-width:2px,stroke-dasharray:4" in lines
    ids = [line.split("[")[0].strip() for line in lines if "<br>" in line]
    assert len(set(ids)) == len(ids)


def test_networks_stand_side_by_side_with_the_difference_marked() -> None:
    plans = [plan_of(name) for name in ("modified", "standard")]
    drawings = [
        (title, diagram(plan, marks))
        for title, plan, marks in zip(("Modified", "Standard"), plans, marked(plans), strict=True)
    ]
    root = ElementTree.fromstring(diagram_picture(drawings, "svg"))
    spans = root.iter("{http://www.w3.org/2000/svg}text")
    texts = ["".join(span.itertext()) for span in spans]
    assert {"Modified", "Standard"} <= set(texts)
    assert {"~ changed", "> resized", "- removed"} <= set(texts)
    assert "+ added" not in texts
    assert texts.count("-") == 4  # conv1a, pool1a, flat1a, concat
    assert (texts.count("~"), texts.count(">")) == (1, 1)  # drop2, dense2
    assert texts.count("conv1") == 2


@pytest.mark.parametrize("suffix", [".svg", ".png", ".md"])
def test_show_draws_two_networks(suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"both{suffix}"
    specs = [str(EXPERIMENTS / f"{name}.yaml") for name in ("standard", "modified")]
    done = CliRunner().invoke(app, ["show", *specs, "--diagram", str(file)])
    assert (done.exit_code, done.stderr) == (0, f"wrote {file}\n")
    if suffix == ".md":
        assert ":::added" in file.read_text()


@pytest.mark.parametrize("suffix", [".svg", ".png", ".md"])
def test_show_draws(suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"modified{suffix}"
    words = ["show", str(EXPERIMENTS / "modified.yaml"), "--diagram", str(file)]
    done = CliRunner().invoke(app, words)
    assert (done.exit_code, done.stderr) == (0, f"wrote {file}\n")
    assert file.stat().st_size > 500


@pytest.mark.parametrize(
    ("names", "file", "code", "message"),
    [
        (["mlp"], "a.pdf", 2, "--diagram: 'a.pdf' is no .svg, .png or .md file; name one that is."),
        (
            ["mlp"],
            "none/a.svg",
            1,
            "--diagram none/a.svg: cannot be written: no such file or directory; name another.",
        ),
    ],
)
def test_what_cannot_be_drawn(
    names: list[str],
    file: str,
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    specs = [str(EXPERIMENTS / f"{name}.yaml") for name in names]
    done = CliRunner().invoke(app, ["show", *specs, "--diagram", file])
    assert (done.exit_code, done.stderr) == (code, f"{message}\n")


RESIDUAL: Layers = {
    "stem": {"op": "conv", "filters": 2, "kernel": 3, "padding": "same"},
    "a": {"op": "conv", "filters": 2, "kernel": 3, "padding": "same"},
    "b": {"op": "conv", "filters": 2, "kernel": 3, "padding": "same"},
    "c": {"op": "batch_norm"},
    "join": {"op": "add", "inputs": ["c", "stem"]},
    "d": {"op": "batch_norm"},
    "last": {"op": "add", "inputs": ["d", "join", "stem"]},
}


@st.composite
def graphs(draw: st.DrawFn) -> Layers:
    """Layers that read any of those before them."""
    layers: dict[str, dict[str, Any]] = {}
    for name in ALPHABET[: draw(st.integers(1, len(ALPHABET)))]:
        before = ["input", *layers]
        read = draw(st.lists(st.sampled_from(before), min_size=1, max_size=3, unique=True))
        layers[name] = {"op": "add", "inputs": read if len(read) > 1 else read * 2}
    loose = set(layers) - {source for layer in layers.values() for source in layer["inputs"]}
    return layers | {"end": {"op": "add", "inputs": [*sorted(loose), *sorted(loose)]}}


def crossings(plan: Plan) -> list[tuple[str, tuple[float, float]]]:
    """Blocks, and points of the edges' lines that lie in them."""
    drawn = diagram(plan)
    found = []
    for corners in routes(drawn):
        for (x0, y0), (x1, y1) in pairwise(corners):
            for step in range(61):
                x, y = (a + (b - a) * step / 60 for a, b in ((x0, x1), (y0, y1)))
                found += [
                    (block.name, (x, y))
                    for block in drawn.blocks
                    if all(
                        abs(at - middle) < side / 2 - 1e-6
                        for at, middle, side in zip((x, y), center(block), BOX, strict=True)
                    )
                ]
    return found


@settings(max_examples=25)
@given(graphs())
def test_no_edge_crosses_a_block(layers: Layers) -> None:
    assert not crossings(make_plan(layers, (8, 8, 1), (8, 8, 1)))


def test_skips_over_several_blocks_go_beside_them_on_tracks_of_their_own() -> None:
    plan = make_plan(RESIDUAL, (8, 8, 1), (8, 8, 2))
    assert not crossings(plan)
    drawn = diagram(plan)
    lines = dict(zip(drawn.edges, routes(drawn), strict=True))
    skips = [lines["stem", "join"], lines["join", "last"], lines["stem", "last"]]
    assert [len(line) for line in skips] == [4, 4, 4]
    near, same, far = (line[1][0] for line in skips)
    assert BOX[0] < near == same < far
    assert all(len(line) == 2 for edge, line in lines.items() if line not in skips)
