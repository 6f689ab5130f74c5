"""Layers that use the weights of another layer."""

from collections.abc import Mapping
from typing import Any

import pytest
from pydantic import TypeAdapter

from cnnbench.graph.build import build_plan
from cnnbench.graph.plan import Goal
from cnnbench.graph.widen import MatchedSize, widen
from cnnbench.layers import LayerOp
from tests.support.oracles import make_plan

Layers = Mapping[str, Mapping[str, Any]]
CONV = {"op": "conv", "filters": 4, "kernel": 3, "padding": "same"}
NORM = {"op": "batch_norm", "scale": False, "center": False}
OUT = {"op": "dense", "units": 2}


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (
            {"stem": CONV, "b": CONV, "c": CONV | {"weights": "stme"}, "out": OUT},
            ["c.weights: unknown layer 'stme' (did you mean 'stem'?); use stem or b."],
        ),
        (
            {"a": CONV, "b": CONV | {"weights": "c"}, "c": CONV | {"weights": "b"}, "out": OUT},
            [
                "b.weights: layers use the weights of each other; remove weights from one of them.",
                "c.weights: layers use the weights of each other; remove weights from one of them.",
            ],
        ),
        (
            {"a": CONV | {"weights": "a"}, "out": OUT},
            ["a.weights: layers use the weights of each other; remove weights from one of them."],
        ),
        (
            {"a": CONV, "out": OUT | {"weights": "a"}},
            ["out.weights: 'a' is a conv layer, not a dense layer; remove weights."],
        ),
        (
            {"a": CONV, "b": CONV | {"weights": "a"}, "out": OUT},
            [
                "b.weights: needs kernel 3x3x4x4 for input 6x5x4, but 'a' has kernel 3x3x1x4 for"
                " input 6x5x1; use inputs of one shape, or remove weights."
            ],
        ),
        (
            {"z": CONV, "a": CONV | {"use_bias": False}, "b": CONV | {"weights": "a"}, "out": OUT},
            [
                "b.weights: needs bias 4 for input 6x5x4, but 'a' has no bias for input 6x5x4; use"
                " inputs of one shape, or remove weights."
            ],
        ),
        (
            {"n": NORM, "a": CONV, "m": NORM | {"weights": "n"}, "out": OUT},
            [
                "m.weights: needs mean 4 for input 6x5x4, but 'n' has mean 1 for input 6x5x1; use"
                " inputs of one shape, or remove weights."
            ],
        ),
        (
            {
                "z": CONV,
                "a": CONV | {"trainable": False, "init": "zeros"},
                "b": CONV | {"weights": "a"},
                "out": OUT,
            },
            [
                f"b.{key}: differs from that of 'a', whose weights the layer uses; use the same"
                " value, or remove weights."
                for key in ("init", "trainable")
            ],
        ),
    ],
)
def test_errors(layers: Layers, expected: list[str]) -> None:
    parse = TypeAdapter[LayerOp](LayerOp).validate_python
    operations = {name: parse(dict(op)) for name, op in layers.items()}
    plan, issues = build_plan(operations, Goal((6, 5, 1), (2,), "", ""), known={})
    assert plan is None
    found = [f"{'.'.join(map(str, i.at[2:]))}: {i.message}; {i.remedy}." for i in issues]
    assert found == expected


def test_the_owner_may_follow_and_chains_have_one_owner() -> None:
    layers: Layers = {
        "a": CONV | {"inputs": "z", "weights": "b"},
        "b": CONV | {"weights": "c"},
        "c": CONV,
        "z": CONV | {"inputs": "input"},
        "out": OUT | {"inputs": "c"},
    }
    plan = make_plan(layers, (6, 5, 1), (2,))
    assert {node.name: node.owner for node in plan.nodes} == {
        "a": "c", "b": "c", "c": "c", "z": "z", "out": "out"
    }  # fmt: skip
    assert plan.by_name["a"].num_params == 0
    assert plan.by_name["a"].op.summary() == "conv 4 @ 3x3, padding same, weights of b"


def test_layers_with_one_kernel_are_widened_together() -> None:
    chain: Layers = {
        "stem": CONV,
        "a": CONV,
        "b": CONV | {"weights": "a"},
        "wide": CONV | {"filters": 6},
        "out": OUT,
    }
    wider = widen(make_plan(chain, (6, 5, 1), (2,)), MatchedSize.PARAMS, 3000)
    assert wider is not None
    filters = {name: value for name, (_, value) in wider.changes.items()}
    assert filters["a"] == filters["b"] == filters["stem"] > 4
    # The last layer has the shape of the image, and its kernel is that of the others.
    to_image: Layers = {
        "wide": CONV | {"filters": 6},
        "stem": CONV | {"filters": 1},
        "a": CONV | {"filters": 1},
        "b": CONV | {"filters": 1, "weights": "a"},
    }
    image = widen(make_plan(to_image, (6, 5, 1), (6, 5, 1)), MatchedSize.PARAMS, 300)
    assert image is not None
    assert list(image.changes) == ["wide"]
