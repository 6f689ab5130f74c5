"""Drawings of architectures: where blocks stand, Mermaid's text, pictures, and the option."""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from cnnbench.cli.app import app
from cnnbench.graph.plan import Plan
from cnnbench.report.plots.arrangement import Arrangement, Rectangle, arrange
from cnnbench.report.plots.blocks import Block, Cell, Diagram, DiagramNode, build_diagram
from cnnbench.report.plots.diagram import diagram
from cnnbench.report.plots.diagram_picture import diagram_picture
from cnnbench.report.plots.layered import Corner
from cnnbench.report.plots.mermaid import mermaid
from cnnbench.spec.diff import marked
from cnnbench.spec.loader import load_experiment
from tests.support.golden import approved
from tests.support.graphs import graphs as networks
from tests.support.networks import deep_mlp, densenet, inception, resnet, unet
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


def layers_of(drawn: Diagram) -> list[str]:
    """Names of all layers that are drawn."""
    return [cell.name for block in drawn.blocks for cell in block.cells]


@pytest.mark.parametrize("name", ["standard", "modified", "autoencoder", "mlp", "vae"])
def test_every_layer_is_drawn_with_what_it_reads(name: str) -> None:
    plan = plan_of(name)
    drawn = diagram(plan)
    assert sorted(layers_of(drawn)) == sorted(["input", *plan.by_name])
    first = {cell.name: block.name for block in drawn.blocks for cell in block.cells[:1]}
    edges = {(source, node.name) for node in drawn.nodes for source in node.inputs}
    assert edges == {(n, first[m.name]) for m in plan.nodes if m.name in first for n in m.inputs}
    assert all(cell.shape for block in drawn.blocks for cell in block.cells)


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


def test_frames_of_repeats_in_repeats_have_ids_of_their_own() -> None:
    kinds = ["conv", "conv", "conv", "pool"] * 2
    names = ["input", *(f"{kind}{number}" for number, kind in enumerate(kinds))]
    cells = [
        Cell(name, (above,), kind, "8x8", identity=kind)
        for kind, above, name in zip(kinds, names, names[1:], strict=False)
    ]
    text = mermaid([("", build_diagram([Cell("input", (), "", "8x8"), *cells]))])
    frames = [line.strip() for line in text.splitlines() if "subgraph" in line]
    assert frames == ['subgraph n1r["x 2"]', 'subgraph n1rr["x 3"]']


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
        (["mlp"], "a.pdf", 2, "--diagram: unsupported file type 'a.pdf'; use .svg, .png or .md."),
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


def samples(points: Sequence[Corner], *, turns: bool) -> Iterator[Corner]:
    """Points of a line; a curve is a Bezier curve that begins and ends vertically."""
    for (x0, y0), (x1, y1) in pairwise(points):
        for t in (step / 24 for step in range(25)):
            if turns or x0 == x1:
                yield x0 + (x1 - x0) * t, y0 + (y1 - y0) * t
            else:
                middle = (y0 + y1) / 2
                weights = (1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3
                xs, ys = (x0, x0, x1, x1), (y0, middle, middle, y1)
                yield (
                    sum(w * x for w, x in zip(weights, xs, strict=True)),
                    sum(w * y for w, y in zip(weights, ys, strict=True)),
                )


def is_inside(point: Corner, box: Rectangle) -> bool:
    x, y = point
    across = box.left + 1e-3 < x < box.left + box.width - 1e-3
    return across and box.top + 1e-3 < y < box.top + box.height - 1e-3


def check(found: Arrangement, num_edges: int | None = None) -> None:
    """What every drawing has: lines beside the boxes, and an end for every arrow."""
    blocks = [box for box in found.boxes if isinstance(box.node, Block)]
    frames = [box for box in found.boxes if not isinstance(box.node, Block)]
    for line in found.lines:
        points = list(samples(line.points, turns=line.turns))
        assert not [p for p in points for box in blocks if is_inside(p, box)]
        for frame in frames:  # a line is in a frame or outside of it
            inside = [is_inside(p, frame) for p in points[1:-1]]
            assert all(inside) or not any(inside)
    tips = [line.points[-1] for line in found.lines if line.arrow]
    assert len(set(tips)) == len(tips)
    assert num_edges is None or len(tips) == num_edges
    for one, other in combinations(blocks, 2):
        beside = one.left + one.width <= other.left or other.left + other.width <= one.left
        assert beside or one.top + one.height <= other.top or other.top + other.height <= one.top
    for box in found.boxes:
        assert box.left >= -1e-6
        assert box.left + box.width <= found.width + 1e-6
        assert box.top >= -1e-6
        assert box.top + box.height <= found.height + 1e-6


@settings(max_examples=15)
@given(graphs())
def test_no_edge_crosses_a_block(layers: Layers) -> None:
    plan = make_plan(layers, (8, 8, 1), (8, 8, 1))
    check(arrange(diagram(plan)))
    check(arrange(diagram(plan, expand=True)), sum(len(node.inputs) for node in plan.nodes))


@settings(max_examples=10)
@given(networks())
def test_any_network_can_be_drawn(drawn: tuple[Layers, tuple[int, ...], tuple[int, ...]]) -> None:
    plan = make_plan(*drawn)
    found = diagram(plan)
    check(arrange(found))
    assert sum(map(num_layers, found.nodes)) == len(plan.nodes) + 1


def num_layers(node: DiagramNode) -> int:
    """Number of layers, counting every repetition."""
    if isinstance(node, Block):
        return len(node.cells)
    return node.count * sum(map(num_layers, node.body))


IMAGE, CLASSES = (32, 32, 3), (10,)
KNOWN: Mapping[str, Plan] = {
    "resnet": make_plan(resnet(), IMAGE, CLASSES),
    "inception": make_plan(inception(), IMAGE, CLASSES),
    "unet": make_plan(unet(), IMAGE, IMAGE),
    "densenet": make_plan(densenet(), IMAGE, CLASSES),
    "mlp": make_plan(deep_mlp(), IMAGE, CLASSES),
}


@pytest.mark.parametrize("expand", [False, True])
@pytest.mark.parametrize("name", KNOWN)
def test_known_networks_are_drawn_cleanly(name: str, expand: bool) -> None:
    check(arrange(diagram(KNOWN[name], expand=expand)))


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.rglob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_experiments_are_drawn_cleanly(path: Path) -> None:
    plan = load_experiment(path).plan
    if plan is not None:
        check(arrange(diagram(plan)))


def test_a_resnet_20_fits_on_a_page() -> None:
    """It has 72 layers; a box for each, one below the other, took 66 inches."""
    drawn = diagram(KNOWN["resnet"])
    assert [
        (r.count, [b.name for b in r.body]) for r in drawn.nodes if not isinstance(r, Block)
    ] == [
        (3, ["s1b1_relu1", "s1b1_bn2", "s1b1_out"]),
        (2, ["s2b2_relu1", "s2b2_bn2", "s2b2_out"]),
        (2, ["s3b2_relu1", "s3b2_bn2", "s3b2_out"]),
    ]
    found = arrange(drawn)
    assert found.height < 15
    assert found.width < 16
    deeper = arrange(diagram(make_plan(resnet(9), IMAGE, CLASSES)))
    assert (deeper.width, deeper.height) == (found.width, found.height)


def test_skips_run_beside_the_boxes_of_their_block() -> None:
    found = arrange(Diagram(diagram(KNOWN["resnet"]).nodes[:3]))  # the input, a layer, a stage
    blocks = [box for box in found.boxes if isinstance(box.node, Block)]
    stage = blocks[2:]
    assert [box.node.name for box in stage] == ["s1b1_relu1", "s1b1_bn2", "s1b1_out"]
    (left,) = {box.left for box in stage}
    skips = [line for line in found.lines if max(x for x, _ in line.points) > left + stage[0].width]
    assert len(skips) == 1
    assert len({line.points[-1] for line in found.lines if line.arrow}) == len(blocks)


def test_branches_of_an_inception_module_are_symmetric() -> None:
    found = arrange(diagram(KNOWN["inception"]))
    middle = {box.node.name: box.left + box.width / 2 for box in found.boxes}
    ends = ("1x1", "3x3_in", "5x5_in", "pool")
    for module, above in (("a", "pool"), ("b", "a_concat")):
        branches = [middle[f"{module}_{end}"] for end in ends]
        assert branches == sorted(branches)
        assert sum(branches) / 4 == pytest.approx(middle[above], abs=1e-3)
        assert middle[f"{module}_concat"] == pytest.approx(middle[above], abs=1e-3)


def test_changed_blocks_are_not_folded_with_others() -> None:
    plans = [KNOWN["resnet"], make_plan(resnet(changed={"s1b3_conv1": 8}), IMAGE, CLASSES)]
    marks = marked(plans)[1]
    drawn = diagram(plans[1], marks)
    assert {cell.name: cell.mark for b in drawn.blocks for cell in b.cells if cell.mark} == marks
    first = next(node for node in drawn.nodes if not isinstance(node, Block))
    assert (first.count, first.name) == (2, "s1b2_out")
    texts = "".join(mermaid([("", drawn)]))
    assert ":::changed" in texts
    assert "s1b3_conv1" in texts


def test_a_resnet_in_mermaid() -> None:
    got = mermaid([("", diagram(KNOWN["resnet"]))])
    assert got == approved("resnet20.md", got)


def test_repeated_blocks_can_be_drawn_in_full(tmp_path: Path) -> None:
    document = yaml.safe_load((EXPERIMENTS / "mlp.yaml").read_text())
    document["model"]["layers"] = deep_mlp(6)
    spec = tmp_path / "deep.yaml"
    spec.write_text(json.dumps(document))
    files = [tmp_path / "folded.md", tmp_path / "full.md"]
    for file, more in zip(files, ([], ["--expand"]), strict=True):
        words = ["show", str(spec), "--diagram", str(file), *more]
        assert CliRunner().invoke(app, words).exit_code == 0
    assert [file.read_text().count("<b>fc") for file in files] == [2, 6]


def test_long_titles_are_wrapped_and_long_names_are_shortened() -> None:
    name, title = "a" * 80, "A network with a title that is much longer than it is wide"
    plan = make_plan({name: {"op": "dense", "units": 3}}, (4,), (3,))
    texts = texts_of(diagram_picture([(title, diagram(plan))], "svg"))
    assert "".join(texts).replace(" ", "").startswith(title.replace(" ", ""))
    assert any(text.startswith("aaaa") and text.endswith("...") for text in texts)


def texts_of(svg: bytes) -> list[str]:
    """Texts of a picture, in order."""
    spans = ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
    return ["".join(span.itertext()) for span in spans]
