"""Graphs of named layers: order, wiring, output, and errors."""

import itertools
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from cnnbench.errors import Issue
from cnnbench.graph.build import MAX_VALUES, build_plan, file_order, use_one_of
from cnnbench.graph.plan import Goal, Plan, outputs_goal, reconstruct_goal
from cnnbench.layers import LayerOp
from cnnbench.layers.base import INPUT

parse = TypeAdapter[LayerOp](LayerOp).validate_python
IMAGE = (28, 28, 1)
TEN = outputs_goal(IMAGE, 10, "10 classes")


def check(
    layers: Mapping[str, dict[str, Any] | None],
    goal: Goal = TEN,
    output: str | None = None,
    known: Mapping[str, tuple[str, ...]] | None = None,
) -> tuple[Plan | None, list[Issue]]:
    ops = {name: parse(op) if op is not None else None for name, op in layers.items()}
    return build_plan(ops, goal, output=output, known=known or {})


def plan_of(
    layers: Mapping[str, dict[str, Any] | None], goal: Goal = TEN, output: str | None = None
) -> Plan:
    plan, issues = check(layers, goal, output)
    assert issues == []
    assert plan is not None
    return plan


def texts(issues: list[Issue]) -> list[str]:
    return [f"{'.'.join(map(str, issue.at))}: {issue.message}; {issue.remedy}" for issue in issues]


def dense(units: int = 8, inputs: str | list[str] | None = None) -> dict[str, Any]:
    return {"op": "dense", "units": units} | ({"inputs": inputs} if inputs else {})


def test_a_layer_takes_the_previous_one_unless_it_names_its_inputs() -> None:
    plan = plan_of(
        {"a": dense(), "b": dense(9, "input"), "c": dense(7), "d": dense(10, ["c"])}
        | {
            "d": {"op": "add", "inputs": ["e", "f"]},
            "e": dense(10, "a"),
            "f": dense(10, "c"),
        }
    )
    wiring = {node.name: node.inputs for node in plan.nodes}
    assert wiring == {
        "a": (INPUT,),
        "b": (INPUT,),
        "c": ("b",),
        "d": ("e", "f"),
        "e": ("a",),
        "f": ("c",),
    }
    assert [node.name for node in plan.nodes] == ["a", "b", "c", "e", "f", "d"]
    assert plan.input_shape == IMAGE
    assert plan.output == "d"
    assert plan.by_name["d"].in_shapes == ((10,), (10,))
    assert plan.output_shape == (10,)


def test_counts_add_up_and_a_tied_kernel_counts_once() -> None:
    layers: dict[str, Any] = {
        "conv": {"op": "conv", "filters": 3, "kernel": 5},
        "up": {"op": "conv_transpose", "tie": "conv"},
    }
    plan = plan_of(layers, reconstruct_goal(IMAGE))
    assert [node.num_params for node in plan.nodes] == [5 * 5 * 3 + 3, 1]
    assert plan.num_params == 79
    assert plan.multiply_adds == 2 * 24 * 24 * 5 * 5 * 3


def test_a_tied_layer_waits_for_its_owner() -> None:
    layers = {
        "up": {"op": "conv_transpose", "tie": "conv", "inputs": "conv"},
        "out": dense(10),
        "conv": {"op": "conv", "filters": 3, "kernel": 5, "inputs": "input"},
    }
    assert [node.name for node in plan_of(layers).nodes] == ["conv", "up", "out"]


def test_the_output_is_the_layer_without_consumers() -> None:
    layers = {"out": dense(10, "b"), "a": dense(8, "input"), "b": dense()}
    assert plan_of(layers).output == "out"
    assert plan_of(layers, output="out").output == "out"


@st.composite
def wirings(draw: st.DrawFn) -> dict[str, tuple[str, ...]]:
    names = [f"n{i}" for i in range(draw(st.integers(1, 7)))]
    source = st.sampled_from([INPUT, *names])
    return {name: tuple(draw(st.lists(source, min_size=1, max_size=3))) for name in names}


def reaches_itself(wiring: Mapping[str, tuple[str, ...]], name: str) -> bool:
    reached, ahead = set(), list(wiring[name])
    while ahead:
        source = ahead.pop()
        if source not in reached and source != INPUT:
            reached.add(source)
            ahead += wiring[source]
    return name in reached


@given(wirings())
def test_order_is_the_first_of_all_valid_orders(wiring: dict[str, tuple[str, ...]]) -> None:
    """Brute force: the orders of the file's positions, smallest first."""
    valid = (
        order
        for order in itertools.permutations(wiring)
        if all(set(wiring[name]) - {INPUT} <= set(order[:i]) for i, name in enumerate(order))
    )
    first = next(valid, None)
    order, issues = file_order(wiring)
    on_cycles = {name for name in wiring if reaches_itself(wiring, name)}
    if first is not None:
        assert (tuple(order), issues) == (first, [])
        assert not on_cycles
    else:
        assert issues
        assert on_cycles
        assert {issue.at[2] for issue in issues} <= on_cycles
        assert not set(order) & on_cycles


@given(wirings())
def test_reported_cycles_are_cycles(wiring: dict[str, tuple[str, ...]]) -> None:
    for issue in file_order(wiring)[1]:
        name = str(issue.at[2])
        if issue.message == "the layer reads itself":
            assert name in wiring[name]
            continue
        chain = issue.message.split("(")[1].rstrip(")").split(" reads ")
        assert chain[0] == chain[-1] == name
        assert all(source in wiring[reader] for reader, source in itertools.pairwise(chain))
        assert len(set(chain)) == len(chain) - 1


def test_separate_cycles_are_reported_separately() -> None:
    layers = {
        "a": dense(8, "b"),
        "b": dense(8, "a"),
        "c": dense(8, "c"),
        "d": dense(10, "input"),
    }
    assert texts(check(layers)[1]) == [
        "model.layers.a.inputs: the layers form a cycle (a reads b reads a); "
        "change the inputs of one of them (default: the previous layer; new layers come last)",
        "model.layers.c.inputs: the layer reads itself; use another layer",
    ]


class TestOneMistakeOneMessage:
    def test_unknown_input_does_not_leave_others_dangling(self) -> None:
        layers = {"a": dense(), "b": dense(8, "input"), "c": {"op": "add", "inputs": ["a", "x"]}}
        assert texts(check(layers)[1]) == [
            "model.layers.c.inputs.1: unknown layer 'x'; use input, a or b"
        ]

    def test_wrong_shape_does_not_blame_the_layers_behind(self) -> None:
        layers = {
            "conv": {"op": "conv", "filters": 1, "kernel": 29},
            "pool": {"op": "max_pool", "size": 40},
            "out": dense(11),
            "spare": dense(7, "input"),
        }
        assert texts(check(layers)[1]) == [
            "model.layers.conv.kernel: a 29x29 kernel is larger than the 28x28x1 input; "
            "use [28, 28] or less, or padding: same",
            "model.layers.spare: layer 'spare' is not used (the output is 'out'); "
            "remove it, or add it to the inputs of another layer",
        ]

    def test_wrong_layer_gives_no_plan_and_no_message(self) -> None:
        layers = {"a": None, "b": {"op": "max_pool", "size": 40}, "c": dense(10)}
        assert check(layers) == (None, [])

    def test_wrong_layer_still_reads_its_inputs(self) -> None:
        layers = {"a": dense(), "b": None, "c": dense(10)}
        known = {"b": ("a", "z")}
        assert texts(check(layers, known=known)[1]) == [
            "model.layers.b.inputs.1: unknown layer 'z'; use input or a"
        ]

    def test_tie_to_a_wrong_layer_is_not_blamed(self) -> None:
        layers: dict[str, Any] = {
            "conv": {"op": "conv", "filters": 1, "kernel": 29},
            "up": {"op": "conv_transpose", "tie": "conv", "inputs": "input"},
            "sum": {"op": "add", "inputs": ["conv", "up"]},
        }
        assert [issue.at for issue in check(layers)[1]] == [("model", "layers", "conv", "kernel")]

    def test_layers_after_a_tie_to_an_invalid_layer_are_checked(self) -> None:
        layers: dict[str, Any] = {
            "conv": {"op": "conv", "filters": 1, "kernel": 29},
            "up": {"op": "conv_transpose", "tie": "conv", "inputs": "input"},
            "pool": {"op": "max_pool", "size": 29, "inputs": "input"},
            "sum": {"op": "add", "inputs": ["conv", "up", "pool"]},
        }
        assert [issue.at[2:] for issue in check(layers)[1]] == [
            ("conv", "kernel"),
            ("pool", "size"),
        ]

    def test_a_too_large_size_is_reported_once(self) -> None:
        layers = {
            "up": {"op": "upscale", "size": 2**14},
            "again": {"op": "upscale", "size": 2},
            "out": dense(10),
        }
        assert texts(check(layers)[1]) == [
            f"model.layers.up: an array with {(28 * 2**14) ** 2:,} values is too large; "
            "reduce the size of the layer or its input"
        ]
        assert MAX_VALUES == 2_147_483_647

    def test_the_largest_size_is_allowed_and_one_more_is_not(self) -> None:
        def issues_of(units: int) -> list[str]:
            goal = outputs_goal((1, 1, 1), units, f"{units} classes")
            return texts(check({"out": dense(units)}, goal)[1])

        assert issues_of(MAX_VALUES) == []
        assert issues_of(MAX_VALUES + 1) == [
            "model.layers.out: an array with 2,147,483,648 values is too large; "
            "reduce the size of the layer or its input"
        ]


class TestOutput:
    def test_of_another_size_points_at_the_units(self) -> None:
        assert texts(check({"a": dense(), "out": dense(12)})[1]) == [
            "model.layers.out.units: the output has shape 12, but the dataset has 10 classes; "
            "use 10"
        ]

    def test_that_is_an_image(self) -> None:
        assert texts(check({"conv": {"op": "conv", "filters": 10, "kernel": 28}})[1]) == [
            "model.layers.conv: the output has shape 1x1x10, but the dataset has 10 classes; "
            "end with {op: dense, units: 10}"
        ]

    def test_that_is_not_an_image(self) -> None:
        assert texts(check({"out": dense(784)}, reconstruct_goal(IMAGE))[1]) == [
            "model.layers.out: the output has shape 784, but the images are 28x28x1; "
            "end with a layer of shape [28, 28, 1]"
        ]

    def test_that_fits_wins_over_loose_ends_behind_it(self) -> None:
        layers = {"out": dense(10), "spare": dense(7, "input")}
        assert texts(check(layers)[1]) == [
            "model.layers.spare: layer 'spare' is not used (the output is 'out'); "
            "remove it, or add it to the inputs of another layer"
        ]

    def test_chosen_one_leaves_the_others_loose(self) -> None:
        layers = {"one": dense(10), "two": dense(10, "input")}
        issues = check(layers, output="one")[1]
        assert [(issue.at[2], issue.of_key) for issue in issues] == [("two", True)]
        issues = check(layers)[1]
        assert [(issue.at[2], issue.of_key) for issue in issues] == [("one", True)]

    def test_unknown_one_is_reported_with_the_other_issues(self) -> None:
        layers = {"conv": {"op": "conv", "filters": 1, "kernel": 29}, "out": dense(10)}
        assert texts(check(layers, output="uot")[1]) == [
            "model.output: unknown layer 'uot' (did you mean 'out'?); use conv or out",
            "model.layers.conv.kernel: a 29x29 kernel is larger than the 28x28x1 input; "
            "use [28, 28] or less, or padding: same",
        ]


def test_goals_of_tasks() -> None:
    assert outputs_goal((8, 9, 3), 7, "7 classes") == Goal(
        (8, 9, 3), (7,), "the dataset has 7 classes", "end with {op: dense, units: 7}"
    )
    assert reconstruct_goal((8, 9, 3)) == Goal(
        (8, 9, 3), (8, 9, 3), "the images are 8x9x3", "end with a layer of shape [8, 9, 3]"
    )


class TestTie:
    """A tie names a convolution of the network."""

    def told(self, tie: str, *convs: str) -> list[str]:
        layers: dict[str, Any] = {
            name: {"op": "conv", "filters": 1, "kernel": 3, "inputs": "input"} for name in convs
        }
        layers["pool"] = {"op": "max_pool", "size": 2, "inputs": "input"}
        layers["up"] = {"op": "conv_transpose", "tie": tie, "inputs": "input"}
        layers["all"] = {"op": "concat", "inputs": [*convs, "pool", "up"]}
        return texts(check(layers)[1])

    def test_to_no_layer(self) -> None:
        assert self.told("frist", "first", "second") == [
            "model.layers.up.tie: unknown layer 'frist' (did you mean 'first'?); "
            "use a conv layer: first or second"
        ]

    def test_to_an_unknown_layer_without_convolutions(self) -> None:
        assert self.told("frist") == ["model.layers.up.tie: unknown layer 'frist'; remove tie"]

    def test_to_another_layer(self) -> None:
        assert self.told("pool", "first") == [
            "model.layers.up.tie: 'pool' is a max_pool layer, not a conv layer; use a conv"
            " layer: first"
        ]


def test_shapes_of_merged_layers_are_shown_by_name() -> None:
    layers = {
        "a": dense(8, "input"),
        "b": dense(9, "input"),
        "sum": {"op": "add", "inputs": ["a", "b"]},
    }
    assert texts(check(layers)[1]) == [
        "model.layers.sum.inputs: add needs inputs of the same shape (a is 8, b is 9); "
        "make the shapes equal"
    ]


def test_equal_shapes_are_not_shown() -> None:
    layers: dict[str, dict[str, Any] | None] = {
        "a": {"op": "upscale", "size": 2**10, "inputs": "input"},
        "b": {"op": "upscale", "size": 2**10, "inputs": "input"},
        "c": {"op": "upscale", "size": 2**10, "inputs": "input"},
        "all": {"op": "concat", "inputs": ["a", "b", "c"]},
        "out": {"op": "global_avg_pool"},
    }
    assert texts(check(layers)[1]) == [
        f"model.layers.all: an array with {3 * (28 * 2**10) ** 2:,} values is too large; "
        "reduce the size of the layer or its input"
    ]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([], "add layers"),
        (["a"], "use a"),
        (list("abc"), "use a, b or c"),
        (list("abcdefghi"), "use the name of a layer in this file"),
    ],
)
def test_use_one_of(names: list[str], expected: str) -> None:
    assert use_one_of(names) == expected
