"""Loops of equal blocks, found in networks of known structure."""

from dataclasses import replace
from typing import Any

import pytest

from cnnbench.graph.plan import Plan
from cnnbench.graph.repeats import Loop, find_loops, shortened
from cnnbench.spec.loader import load_experiment
from tests.support.oracles import make_plan
from tests.support.paths import EXPERIMENTS

DENSE = {"op": "dense", "units": 5, "activation": "tanh"}
OUT = {"op": "dense", "units": 3}
NOISE = "dataset.name=random/32x32x3/10"


def loops_of(plan: Plan) -> tuple[Loop, ...]:
    return find_loops(plan, [(node,) for node in plan.nodes])


def found(**layers: dict[str, Any]) -> list[list[str]]:
    """First layers of the repetitions of each loop."""
    plan = make_plan(layers, (2, 2, 1), (3,))
    return [[names[0] for names in loop.names] for loop in loops_of(plan)]


def test_a_chain_of_equal_layers_is_a_loop() -> None:
    """The first one has other weights, since it reads the image."""
    assert found(a=DENSE, b=DENSE, c=DENSE, d=DENSE, out=OUT) == [["b", "c", "d"]]


def test_two_repetitions_are_not_a_loop() -> None:
    assert found(a=DENSE, b=DENSE, c=DENSE, out=OUT) == []


@pytest.mark.parametrize(
    ("layer", "keys"), [("c", {"activation": "relu"}), ("c", {"use_bias": False})]
)
def test_layers_with_other_keys_are_not_equal(layer: str, keys: dict[str, Any]) -> None:
    chain = dict.fromkeys("abcde", DENSE) | {"out": OUT}
    assert found(**chain | {layer: DENSE | keys}) == []


def test_a_value_inside_of_a_loop_is_not_read_outside() -> None:
    """The loop ends before it, so that its last value can be read."""
    read = {"op": "add", "inputs": ["f", "c"]}
    assert found(**dict.fromkeys("abcdef", DENSE), sum=read, out=OUT) == [["d", "e", "f"]]


def test_a_skip_connection_over_two_blocks_is_not_a_loop() -> None:
    layers: dict[str, Any] = dict.fromkeys("abc", DENSE)
    for name, far, near in (("d", "a", "c"), ("e", "b", "d"), ("f", "c", "e"), ("g", "d", "f")):
        layers[name] = {"op": "add", "inputs": [far, near]}
    assert found(**layers, out=OUT) == []


def test_layers_with_shared_weights_are_not_a_loop() -> None:
    plan = make_plan({**dict.fromkeys("abcd", DENSE), "out": OUT}, (2, 2, 1), (3,))
    assert len(loops_of(plan)) == 1
    nodes = (replace(node, owner="b") if node.name == "c" else node for node in plan.nodes)
    assert loops_of(replace(plan, nodes=tuple(nodes))) == ()


def test_blocks_of_a_resnet() -> None:
    """All blocks of the first stage, and all but the first, which has a stride, of the others."""
    plan = load_experiment(EXPERIMENTS / "zoo/resnet.yaml", ["model.params.n=9", NOISE]).plan
    assert plan is not None
    loops = loops_of(plan)
    assert [(loop.names[0][0], len(loop.names)) for loop in loops] == [
        ("stage1.0.a.conv", 9),
        ("stage2.1.a.conv", 8),
        ("stage3.1.a.conv", 8),
    ]
    assert loops[0].carried == {"stem_act": "stage1.0.out"}
    assert loops[0].after == {"stem_act": "stage1.8.out"}
    assert loops[1].columns["stage2.1.b.norm"][-1] == "stage2.8.b.norm"


@pytest.mark.parametrize(
    ("name", "number"), [("vit_tiny", 12), ("mlp_mixer", 12), ("mobilenet_v1", 5)]
)
def test_other_deep_networks(name: str, number: int) -> None:
    plan = load_experiment(EXPERIMENTS / f"zoo/{name}.yaml").plan
    assert plan is not None
    assert [len(loop.names) for loop in loops_of(plan)] == [number]


def test_a_shortened_network_has_three_repetitions_of_each_loop() -> None:
    """A ResNet-56 with 3, 1 + 3 and 1 + 3 blocks."""
    plan, small = (
        load_experiment(EXPERIMENTS / "zoo/resnet.yaml", [f"model.params.n={n}", NOISE]).plan
        for n in (9, 3)
    )
    assert plan is not None
    assert small is not None
    short = shortened(plan)
    blocks = sum(2 * (9 * width**2 + 2 * width) for width in (32, 64))
    assert short.num_params == small.num_params + blocks
    assert short.output_shape == (10,)
    assert short.by_name["stage2.0.a.conv"].inputs == ("stage1.2.out",)
    assert short.by_name["pool"].inputs == ("stage3.3.out",)
    names = {node.name for node in short.nodes} | {"input"}
    assert all(names.issuperset(node.inputs) for node in short.nodes)
    assert shortened(small) == small
