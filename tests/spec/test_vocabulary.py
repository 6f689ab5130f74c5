"""Suggestions: similar spellings, names in other libraries, and unsupported features."""

import re
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from cnnbench.cli.app import app
from cnnbench.errors import KnownNames, SpecError, nearest, normalized, spelling_distance
from cnnbench.layers import OPERATIONS
from cnnbench.layers.activation import ACTIVATION_NAMES
from cnnbench.layers.parameters import INIT_NAMES
from cnnbench.spec import vocabulary
from cnnbench.spec.experiment import LOSSES, Experiment, Task
from cnnbench.spec.json_schema import schema
from cnnbench.spec.loader import load_experiment
from cnnbench.spec.metrics import METRICS
from cnnbench.spec.optimizers import OPTIMIZERS, SCHEDULES

LOSS_NAMES = {name for names in LOSSES.values() for name in names}
METRIC_NAMES = {name for name, metric in METRICS.items() if metric.tasks}
TEST_NAMES = {f"test_{name}" for name in METRIC_NAMES}
SPEC = """\
name: idea
task: classify
dataset: {name: mnist_5k}
model:
  layers:
    c: {op: conv, filters: 8, kernel: 5}
    p: {op: max_pool, size: 2}
    b: {op: batch_norm}
    d: {op: dropout, rate: 0.5}
    out: {op: dense, units: 10}
train: {}
"""


def keys() -> set[str]:
    """Every key of the language, from its JSON Schema."""
    return {key for part in schema()["$defs"].values() for key in part.get("properties", ())}


NOUNS: dict[str, tuple[KnownNames, Iterable[str]]] = {
    "operation": (vocabulary.OPERATION, OPERATIONS),
    "activation": (vocabulary.ACTIVATION, ACTIVATION_NAMES),
    "init": (vocabulary.INIT, INIT_NAMES),
    "optimizer": (vocabulary.OPTIMIZER, OPTIMIZERS),
    "schedule": (vocabulary.SCHEDULE, SCHEDULES),
    "loss": (vocabulary.LOSS, LOSS_NAMES),
    "metric": (vocabulary.METRIC, (*METRIC_NAMES, *TEST_NAMES, "loss")),
    "task": (vocabulary.TASK, list(Task)),
    "precision": (vocabulary.PRECISION, ["float32", "bfloat16"]),
    "kind": (vocabulary.KIND, ["symmetric", "pair", "long_tailed", "step"]),
    "key": (vocabulary.KEY, keys()),
}


@pytest.mark.parametrize("name", NOUNS)
def test_unsupported_names_are_not_supported(name: str) -> None:
    """Names that become supported must be removed from the unsupported ones."""
    noun, ours = NOUNS[name]
    lacking = {normalized(word) for word in noun.unsupported.split()}
    allowed = {"alpha", "dropout"} if name == "key" else set()  # one has it, others not
    assert lacking & {normalized(word) for word in ours} <= allowed
    theirs = {normalized(word) for words in noun.aliases.values() for word in words}
    assert lacking & theirs <= allowed


@pytest.mark.parametrize("name", NOUNS)
def test_all_words_of_others_are_for_ours_and_found(name: str) -> None:
    noun, ours = NOUNS[name]
    assert set(noun.aliases) <= set(ours)
    for word, others in noun.aliases.items():
        for other in others:
            assert noun.match(other, [word]) == word
            assert not noun.is_unsupported(word, ours)


@pytest.mark.parametrize("name", NOUNS)
def test_unsupported_names_get_no_suggestion(name: str) -> None:
    noun, ours = NOUNS[name]
    for word in noun.unsupported.split():
        if name != "key":
            assert noun.match(word, ours) is None
        assert noun.is_unsupported(word, ours)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("operation", "LPPool2d MaxUnpool2d Bilinear sep_conv SepConv2D sub"),
        ("activation", "Bilinear Softmax2d"),
        ("loss", "LogCosh MAPE MSLE"),
        ("metric", "MSLE"),
    ],
)
def test_other_libraries_words_are_not_taken_for_near_ones(name: str, words: str) -> None:
    noun, ours = NOUNS[name]
    assert [noun.match(word, ours) for word in words.split()] == [None] * len(words.split())


WORDS = st.text("abcd", max_size=9)


def slow_distance(one: str, other: str) -> int:
    """Optimal string alignment from its definition, without a table."""
    if not one or not other:
        return len(one) + len(other)
    best = min(
        slow_distance(one[:-1], other) + 1,
        slow_distance(one, other[:-1]) + 1,
        slow_distance(one[:-1], other[:-1]) + (one[-1] != other[-1]),
    )
    if one[-2:] == other[:-3:-1] and len(one) > 1:
        best = min(best, slow_distance(one[:-2], other[:-2]) + 1)
    return best


@given(st.text("abc", max_size=5), st.text("abc", max_size=5), st.integers(0, 5))
def test_distance_of_spellings(one: str, other: str, most: int) -> None:
    true = slow_distance(one, other)
    assert spelling_distance(one, other, most) == (true if true <= most else None)


@given(WORDS, st.lists(WORDS, max_size=5))
def test_the_nearest_of_words_is_found_within_a_third_of_the_letters(
    word: str, words: list[str]
) -> None:
    most = (0, 1, 2, 3)[len(word) // 3]
    distances = {other: spelling_distance(word, other, 99) or 0 for other in words}
    near = [other for other, distance in distances.items() if distance <= most]
    found = nearest(word, words)
    assert (found is None) == (not near or not word)
    assert found is None or distances[found] == min(distances.values())


@pytest.mark.parametrize(
    ("word", "choices"),
    [
        ("attention", OPERATIONS),
        ("pad", OPERATIONS),
        ("rms_norm", OPERATIONS),
        ("dilation", OPERATIONS),
        ("crop", OPERATIONS),
        ("adan", OPTIMIZERS),
        ("adamax", ["adam", "adagrad"]),
        ("celu", ["tanh", "sigmoid"]),
        ("x1", ["c", "p"]),
        ("", ["a"]),
    ],
)
def test_spelling_alone_does_not_mislead(word: str, choices: Iterable[str]) -> None:
    found = nearest(word, choices)
    assert found is None or spelling_distance(word, found, 2) is not None


def complaint(*overrides: str) -> str:
    Path("idea.yaml").write_text(SPEC)
    with pytest.raises(SpecError) as caught:
        load_experiment(Path("idea.yaml"), overrides)
    (line,) = str(caught.value).splitlines()
    return line.removeprefix("command line: ").partition(": ")[2]


PYTHON = "write the network as a Python class (model.python)"


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("model.x={op: Conv2D}", "conv"),
        ("model.x={op: nn.Conv2d}", "conv"),
        ("model.x={op: keras.layers.MaxPooling2D}", "max_pool"),
        ("model.x={op: MaxPool2d}", "max_pool"),
        ("model.x={op: Linear}", "dense"),
        ("model.x={op: Dense}", "dense"),
        ("model.x={op: Flatten}", "flatten"),
        ("model.x={op: BatchNormalization}", "batch_norm"),
        ("model.x={op: nn.LayerNorm}", "layer_norm"),
        ("model.x={op: nn.PReLU}", "prelu"),
        ("model.x={op: GroupNormalization}", "group_norm"),
        ("model.x={op: LayerScale}", "scale"),
        ("model.x={op: Rescaling}", "scale"),
        ("model.x={op: GlobalAveragePooling2D}", "global_avg_pool"),
        ("model.x={op: Dropout}", "dropout"),
        ("model.x={op: nn.Dropout2d}", "spatial_dropout"),
        ("model.x={op: StochasticDepth}", "drop_path"),
        ("model.x={op: VectorQuantizer}", "vector_quantizer"),
        ("model.x={op: Concatenate}", "concat"),
        ("model.x={op: Multiply}", "multiply"),
        ("model.x={op: GlobalMaxPooling2D}", "global_max_pool"),
        ("model.x={op: nn.AdaptiveMaxPool2d}", "global_max_pool"),
        ("model.x={op: torch.mul}", "multiply"),
        ("model.x={op: nn.PixelShuffle}", "depth_to_space"),
        ("model.x={op: ChannelShuffle}", "channel_shuffle"),
        ("model.x={op: dnese}", "dense"),
        ("model.c.n_filters=3", "filters"),
        ("model.c.out_channels=3", "filters"),
        ("model.c.kernel_size=3", "kernel"),
        ("model.c.strides=3", "stride"),
        ("model.c.activation=swish", "silu"),
        ("model.c.init=xavier_normal", "glorot_normal"),
        ("model.c.init=trunc_normal_", "truncated_normal"),
        ("model.c.init={name: trunc_normal, stddev: 0.02}", "truncated_normal"),
        ("model.c.init=nn.init.dirac_", "dirac"),
        ("model.c.bias_initializer=zeros", "bias_init"),
        ("model.c.requires_grad=false", "trainable"),
        ("model.p.pool_size=3", "size"),
        ("model.d.p=3", "rate"),
        ("model.b.eps=3", "epsilon"),
        ("model.out.out_features=3", "units"),
        ("model.out.inputs=image", "input"),
        ("train.lr=1", "train.optimizer.learning_rate"),
        ("train.momentum=1", "train.optimizer.momentum"),
        ("train.optimizer.lr=1", "learning_rate"),
        ("train.optimizer=AdamW", "adamw"),
        ("train.schedule=StepLR", "step"),
        ("train.loss=CrossEntropyLoss", "cross_entropy"),
        ("train.metrics=[top5]", "top5_accuracy"),
        ("train.seed=3", "seeds"),
        ("train.num_epochs=3", "epochs"),
        ("dataset.train=3", "dataset.splits.train"),
        ("dataset.batch_size=3", "train.batch_size"),
        ("dataset.name=FashionMNIST", "fashion_mnist"),
        ("dataset.name=mnst", "mnist"),
        ("task=classification", "classify"),
        ("layers={}", "model.layers"),
        ("lr=1", "train.optimizer.learning_rate"),
    ],
)
def test_words_of_others_and_slips(override, meant, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert f" (did you mean '{meant}'?); " in complaint(override)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (f"model.x={{op: {word}}}", f"operation '{word}' is not supported; {PYTHON}.")
        for word in ("cross_attention", "rms_norm", "lstm")
    ]
    + [
        (f"model.x={{op: {word}}}", f"operation '{word}' is not supported; {way}, or {PYTHON}.")
        for word, way in (
            ("depthwise_conv", "use a conv with groups: depthwise"),
            ("dilation", "use a conv with dilation: 2"),
            (
                "Transformer",
                "repeat a block of layer_norm, attention and 1x1 conv, as in zoo/vit_b_16",
            ),
            ("unsqueeze", "use a reshape"),
            ("groups", "use a conv with groups: 2"),
            ("InstanceNorm2d", "use a group_norm with one group per channel"),
            ("InstanceNormalization", "use a group_norm with one group per channel"),
        )
    ]
    + [
        (
            "model.x={op: SqueezeExcite}",
            "operation 'SqueezeExcite' is not supported; use a global_avg_pool, two"
            f" dense layers and a multiply, or {PYTHON}.",
        ),
        (
            "model.x={op: nn.ReLU}",
            "'nn.ReLU' is an activation, not an operation; use {op: activation, activation: relu}.",
        ),
        (
            "model.c.activation=prelu",
            "activation 'prelu' is not supported; add a layer with op: prelu.",
        ),
        (
            "model.x={op: relu}",
            "'relu' is an activation, not an operation; use {op: activation, activation: relu}.",
        ),
        (
            "model.c.activation=celu",
            "activation 'celu' is not supported; use linear, relu, tanh, sigmoid, leaky_relu, elu,"
            " gelu, silu, softplus, relu6, hard_sigmoid, hard_silu, mish, selu or gelu_exact; or"
            f" {PYTHON}.",
        ),
        (
            "model.p.dilation=2",
            "max_pool has no 'dilation' (available for conv); use inputs, op, size, stride, padding"
            " or ceil_mode.",
        ),
        (
            "model.p.groups=2",
            "max_pool has no 'groups' (available for conv, channel_shuffle and group_norm); use"
            " inputs, op, size, stride, padding or ceil_mode.",
        ),
        (
            "model.out.kernel=3",
            "dense has no 'kernel' (available for conv and conv_transpose); use inputs, op, units,"
            " activation, use_bias, init, bias_init, trainable or weights.",
        ),
        (
            "model.b.size=3",
            "batch_norm has no 'size' (available for max_pool, avg_pool, upscale, slice,"
            " space_to_depth and depth_to_space);"
            " use inputs,"
            " op, momentum, epsilon, scale, center, trainable or weights.",
        ),
        (
            "train.optimizer=adan",
            "optimizer 'adan' is not supported; use sgd, adam, adamw, radam, adamax, rmsprop,"
            " adagrad, adadelta, lamb, lars, lion or muon.",
        ),
        (
            "train.precision=float16",
            "precision 'float16' is not supported; use float32 or bfloat16.",
        ),
        (
            "train.swa=3",
            "'swa' is not supported; use epochs,"
            " batch_size, optimizer, schedule, groups, precision, loss, metrics, clip,"
            " label_smoothing,"
            " class_weights, pos_weight, ema,"
            " early_stopping, restore_best or drop_last.",
        ),
        (
            "train.dropout=0.5",
            "unknown key 'dropout'; add a layer with op: dropout, or use epochs,"
            " batch_size, optimizer, schedule, groups, precision, loss, metrics, clip,"
            " label_smoothing,"
            " class_weights, pos_weight, ema,"
            " early_stopping, restore_best or drop_last.",
        ),
        *[
            (f"model.{layer}={{op: {name}}}", f"unknown operation '{name}'; use LIST; or {PYTHON}.")
            for layer, name in (
                ("x", "zebra"),
                ("optimizer", "zebra"),
                ("x", "ConvLSTM2D"),
                ("x", "fft"),
                ("x", "GRN"),  # is not GroupNorm, gn
            )
        ],
        (
            "model.c.activation=zebra",
            "unknown activation 'zebra'; use linear, relu, tanh, sigmoid, leaky_relu, elu, gelu,"
            " silu, softplus, relu6, hard_sigmoid, hard_silu, mish, selu or gelu_exact; or"
            f" {PYTHON}.",
        ),
    ],
)
def test_unsupported_features_are_reported(override, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    *names, last = OPERATIONS
    assert complaint(override) == message.replace("LIST", f"{', '.join(names)} or {last}")


@pytest.mark.parametrize("inputs", ["la", "laa", "lb", "lc", "lab"])
def test_suggestions_exclude_the_layer_and_its_consumers(inputs, tmp_path, monkeypatch):
    """`la` would be nearest to all of these, and `lb` and `lc` read it."""
    monkeypatch.chdir(tmp_path)
    text = SPEC.replace(
        "    b: {op: batch_norm}\n    d:",
        f"    lax: {{op: add, inputs: [{inputs}x, p]}}\n"
        "    lbx: {op: batch_norm, inputs: lax}\n    lcx: {op: flatten}\n    d:",
    )
    Path("idea.yaml").write_text(text)
    with pytest.raises(SpecError) as caught:
        load_experiment(Path("idea.yaml"))
    found = re.findall(r"did you mean '(\w+)'", str(caught.value))
    assert not set(found) & {"lax", "lbx", "lcx", "d", "out"}
    assert "use input, c or p." in str(caught.value) or inputs in ("la", "lb", "lc")


def invoke(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, [*words], prog_name="cnnbench", env={"COLUMNS": "200"})
    return done.exit_code, done.stderr


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("train", "run"),
        ("trian", "run"),
        ("resume", "run"),
        ("fit", "run"),
        ("ls", "list"),
        ("inspekt", "inspect"),
    ],
)
def test_commands_that_there_are_not(word: str, meant: str) -> None:
    code, text = invoke(word, "standard")
    assert code == 2
    assert text.startswith(f"no such command: '{word}' (did you mean '{meant}'?); write run, ")
    assert invoke("zebra")[1].startswith("no such command: 'zebra'; write run, ")
    assert invoke("data", "lits") == (
        2,
        "no such command: 'lits' (did you mean 'list'?); write list, prepare, export, inspect or"
        " path.\n",
    )


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("--lr", "; write train.optimizer.learning_rate=VALUE without dashes"),
        (
            "--beta1",
            "; write train.optimizer.b1=VALUE without dashes (of adam,"
            " adamw, radam, adamax, lamb or lion only)",
        ),
        ("--batch-size", "; write train.batch_size=VALUE without dashes"),
        ("--epoch", " (did you mean '--epochs'?); see `cnnbench run --help`"),
        ("--output-dir", " (did you mean '--results-dir'?); see `cnnbench run --help`"),
        ("--gpu", " (did you mean '--device'?); see `cnnbench run --help`"),
        ("--sedes", " (did you mean '--seeds'?); see `cnnbench run --help`"),
        ("--zebra", "; see `cnnbench run --help`"),
        ("-x", "; see `cnnbench run --help`"),
    ],
)
def test_unknown_options(option: str, told: str) -> None:
    assert invoke("run", "standard", option, "1") == (2, f"no such option: {option}{told}.\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--verison"], "no such option: --verison (did you mean '--version'?); see `cnnbench"),
        (["data", "--zebra"], "no such option: --zebra; see `cnnbench data"),
        (["list", "a", "b"], "cnnbench list: unexpected argument 'a b'; see `cnnbench list"),
        (
            ["data", "path", "x"],
            "cnnbench data path: unexpected argument 'x'; see `cnnbench data path",
        ),
    ],
)
def test_unexpected_words(words: list[str], message: str) -> None:
    assert invoke(*words) == (2, f"{message} --help`.\n")
    assert invoke("run", "--quiet=3") == (2, "--quiet: does not take a value; remove it.\n")


ADAMS = "adam, adamw, radam, adamax, lamb or lion"
SET_ADAMS = f"set train.optimizer.name to {ADAMS}"
ALL = "use sgd, adam, adamw, radam, adamax, rmsprop, adagrad, adadelta, lamb, lars, lion or muon."


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["train.optimizer.beta1=0.9"],
            "train.optimizer.beta1: sgd, the default optimizer, has no 'beta1' (did you mean"
            f" 'b1' of {ADAMS}?); {SET_ADAMS}.",
        ),
        (
            ["train.optimizer={name: rmsprop, beta_2: 0.9}"],
            "train.optimizer.beta_2: rmsprop has no 'beta_2' (did you mean"
            f" 'b2' of {ADAMS}?); remove it, or {SET_ADAMS}.",
        ),
        (
            ["train.optimizer.name=adam", "train.optimizer.beta1=0.9"],
            "train.optimizer.beta1: unknown key 'beta1' (did you mean 'b1'?); use"
            " learning_rate, name, b1, b2, eps, nesterov, weight_decay or decay_on.",
        ),
        (
            ["train.optimizer.alpha=0.9"],
            "train.optimizer.alpha: sgd, the default optimizer, has no 'alpha' (did you mean"
            " 'decay' of rmsprop or 'rho' of adadelta?); set train.optimizer.name to rmsprop or"
            " adadelta.",
        ),
        (
            ["train.schedule={name: cosine, gamma: 0.9}"],
            "train.schedule.gamma: cosine has no 'gamma' (did you mean 'rate' of exponential or"
            " 'factor' of step or multi_step?); remove it, or set train.schedule.name to"
            " exponential, step or multi_step.",
        ),
        (
            ["train.beta1=0.9"],
            "train.beta1: unknown key 'beta1' (did you mean 'train.optimizer.b1' of adam,"
            " adamw, radam, adamax, lamb or lion?); use epochs, batch_size, optimizer, schedule,"
            " groups, precision, loss, metrics, clip, label_smoothing, class_weights, pos_weight,"
            " ema, early_stopping, restore_best or drop_last.",
        ),
        (
            ["train.optimizer=adamw", "train.beta1=0.9"],
            "train.beta1: unknown key 'beta1' (did you mean 'train.optimizer.b1'?); use"
            " epochs, batch_size, optimizer, schedule, groups, precision, loss, metrics, clip,"
            " label_smoothing, class_weights, pos_weight, ema,"
            " early_stopping, restore_best or drop_last.",
        ),
        (
            ["train.schedule={name: step, every: 2}", "train.gamma=0.9"],
            "train.gamma: unknown key 'gamma' (did you mean 'train.schedule.factor'?); use"
            " epochs, batch_size, optimizer, schedule, groups, precision, loss, metrics, clip,"
            " label_smoothing, class_weights, pos_weight, ema,"
            " early_stopping, restore_best or drop_last.",
        ),
        (
            ["train.optimizer=nadam"],
            "train.optimizer: unknown optimizer 'nadam' (did you mean 'adam' with nesterov: true?);"
            f" {ALL}",
        ),
        (
            ["train.optimizer.name=torch.optim.NAdam"],
            "train.optimizer.name: unknown optimizer 'torch.optim.NAdam' (did you mean 'adam' with"
            f" nesterov: true?); {ALL}",
        ),
        (
            ["train.optimizer=momentum"],
            "train.optimizer: unknown optimizer 'momentum' (did you mean 'sgd' with nesterov:"
            f" false?); {ALL}",
        ),
        (
            ["train.optimizer=nadamw"],
            "train.optimizer: unknown optimizer 'nadamw' (did you mean 'adamw' with nesterov:"
            f" true?); {ALL}",
        ),
    ],
)
def test_hints_are_options_of_the_selected_optimizer(
    overrides: list[str], message: str, tmp_path: Path
) -> None:
    (tmp_path / "idea.yaml").write_text(SPEC)
    with pytest.raises(SpecError) as caught:
        load_experiment(tmp_path / "idea.yaml", overrides)
    assert str(caught.value) == f"command line: {message}"


@pytest.mark.slow
def test_every_hint_for_an_option_of_an_optimizer_can_be_followed(tmp_path: Path) -> None:
    """Following a suggestion for a name in another library never gives an unknown key."""
    (tmp_path / "idea.yaml").write_text(SPEC)
    words = {word for others in vocabulary.KEY.aliases.values() for word in others}
    for section, members in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES)):
        for name, model in members.items():
            unknown = sorted(words - {"name"} - set(model.model_fields))
            start = {"name": name} | ({"every": 2} if name == "step" else {})
            text = ", ".join(f"{key}: {value}" for key, value in start.items())
            text += "".join(f", {word}: 1" for word in unknown)
            with pytest.raises(SpecError) as caught:
                load_experiment(tmp_path / "idea.yaml", [f"train.{section}={{{text}}}"])
            messages = str(caught.value).splitlines()
            assert all(any(f".{word}: " in line for line in messages) for word in unknown)
            for message in messages:
                for meant in re.findall(r"did you mean '(\w+)'(?! of)", message):
                    assert meant in {*model.model_fields, *Experiment.model_fields}
                hint = "".join(re.findall(r"\(did you mean .*?\?\)", message))
                owned = re.findall(r"'(\w+)' of (\w+(?:, \w+| or \w+)*)", hint)
                for option, owners in owned:
                    for owner in re.split(", | or ", owners):
                        assert option in members[owner].model_fields
