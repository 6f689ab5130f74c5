"""Widened networks: sizes by independent formulas, and brute-force search."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cnnbench.cli.app import app
from cnnbench.errors import UsageError
from cnnbench.graph.plan import Plan
from cnnbench.graph.widen import MatchedSize, widen
from cnnbench.spec.loader import load_experiment
from tests.support.oracles import make_plan
from tests.support.paths import EXPERIMENTS


def plan_of(name: str, *overrides: str) -> Plan:
    plan = load_experiment(EXPERIMENTS / f"{name}.yaml", overrides).plan
    assert plan is not None
    return plan


def half_up(value: float) -> int:
    return int(value + 0.5)


def standard_counts(factor: float) -> tuple[int, int]:
    """Parameters and multiply-adds of the standard network, written out."""
    c, u = half_up(32 * factor), half_up(256 * factor)
    params = (25 * c + c) + (25 * c * c + c) + (16 * c * u + u) + (u * 10 + 10)
    products = 576 * 25 * c + 64 * 25 * c * c + 16 * c * u + 10 * u
    return params, products


@pytest.mark.parametrize("target", [160_363, 166_474, 400_000, 1_276_810])
@pytest.mark.parametrize("size", MatchedSize)
def test_no_other_factor_comes_nearer(size: MatchedSize, target: int) -> None:
    plan = plan_of("standard")
    wanted = target if size is MatchedSize.PARAMS else 21 * target
    found = widen(plan, size, wanted)
    place = 0 if size is MatchedSize.PARAMS else 1
    nearest = min(abs(standard_counts(1 + i / 5000)[place] - wanted) for i in range(20_000))
    got = size.of(found.plan if found else plan)
    assert abs(got - wanted) == nearest
    if found:
        assert got == standard_counts(found.factor)[place]


def test_a_network_of_the_size_already_is_left_alone() -> None:
    plan = plan_of("standard")
    assert widen(plan, MatchedSize.PARAMS, plan.num_params) is None
    # One parameter more: the next wider network is further away than this one.
    assert widen(plan, MatchedSize.PARAMS, plan.num_params + 1) is None


def test_overrides_give_the_same_network() -> None:
    found = widen(plan_of("standard"), MatchedSize.PARAMS, 300_000)
    assert found is not None
    assert plan_of("standard", *found.overrides).num_params == found.plan.num_params
    assert found.plan.output_shape == (10,)


def test_ties_and_reshapes_follow() -> None:
    """The decoder has its owners' channels; units that become an image fill it."""
    plan = plan_of("autoencoder")
    found = widen(plan, MatchedSize.PARAMS, 2 * plan.num_params)
    assert found is not None
    assert set(found.changes) == {"conv1", "conv2", "code", "dense1", "unflat"}
    channels = found.changes["conv2"][1]
    assert found.changes["unflat"] == ("shape", (4, 4, channels))
    assert found.changes["dense1"] == ("units", 16 * channels)
    again = plan_of("autoencoder", *found.overrides)
    assert again.num_params == found.plan.num_params
    assert again.output_shape == (28, 28, 1)
    c, u = channels, found.changes["code"][1]
    encoder = 25 * c + c + 25 * c * c + c + 16 * c * u + u
    assert again.num_params == encoder + u * 16 * c + 16 * c + c + 1


LAYERS: dict[str, dict[str, Any]] = {
    "stem": {"op": "conv", "filters": 4, "kernel": 3, "padding": "same"},
    "norm": {"op": "batch_norm"},
    "more": {"op": "conv", "filters": 4, "kernel": 3, "padding": "same"},
    "sum": {"op": "add", "inputs": ["norm", "more"]},
    "last": {"op": "conv", "filters": 5, "kernel": 1},
    "act": {"op": "activation", "activation": "relu"},
    "mean": {"op": "global_avg_pool"},
}


def test_a_convolution_that_gives_the_output_stays() -> None:
    plan = make_plan(LAYERS, (6, 6, 1), (5,))
    found = widen(plan, MatchedSize.PARAMS, 4 * plan.num_params)
    assert found is not None
    assert set(found.changes) == {"stem", "more"}
    assert found.plan.output_shape == (5,)


def test_a_whitening_convolution_stays() -> None:
    layers: dict[str, dict[str, Any]] = {
        "whiten": {"op": "conv", "filters": 8, "kernel": 2, "init": "whitening"},
        **LAYERS,
    }
    plan = make_plan(layers, (6, 6, 1), (5,))
    found = widen(plan, MatchedSize.PARAMS, 4 * plan.num_params)
    assert found is not None
    assert set(found.changes) == {"stem", "more"}


def test_gates_are_widened_with_the_image_they_multiply() -> None:
    gate: dict[str, dict[str, Any]] = {
        "largest": {"op": "global_max_pool", "inputs": "more"},
        "gate": {"op": "dense", "units": 4, "activation": "sigmoid"},
        "gated": {"op": "multiply", "inputs": ["more", "gate"]},
    }
    joined = {"sum": LAYERS["sum"] | {"inputs": ["norm", "gated"]}}
    plan = make_plan(LAYERS | joined | gate, (6, 6, 1), (5,))
    found = widen(plan, MatchedSize.PARAMS, 4 * plan.num_params)
    assert found is not None
    assert set(found.changes) == {"stem", "more", "gate"}
    assert len({value for _, value in found.changes.values()}) == 1


@pytest.mark.parametrize("factor", [1.5, 2.5, 4.2])
def test_channels_remain_divisible_into_groups_and_heads(factor: float) -> None:
    layers: dict[str, dict[str, Any]] = {
        "stem": {"op": "conv", "filters": 8, "kernel": 1},
        "groups": {"op": "group_norm", "groups": 4},
        "more": {"op": "conv", "filters": 8, "kernel": 1},
        "sum": {"op": "add", "inputs": ["stem", "more"]},  # equal sizes remain equal
        "odd": {"op": "conv", "filters": 9, "kernel": 1},
        "heads": {"op": "attention", "heads": 3},
        "grouped": {"op": "conv", "filters": 12, "kernel": 1, "groups": 3},
        "place": {"op": "position_embedding", "kind": "sincos2d"},
        "shuffle": {"op": "channel_shuffle", "groups": 6},
        "each": {"op": "conv", "filters": 12, "kernel": 3, "groups": "depthwise"},
        "space": {"op": "depth_to_space", "size": 2},
        "dense": {"op": "dense", "units": 5},
    }
    plan = make_plan(layers, (4, 4, 1), (5,))
    found = widen(plan, MatchedSize.PARAMS, int(factor * plan.num_params))
    assert found is not None
    widths = {name: value for name, (_, value) in found.changes.items()}
    assert widths["stem"] == widths["more"]
    assert found.plan.num_params == pytest.approx(factor * plan.num_params, rel=0.2)


def test_a_network_that_is_all_output_cannot_be_wider() -> None:
    plan = make_plan({"dense": {"op": "dense", "units": 5}}, (6, 6, 1), (5,))
    with pytest.raises(UsageError) as caught:
        widen(plan, MatchedSize.PARAMS, 10_000)
    assert str(caught.value) == (
        "--match: no layer but the output can be widened; compare another network."
    )


def test_widened_layers_that_do_not_fit_are_reported() -> None:
    layers: dict[str, dict[str, Any]] = {
        "conv": {"op": "conv", "filters": 1, "kernel": 3, "padding": "same"},
        "sum": {"op": "add", "inputs": ["input", "conv"]},
        "dense": {"op": "dense", "units": 5},
    }
    plan = make_plan(layers, (6, 6, 1), (5,))
    with pytest.raises(UsageError) as caught:
        widen(plan, MatchedSize.PARAMS, 10_000)
    assert str(caught.value) == (
        "--match: the widened layers do not fit together: layers.sum.inputs: add needs inputs of "
        "the same shape (input is 6x6x1, conv is 6x6x2); write an experiment file for the wider"
        " network."
    )


def run(*words: str) -> Any:
    command = ["run", *words, "--dataset", "mnist_5k", "--dry-run"]
    return CliRunner().invoke(app, command, env={"COLUMNS": "80"}, catch_exceptions=False)


def test_run_shows_the_wider_copy_after_the_first() -> None:
    specs = [str(EXPERIMENTS / f"{name}.yaml") for name in ("standard", "mlp")]
    done = run(*specs, "--match", "params")
    assert done.exit_code == 0
    assert done.stderr == (
        "--match params: added standard-wide, which is standard with 2.84x wider layers: 1,277,468 "
        "parameters; mlp has 1,276,810.\nThen run: cnnbench compare standard "
        "standard-wide mlp --baseline mlp\n"
    )
    titles = [line.strip() for line in done.stdout.splitlines() if "(standard)" in line]
    assert titles == ["Standard CNN (standard)", "Standard CNN (2.84x wide) (standard)"]
    assert done.stdout.index("2.84x wide") < done.stdout.index("MLP 800-800")


def test_run_reports_if_nothing_is_widened() -> None:
    specs = [str(EXPERIMENTS / f"{name}.yaml") for name in ("mlp", "standard")]
    done = run(*specs, "--match", "params")
    assert done.stderr == (
        "--match params: mlp has 1,276,810 parameters, at least as many as the others; not "
        "widened. List the smaller experiment first.\n"
    )
    assert "wide" not in done.stdout


def test_one_experiment_has_nothing_to_match() -> None:
    done = run(str(EXPERIMENTS / "mlp.yaml"), "--match", "flops")
    assert (done.exit_code, done.stderr) == (
        2,
        "--match: needs two experiments, got one; name another one to match.\n",
    )


def test_a_python_model_has_no_size_to_match(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(
        "name: own\ntask: classify\ndataset: {name: mnist_5k}\nmodel: {python: 'a.b:Net'}\n"
    )
    done = run(str(EXPERIMENTS / "standard.yaml"), str(path), "--match", "params")
    assert (done.exit_code, done.stderr) == (
        2,
        "--match: the size of the Python model own is unknown before it runs; define it with "
        "model.layers.\n",
    )
