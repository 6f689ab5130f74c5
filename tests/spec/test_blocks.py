"""Blocks, repeats and parameters expand to the network that one would write by hand."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from cnnbench.cli.app import app
from cnnbench.errors import SpecError
from cnnbench.spec.loader import Loaded, load_experiment
from tests.support.golden import approved
from tests.support.paths import EXPERIMENTS

RESNET = EXPERIMENTS / "zoo/resnet.yaml"
HEAD = "name: a\ntask: classify\ndataset: {name: mnist_5k}\n"
OUT = "    out: {op: dense, units: 10}\n"


def load(text: str, folder: Path, *overrides: str) -> Loaded:
    """An experiment that ends in ten classes."""
    path = folder / "a.yaml"
    path.write_text(HEAD + text + OUT)
    return load_experiment(path, overrides)


def network(loaded: Loaded) -> dict[str, str]:
    """Inputs and summary of each layer."""
    assert loaded.plan is not None
    return {n.name: f"{', '.join(n.inputs)}: {n.op.summary()}" for n in loaded.plan.nodes}


def messages(text: str, folder: Path, *overrides: str) -> list[str]:
    with pytest.raises(SpecError) as error:
        load(text, folder, *overrides)
    return str(error.value).replace(f"{folder}/", "").splitlines()


def conv_bn(name: str, source: str, filters: int, stride: int) -> dict[str, Any]:
    conv = {"op": "conv", "filters": filters, "kernel": 3, "stride": stride, "padding": "same"}
    return {
        f"{name}.conv": conv | {"inputs": source, "use_bias": False},
        f"{name}.norm": {"op": "batch_norm", "inputs": f"{name}.conv"},
    }


def relu(source: str) -> dict[str, Any]:
    return {"op": "activation", "activation": "relu", "inputs": source}


def written_by_hand(n: int) -> dict[str, Any]:
    """ResNet-(6n+2) of He et al. 2016, section 4.2, with projections, layer by layer."""
    layers = conv_bn("stem", "input", 16, 1) | {"stem_act": relu("stem.norm")}
    above = "stem_act"
    for stage in (1, 2, 3):
        for i in range(n):
            at, filters = f"stage{stage}.{i}", 8 * 2**stage
            stride = 2 if stage > 1 and i == 0 else 1
            layers |= conv_bn(f"{at}.a", above, filters, stride)
            layers[f"{at}.act"] = relu(f"{at}.a.norm")
            layers |= conv_bn(f"{at}.b", f"{at}.act", filters, 1)
            skip = above
            if stride == 2:
                conv = {"op": "conv", "filters": filters, "kernel": 1, "stride": 2}
                layers[f"{at}.skip.conv"] = conv | {"inputs": above, "use_bias": False}
                layers[f"{at}.skip.norm"] = {"op": "batch_norm"}
                skip = f"{at}.skip.norm"
            layers[f"{at}.sum"] = {"op": "add", "inputs": [f"{at}.b.norm", skip]}
            layers[f"{at}.out"] = relu(f"{at}.sum")
            above = f"{at}.out"
    return layers | {"pool": {"op": "global_avg_pool"}, "out": {"op": "dense", "units": 10}}


@pytest.mark.parametrize("n", [1, 3, 9])
def test_a_resnet_is_the_one_written_by_hand(n, tmp_path):
    path = tmp_path / "hand.yaml"
    head = {"name": "hand", "task": "classify", "dataset": {"name": "cifar10"}}
    path.write_text(yaml.dump(head | {"model": {"layers": written_by_hand(n)}}, sort_keys=False))
    macro, hand = load_experiment(RESNET, [f"model.params.n={n}"]), load_experiment(path)
    assert macro.experiment.digest() == hand.experiment.digest()
    assert network(macro) == network(hand)


def test_the_resolved_experiment_is_expanded_and_is_the_same(tmp_path):
    loaded = load_experiment(RESNET)
    path = tmp_path / "resolved.yaml"
    path.write_text(loaded.resolved())
    assert "blocks" not in loaded.resolved()
    again = load_experiment(path)
    assert again.experiment == loaded.experiment
    assert again.experiment.digest() == loaded.experiment.digest()


def test_default_inputs_do_not_change_a_digest(tmp_path):
    short = load("model:\n  layers:\n    a: {op: flatten}\n", tmp_path)
    long = load("model:\n  layers:\n    a: {op: flatten, inputs: [input]}\n", tmp_path)
    assert short.experiment.digest() == long.experiment.digest()


def test_names_are_paths_that_overrides_use():
    loaded = load_experiment(
        RESNET,
        [
            "model.stage2.0.a.conv.kernel=5",
            "model.stage3.1.filters=64",
            "model.stage3.0.skip.conv.use_bias=true",
        ],
    )
    assert loaded.plan is not None
    layers = loaded.plan.by_name
    assert layers["stage2.0.a.conv"].op.kernel == (5, 5)  # type: ignore[union-attr]
    assert layers["stage2.1.a.conv"].op.kernel == (3, 3)  # type: ignore[union-attr]
    assert layers["stage3.1.b.conv"].op.filters == 64  # type: ignore[union-attr]
    assert layers["stage3.0.skip.conv"].op.use_bias  # type: ignore[union-attr]


def test_an_unknown_layer_of_a_deep_network_is_refused_without_a_list():
    with pytest.raises(SpecError) as error:
        load_experiment(RESNET, ["model.stage2.7.a.conv.kernel=5"])
    assert str(error.value) == (
        "command line: model.stage2.7.a.conv.kernel: unknown layer 'stage2.7.a.conv' (did you mean"
        " 'stage2.0.a.conv'?); use the name of a layer; cnnbench show --expand lists them."
    )


def test_a_child_file_changes_layers_of_blocks(tmp_path):
    (tmp_path / "resnet.yaml").write_text(RESNET.read_text())
    child = tmp_path / "child.yaml"
    child.write_text(
        "extends: resnet.yaml\nname: child\nmodel:\n  params: {n: 1}\n  layers:\n"
        "    stage1.0.act: {op: dropout, rate: 0.5}\n    stage2: {filters: 24}\n"
        "    stage2.0.b.conv: {kernel: 5}\n"
    )
    loaded = load_experiment(child)
    assert loaded.plan is not None
    found = network(loaded)
    assert found["stage1.0.act"] == "stage1.0.a.norm: dropout 0.5"
    assert found["stage2.0.b.conv"] == "stage2.0.act: conv 24 @ 5x5, padding same"
    assert len(found) == len(written_by_hand(1))


def test_a_change_of_a_call_into_an_operation_replaces_it(tmp_path):
    """The rule of merged files; the parameters of the call are gone with it."""
    path = tmp_path / "resnet.yaml"
    path.write_text(RESNET.read_text())
    (tmp_path / "child.yaml").write_text(
        "extends: resnet.yaml\nname: child\nmodel:\n  layers:\n"
        "    stage1.0.a: {op: dropout, rate: 0.5}\n"
    )
    found = network(load_experiment(tmp_path / "child.yaml"))
    assert found["stage1.0.a"] == "stem_act: dropout 0.5"
    assert found["stage1.0.act"] == "stage1.0.a: activation, relu"
    assert "stage1.0.a.conv" not in found


def test_null_removes_layers_of_blocks_and_repetitions(tmp_path):
    """The next layer reads the one above, as with null for other layers."""
    (tmp_path / "resnet.yaml").write_text(RESNET.read_text())
    child = tmp_path / "child.yaml"
    child.write_text(
        "extends: resnet.yaml\nname: child\nmodel:\n  layers:\n    stage1.0.act: null\n"
        "    stage1.1.out: null\n    stage2.1: null\n    stage3.0.a.norm: null\n"
    )
    loaded = load_experiment(child, ["model.stage1.2.act=null", "model.stage3.2=null"])
    found = network(loaded)
    assert found["stage1.0.b.conv"].startswith("stage1.0.a.norm:")
    assert found["stage1.2.a.conv"].startswith("stage1.1.sum:")
    assert found["stage1.2.b.conv"].startswith("stage1.2.a.norm:")
    assert found["stage2.2.a.conv"].startswith("stage2.0.out:")
    assert found["stage3.0.act"].startswith("stage3.0.a.conv:")
    assert found["pool"].startswith("stage3.1.out:")
    gone = ("stage1.0.act", "stage1.1.out", "stage1.2.act", "stage3.0.a.norm")
    assert found.keys().isdisjoint(gone)
    assert not any(name.startswith(("stage2.1.", "stage3.2.")) for name in found)
    assert loaded.blocks["stage2"] == ("basic", 2)


SE = """\
model:
  params: {act: relu}
  blocks:
    gate:
      params: {ratio: 0.25}
      layers:
        pool: {op: global_avg_pool}
        down: {op: dense, units: {of_input: $ratio}, activation: $act}
        up: {op: dense, units: {of_input: 1}, activation: sigmoid}
        out: {op: multiply, inputs: [input, up]}
  layers:
    conv: {op: conv, filters: 10, kernel: 3}
    gate: {block: gate}
    both: {block: gate, ratio: {times: [0.5, 0.4]}, inputs: conv}
    sum: {op: add, inputs: [gate, both]}
"""


def test_values_are_parameters_products_and_multiples_of_the_input(tmp_path):
    found = network(load(SE, tmp_path, "model.params.act=tanh"))
    assert found["gate.down"] == "gate.pool: dense 2, tanh"
    assert found["both.down"] == "both.pool: dense 2, tanh"
    assert found["gate.up"] == "gate.down: dense 10, sigmoid"
    assert found["gate.out"] == "conv, gate.up: multiply"
    assert found["both.pool"] == "conv: global_avg_pool"
    assert found["sum"] == "gate.out, both.out: add"


@pytest.mark.parametrize(
    ("value", "filters"),
    [
        ("{times: [16, 0.5]}", 8),
        ("{times: [3, 5, 2]}", 30),
        ("{times: [32, 0.75], multiple_of: 8}", 24),
        ("{times: [10, 1], multiple_of: 8}", 16),  # 8 is less than 90% of 10
        ("{of_input: 6}", 6),
        ("{of_input: 20, multiple_of: 8}", 24),
        ("{of_input: 0.1}", 1),
    ],
)
def test_arithmetic(value, filters, tmp_path):
    """Multiples are those of `_make_divisible` in torchvision's MobileNet."""
    layers = f"model:\n  layers:\n    a: {{op: conv, filters: {value}, kernel: 1}}\n"
    loaded = load(layers, tmp_path)
    assert loaded.plan is not None
    assert loaded.plan.by_name["a"].layout.shape == (28, 28, filters)


def test_a_block_may_have_several_inputs_and_an_output(tmp_path):
    text = """\
model:
  blocks:
    up:
      output: cat
      layers:
        large: {op: upscale, size: 2, inputs: input.0}
        cat: {op: concat, inputs: [large, input.1]}
    all: {layers: {cat: {op: concat}}}
  layers:
    small: {op: max_pool, size: 2}
    up: {block: up, inputs: [small, input]}
    both: {block: all, inputs: [input, up]}
    next: {op: flatten}
"""
    assert network(load(text, tmp_path)) == {
        "small": "input: max_pool 2x2",
        "up.large": "small: upscale 2x2",
        "up.cat": "up.large, input: concat",
        "both.cat": "input, up.cat: concat",
        "next": "both.cat: flatten",
        "out": "next: dense 10",
    }


REPEATS = """\
model:
  blocks:
    conv:
      params: {filters: 2, kernel: 1}
      layers: {c: {op: conv, filters: $filters, kernel: $kernel}}
    pool: {layers: {p: {op: max_pool, size: 2}}}
  layers:
    a: {block: conv, repeat: 3, filters: {each: [4, 5, 6]}, first: {kernel: 3}, last: {block: pool}}
    b: {block: conv, repeat: 1, first: {filters: 7}, last: {kernel: 5}, inputs: a.1}
"""


def test_first_last_and_each_differ_between_repetitions(tmp_path):
    found = network(load(REPEATS.replace("inputs: a.1", "inputs: a"), tmp_path))
    assert found == {
        "a.0.c": "input: conv 4 @ 3x3",
        "a.1.c": "a.0.c: conv 5 @ 1x1",
        "a.2.p": "a.1.c: max_pool 2x2",
        "b.0.c": "a.2.p: conv 7 @ 5x5",
        "out": "b.0.c: dense 10",
    }


def test_the_values_of_repetitions_may_be_a_parameter(tmp_path):
    written = BAD.replace("n: 2", "n: 2, sizes: [4, 6]").replace(
        "filters: 4}", "filters: {each: $sizes}}"
    )
    text = HEAD + written + OUT
    (tmp_path / "a.yaml").write_text(text)
    found = network(load_experiment(tmp_path / "a.yaml"))
    assert found["stage.0.a"].endswith("conv 4 @ 3x3")
    assert found["stage.1.a"].endswith("conv 6 @ 3x3")
    (tmp_path / "a.yaml").write_text(text.replace("[4, 6]", "[4]"))
    with pytest.raises(SpecError) as error:
        load_experiment(tmp_path / "a.yaml")
    assert "stage.filters.each: has 1 value for 2 repetitions; list 2 values" in str(error.value)


def test_parameters_of_another_first_or_last_block_are_checked(tmp_path):
    """Those of the call need not fit it, those written beside it must."""
    wrong = REPEATS.replace("last: {block: pool}", "last: {block: pool, filters: 3}")
    assert messages(wrong, tmp_path)[0] == (
        "a.yaml:11:101: model.layers.a.last.filters: block 'pool' has no parameter 'filters';"
        " remove it."
    )
    wrong = REPEATS.replace("last: {block: pool}", "last: {block: pool}, filter: 3")
    assert messages(wrong, tmp_path)[0] == (
        "a.yaml:11:102: model.layers.a.filter: block 'conv' has no parameter 'filter' (did you mean"
        " 'filters'?); use filters or kernel."
    )


@pytest.mark.parametrize(("n", "published"), [(3, 269_722), (9, 853_018)])
def test_parameters_are_those_of_the_paper(n, published):
    """With padded shortcuts: 0.27 and 0.85 million (He et al. 2016, table 6)."""
    projections = 16 * 32 + 32 * 64 + 2 * 32 + 2 * 64
    for kind, more in (("pad", 0), ("conv", projections)):
        text = f"model.params.shortcut={kind}"
        loaded = load_experiment(RESNET, [f"model.params.n={n}", text])
        assert loaded.plan is not None
        assert loaded.plan.num_params == published + more


def test_a_padded_shortcut_subsamples_and_adds_zero_channels():
    found = network(load_experiment(RESNET, ["model.params.shortcut=pad"]))
    assert found["stage2.0.skip.subsample"] == "stage1.2.out: max_pool 1x1, stride 2x2"
    assert found["stage2.0.skip.pad"] == "stage2.0.skip.subsample: zero_pad, channels 8 + 8"
    assert found["stage2.0.sum"] == "stage2.0.b.norm, stage2.0.skip.pad: add"
    assert found["stage2.1.sum"] == "stage2.1.b.norm, stage2.0.out: add"


BAD = """\
model:
  params: {n: 2}
  blocks:
    pair:
      params: {filters: , kernel: 3}
      layers:
        a: {op: conv, filters: $filters, kernel: $kernel}
        b: {op: conv, filters: $filters, kernel: $kernel}
  layers:
    stage: {block: pair, repeat: $n, filters: 4}
"""


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "filters: 4}",
            "filters: 0}",
            "a.yaml:13:47: model.layers.stage.0.a.filters (line 10, called on line 13):"
            " 0 is too small; use 1 or more.",
        ),
        (
            "kernel: 3}",
            "kernel: 40}",
            "a.yaml:8:35: model.layers.stage.0.a.kernel (line 10, called on line 13):"
            " a 40x40 kernel is larger than the 28x28x1 input; use [28, 28] or less, or"
            " padding: same.",
        ),
        (
            "block: pair",
            "block: pear",
            "a.yaml:13:20: model.layers.stage.block: unknown block 'pear'; use pair.",
        ),
        (
            "filters: 4}",
            "fliters: 4}",
            "a.yaml:13:38: model.layers.stage.fliters: block 'pair' has no parameter 'fliters'"
            " (did you mean 'filters'?); use filters or kernel.",
        ),
        (
            ", filters: 4}",
            "}",
            "a.yaml:13:12: model.layers.stage: block 'pair' needs a value for 'filters';"
            " add 'filters: ...'.",
        ),
        (
            "repeat: $n",
            "repeat: $m",
            "a.yaml:13:34: model.layers.stage.repeat: unknown parameter '$m'; use $n.",
        ),
        (
            "repeat: $n",
            "repeat: 2",
            "a.yaml:5:12: model.params.n: parameter 'n' is not used; write $n in a layer, or"
            " remove it.",
        ),
        (
            "n: 2",
            "n: 0",
            "a.yaml:5:15: model.params.n: 0 is not a number of repetitions; use a positive"
            " integer.",
        ),
        (
            "n: 2",
            "n: 10001",
            "a.yaml:13:12: model.layers.stage: expands to more than 10,000 layers; repeat fewer"
            " blocks.",
        ),
        (
            "a: {op: conv, filters: $filters",
            "a: {op: conv, out_channels: $filters, filters: 4",
            "a.yaml:10:23: model.layers.stage.0.a.out_channels (line 10, called on line 13):"
            " unknown key 'out_channels' (did you mean 'filters'?); use inputs, op, filters,"
            " kernel, stride, padding, activation, use_bias, init, groups, dilation, bias_init,"
            " trainable or weights.",
        ),
        (
            "filters: 4}",
            "filters: 4, inputs: [input, stages]}",
            "a.yaml:13:66: model.layers.stage.inputs.1: unknown layer 'stages'; use input or out.",
        ),
        (
            "repeat: $n",
            "repeats: $n",
            "a.yaml:13:26: model.layers.stage.repeats: block 'pair' has no parameter 'repeats' (did"
            " you mean 'repeat'?); use filters, kernel, repeat, first, last, inputs or weights.",
        ),
        (
            "filters: 4}",
            "filters: {times: [1.5, 3]}}",
            "a.yaml:13:47: model.layers.stage.0.a.filters (line 10, called on line 13): expected an"
            " integer, got 4.5; add multiple_of: 1 to round it.",
        ),
        (
            "filters: 4}",
            "filters: {plus: [1, 3]}}",
            "a.yaml:13:47: model.layers.stage.0.a.filters (line 10, called on line 13): expected an"
            " integer, got a mapping; use an integer, {times: [A, B]} or {of_input: A}.",
        ),
        (
            "b: {op: conv, filters: $filters",
            "b: {op: conv, filters: 2 * $filters",
            "a.yaml:11:32: model.blocks.pair.layers.b.filters: '2 * $filters' is not the name of a"
            " parameter; use $NAME alone; write a product as {times: [2, $filters]}.",
        ),
        (
            "b: {op: conv, filters: $filters",
            "b: {op: conv, filters: $filters + 1",
            "a.yaml:11:32: model.blocks.pair.layers.b.filters: '$filters + 1' is not the name of a"
            " parameter; use $NAME alone; write a product as {times: [2, $width]}.",
        ),
        (
            "b: {op: conv, filters: $filters",
            'b: {op: conv, filters: "${filters}"',
            "a.yaml:11:32: model.blocks.pair.layers.b.filters: '${filters}' is not the name of a"
            " parameter; use $filters.",
        ),
        (
            "b: {op: conv, filters: $filters",
            "b: {op: conv, inputs: c, filters: $filters",
            "a.yaml:11:31: model.blocks.pair.layers.b.inputs: unknown layer 'c' in block 'pair';"
            " use input, a or b.",
        ),
        (
            "b: {op: conv, filters: $filters, kernel: $kernel}",
            "b: {block: pair, filters: 2}",
            "a.yaml:11:20: model.blocks.pair.layers.b.block: the block contains itself (pair calls"
            " pair); use another block.",
        ),
        (
            "params: {filters: , kernel: 3}",
            "params: {filters: , kernel: 3, repeat: 1}",
            "a.yaml:8:38: model.blocks.pair.params.repeat: 'repeat' is a key of a call; choose"
            " another name.",
        ),
        (
            "layers:\n        a:",
            "layer: {}\n      layers:\n        a:",
            "a.yaml:9:7: model.blocks.pair.layer: unknown key 'layer' (did you mean 'layers'?);"
            " use params, layers or output.",
        ),
        (
            "filters: 4}",
            "filters: {times: [4, x]}}",
            "a.yaml:13:55: model.layers.stage.filters.times: [4, 'x'] cannot be multiplied; use"
            " numbers, as in {times: [16, $width]}.",
        ),
        (
            "filters: 4}",
            "filters: {each: [4]}}",
            "a.yaml:13:54: model.layers.stage.filters.each: has 1 value for 2 repetitions; list 2"
            " values.",
        ),
        (
            "filters: 4}",
            "filters: 4, inputs: 5}",
            "a.yaml:13:58: model.layers.stage.inputs: 5 is not a layer name; use a layer name or a"
            " list of names.",
        ),
        (
            "filters: 4}",
            "filters: 4, last: {repeat: 2}}",
            "a.yaml:13:57: model.layers.stage.last.repeat: repeat cannot differ between"
            " repetitions; set it on the call.",
        ),
        (
            "filters: 4}",
            "filters: 4, first: 2}",
            "a.yaml:13:57: model.layers.stage.first: 2 is not a mapping; use parameters of the"
            " block, as in first: {stride: 2}.",
        ),
    ],
)
def test_errors_name_the_line_in_the_block_and_the_call(old, new, expected, tmp_path):
    assert BAD.count(old) == 1
    assert messages(BAD.replace(old, new), tmp_path) == [expected]


SHARED = """model:
  blocks:
    inner:
      layers:
        conv: {op: conv, filters: 4, kernel: 3, padding: same}
        norm: {op: batch_norm, scale: false, center: false}
    body:
      params: {kernel: 3}
      layers:
        twice: {block: inner, repeat: 2, weights: shared}
        mix: {op: conv, filters: 4, kernel: $kernel, padding: same}
        like: {op: conv, filters: 4, kernel: $kernel, padding: same, weights: mix}
        up: {op: conv_transpose, tie: like}
  layers:
    stem: {op: conv, filters: 4, kernel: 3}
    stage: {block: body, repeat: 2, weights: shared}
"""


def test_repetitions_share_the_weights_of_the_first(tmp_path):
    loaded = load(SHARED, tmp_path)
    assert loaded.plan is not None
    owners = {n.name: n.owner for n in loaded.plan.nodes if n.owner != n.name}
    assert owners == {
        "stage.0.twice.1.conv": "stage.0.twice.0.conv",
        "stage.0.twice.1.norm": "stage.0.twice.0.norm",
        "stage.0.like": "stage.0.mix",
        "stage.1.twice.0.conv": "stage.0.twice.0.conv",
        "stage.1.twice.0.norm": "stage.0.twice.0.norm",
        "stage.1.twice.1.conv": "stage.0.twice.0.conv",
        "stage.1.twice.1.norm": "stage.0.twice.0.norm",
        "stage.1.mix": "stage.0.mix",
        "stage.1.like": "stage.0.mix",
        "stage.1.up": "stage.0.up",
    }
    kernels = {n.kernel_owner for n in loaded.plan.nodes if n.op.op == "conv_transpose"}
    assert kernels == {"stage.0.mix"}
    conv = 3 * 3 * 4 * 4 + 4
    assert loaded.plan.num_params == (9 * 4 + 4) + conv + conv + 4 + (26 * 26 * 4 * 10 + 10)
    again = tmp_path / "again.yaml"
    again.write_text(loaded.resolved())
    digest = loaded.experiment.digest()
    assert load_experiment(again).experiment.digest() == digest
    new = load(SHARED.replace(", weights: shared", ", weights: new"), tmp_path)
    default = load(SHARED.replace(", weights: shared", ""), tmp_path)
    assert new.experiment.digest() == default.experiment.digest() != digest


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "stem: {op: conv, filters: 4",
            "stem: {op: conv, filters: 8",
            "a.yaml:13:51: model.layers.stage.0.twice.1.conv.weights (line 8, called on line 13,"
            " line 19): needs kernel 3x3x4x4 for input 26x26x4, but 'stage.0.twice.0.conv' has"
            " kernel 3x3x8x4 for input 26x26x8; use inputs of one shape, or remove weights.",
        ),
        (
            "body, repeat: 2, weights: shared}\n",
            "body, repeat: 2, weights: both}\n",
            "a.yaml:19:46: model.layers.stage.weights: 'both' is not a choice of weights; use new"
            " or shared.",
        ),
        (
            "body, repeat: 2, weights: shared}\n",
            "body, weights: shared}\n",
            "a.yaml:19:35: model.layers.stage.weights: only repetitions share weights; add"
            " 'repeat: ...', or remove weights.",
        ),
        (
            "body, repeat: 2,",
            "body, repeat: 2, first: {kernel: 5},",
            "a.yaml:19:66: model.layers.stage.1.mix.weights (line 14, called on line 19): needs"
            " kernel 3x3x4x4 for input 26x26x4, but 'stage.0.mix' has kernel 5x5x4x4 for input"
            " 26x26x4; use inputs of one shape, or remove weights.",
        ),
        (
            "body, repeat: 2,",
            "body, repeat: 2, first: {block: inner},",
            "a.yaml:19:69: model.layers.stage.weights: the first repetition has no layer to share"
            " weights with 'stage.1.twice.0.conv'; use one block for all repetitions, or weights:"
            " new.",
        ),
        (
            "body, repeat: 2,",
            "body, repeat: 2, last: {weights: new},",
            "a.yaml:19:44: model.layers.stage.last.weights: weights cannot differ between"
            " repetitions; set it on the call.",
        ),
        (
            "weights: mix}",
            "weights: up}",
            "a.yaml:15:79: model.layers.stage.0.like.weights (line 15, called on line 19):"
            " 'stage.0.up' is a conv_transpose layer, not a conv layer; use stem,"
            " stage.0.twice.0.conv, stage.0.twice.1.conv, stage.0.mix, stage.1.twice.0.conv,"
            " stage.1.twice.1.conv, stage.1.mix or stage.1.like.",
        ),
    ],
)
def test_errors_of_shared_weights(old, new, expected, tmp_path):
    assert SHARED.count(old) == 1
    assert expected in messages(SHARED.replace(old, new), tmp_path)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "model.params.m=3",
            "command line: model.params.m: parameter 'm' is not used; write $m in a layer, or"
            " remove it.",
        ),
        (
            "model.stage.2.a.kernel=5",
            "command line: model.stage.2.a.kernel: unknown layer 'stage.2.a' (did you mean"
            " 'stage.0.a'?); use stage, out, stage.0, stage.0.a, stage.0.b, stage.1, stage.1.a or"
            " stage.1.b.",
        ),
        (
            "model.stage.1.a.kernel=0",
            "command line: model.layers.stage.1.a.kernel (a.yaml:10, called on a.yaml:13): 0 is"
            " not a valid size; use a positive integer, or a pair [height, width] such as [3, 5].",
        ),
        (
            "model.stage.a.kernel=5",
            "command line: model.layers.stage.a: block 'pair' has no parameter 'a'; use"
            " model.blocks.pair.layers.a to change its layer in all calls.",
        ),
        (
            "model.stage.1.c={op: flatten}",
            "command line: model.layers.stage.1.c: block 'pair' has no parameter 'c'; use filters"
            " or kernel.",
        ),
        (
            "model.stage.1.a.kernl=null",
            "command line: model.layers.stage.1.a.kernl (a.yaml:10, called on a.yaml:13): unknown"
            " key 'kernl' (did you mean 'kernel'?); use inputs, op, filters, kernel, stride,"
            " padding, activation, use_bias, init, groups, dilation, bias_init, trainable or"
            " weights.",
        ),
        (
            "model.stage.1.kernl=null",
            "command line: model.layers.stage.1.kernl: block 'pair' has no parameter 'kernl' (did"
            " you mean 'kernel'?); use filters or kernel.",
        ),
        (
            "model.pair.a.kernel=5",
            "command line: model.pair.a.kernel: 'pair' is a block, not a layer; use"
            " model.blocks.pair.layers.a.kernel.",
        ),
        (
            "model.pair=5",
            "command line: model.pair: 'pair' is a block, not a layer; use model.blocks.pair.",
        ),
        (
            "model.stage.2=null",
            "command line: model.stage.2: unknown layer 'stage.2' (did you mean 'stage'?); use"
            " stage, out, stage.0, stage.0.a, stage.0.b, stage.1, stage.1.a or stage.1.b.",
        ),
        (
            "model.again={block: pair, filters: 0}",
            "command line: model.layers.again.a.filters (a.yaml:10, called on command line): 0 is"
            " too small; use 1 or more.",
        ),
    ],
)
def test_errors_of_overrides(override, expected, tmp_path):
    assert messages(BAD, tmp_path, override) == [expected]


def test_show_folds_blocks_and_summarizes_what_follows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("resnet.yaml").write_text(RESNET.read_text())
    Path("deeper.yaml").write_text(
        "extends: resnet.yaml\nname: deeper\nmodel: {params: {n: 5, width: 2}}\n"
    )
    words = ["show", "resnet.yaml", "deeper.yaml"]
    done = CliRunner().invoke(app, words, env={"COLUMNS": "80"}, catch_exceptions=False)
    assert done.stdout == approved("show_resnet.txt", done.stdout)


def test_show_expands_blocks():
    words = ["show", str(RESNET), "model.params.n=1"]
    folded, expanded = (
        CliRunner().invoke(app, [*words, *more], env={"COLUMNS": "200"}).stdout
        for more in ([], ["--expand"])
    )
    assert "stage3  " in folded
    assert "stage3.0.skip.norm  " not in folded
    assert "stage3.0.skip.norm  " in expanded
    assert folded.splitlines()[-2].split() == expanded.splitlines()[-2].split()


def test_show_names_the_layers_of_folded_blocks_that_are_changed():
    words = ["show", str(RESNET), "model.stage2.1.act.activation=gelu", "model.stage1.2=null"]
    folded, expanded = (
        CliRunner().invoke(app, [*words, *more], env={"COLUMNS": "80"}).stdout
        for more in ([], ["--expand"])
    )
    assert "\nChanged by path: stage2.1.act and stage1.2\n" in folded
    assert "Changed by path" not in expanded


def test_a_child_file_adds_layers_to_a_block(tmp_path):
    """They come last, so inputs and output are explicit; an empty parameter stays required."""
    (tmp_path / "b.yaml").write_text(HEAD + REPEATS.replace("a.1}", "a}") + OUT)
    changed = (
        "extends: b.yaml\nname: child\nmodel:\n  blocks:\n    conv:\n      params: {filters: }\n"
        "      output: c\n"
        "      layers: {act: {op: activation, activation: relu, inputs: input}, c: {inputs: act}}\n"
    )
    child = tmp_path / "child.yaml"
    child.write_text(changed)
    assert network(load_experiment(child))["a.0.act"] == "input: activation, relu"
    assert network(load_experiment(child))["a.0.c"] == "a.0.act: conv 4 @ 3x3"
    child.write_text(changed + "  layers: {d: {block: conv, inputs: a}, out: {inputs: [d, b]}}\n")
    with pytest.raises(SpecError) as error:
        load_experiment(child)
    assert "block 'conv' needs a value for 'filters'; add 'filters: ...'" in str(error.value)
    child.write_text(changed.replace("inputs: input", "inputs: c"))
    with pytest.raises(SpecError) as error:
        load_experiment(child)
    assert "the layers form a cycle (a.0.c reads a.0.act reads a.0.c)" in str(error.value)


WIDE = """\
model:
  blocks:
    wide: {layers: {c: {op: conv, filters: {of_input: 2}, kernel: 1}}}
  layers:
"""


def test_a_cycle_before_a_value_that_depends_on_a_shape_is_an_error(tmp_path):
    text = (
        f"{WIDE}    a: {{op: dropout, rate: 0.5, inputs: b}}\n    b: {{op: flatten, inputs: a}}\n"
        "    w: {block: wide}\n"
    )
    assert "the layers form a cycle (a reads b reads a)" in messages(text, tmp_path)[0]


def test_shapes_of_deep_networks_are_found(tmp_path):
    layers = "".join(f"    a{i}: {{op: activation, activation: relu}}\n" for i in range(1500))
    text = f"{WIDE}{layers}    w: {{block: wide}}\n"
    assert network(load(text, tmp_path))["w.c"] == "a1499: conv 2 @ 1x1"
