"""Loading experiment files: extends, overrides, resolved files, and errors."""

import itertools
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from cnnbench.errors import SpecError
from cnnbench.layers import Conv, Dropout
from cnnbench.layers.parameters import Normal, TruncatedNormal, VarianceScaling
from cnnbench.spec.document import dump_document
from cnnbench.spec.inheritance import MAX_PARENTS
from cnnbench.spec.loader import Loaded, load_experiment
from cnnbench.spec.optimizers import Adam, Sgd
from tests.support.environments import without
from tests.support.limits import can_take, in_time
from tests.support.paths import EXPERIMENTS

SHIPPED = sorted(EXPERIMENTS.rglob("*.yaml"))
BASE = """\
name: base
title: Base
task: classify
dataset: {name: mnist, splits: {train: 1000, validation: 500}}
model:
  layers:
    conv: {op: conv, filters: 8, kernel: 5, activation: relu}
    pool: {op: max_pool, size: 2}
    drop: {op: dropout, rate: 0.5}
    out: {op: dense, units: 10}
train:
  epochs: 3
  optimizer: {name: sgd, learning_rate: 0.1, momentum: 0.5}
  metrics: [accuracy]
seeds: [1, 2]
"""
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes files into the current folder, so that messages show them without a folder."""
    monkeypatch.chdir(tmp_path)
    Path("base.yaml").write_text(BASE)

    def _write(text: str, name: str = "idea.yaml") -> Path:
        Path(name).write_text(text)
        return Path(name)

    return _write


def complaint(path: Path, *overrides: str) -> str:
    with pytest.raises(SpecError) as caught:
        load_experiment(path, overrides)
    return str(caught.value)


class TestShippedExperiments:
    @pytest.mark.parametrize(
        ("name", "num_params"),
        [
            ("standard", 160_362),
            ("modified", 166_474),
            ("autoencoder", 289_409),
            ("mlp", 1_276_810),
        ],
    )
    def test_parameter_counts(self, name: str, num_params: int) -> None:
        plan = load_experiment(EXPERIMENTS / f"{name}.yaml").plan
        assert plan is not None
        assert plan.num_params == num_params

    def test_multiply_adds_of_the_standard_network(self) -> None:
        plan = load_experiment(EXPERIMENTS / "standard.yaml").plan
        assert plan is not None
        conv1, conv2 = 24 * 24 * 32 * 5 * 5, 8 * 8 * 32 * 5 * 5 * 32
        assert plan.multiply_adds == conv1 + conv2 + 512 * 256 + 256 * 10

    def test_modified_is_standard_plus_a_branch(self) -> None:
        standard = load_experiment(EXPERIMENTS / "standard.yaml").experiment
        modified = load_experiment(EXPERIMENTS / "modified.yaml").experiment
        own = {"conv1a", "pool1a", "flat1a", "concat"}
        assert set(modified.model.layers) == set(standard.model.layers) | own
        for name, op in standard.model.layers.items():
            changed = {"inputs": ("concat",)} if name == "drop2" else {}
            assert modified.model.layers[name] == op.model_copy(update=changed)
        assert modified.model_dump(exclude={"name", "title", "model"}) == standard.model_dump(
            exclude={"name", "title", "model"}
        )

    def test_they_run_in_file_order_but_for_the_branch(self) -> None:
        plan = load_experiment(EXPERIMENTS / "modified.yaml").plan
        assert plan is not None
        assert " ".join(node.name for node in plan.nodes) == (
            "conv1 pool1 conv2 pool2 drop1 dense1 conv1a pool1a flat1a concat drop2 dense2"
        )
        assert plan.by_name["pool1a"].in_shapes == ((19, 19, 32),)
        assert plan.by_name["pool1a"].layout.shape == (3, 3, 32)

    def test_loading_needs_neither_jax_nor_much_time(self) -> None:
        paths = [str(path) for path in SHIPPED if path.parent.name != "zoo"]
        code = (
            "import sys; from pathlib import Path\n"
            "from cnnbench.spec.loader import load_experiment\n"
            f"for path in {paths!r}: load_experiment(Path(path))\n"
            "heavy = {'jax', 'flax', 'numpy', 'tensorflow_datasets', 'matplotlib'}\n"
            "print(sorted(heavy & set(sys.modules)))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        assert done.stdout == "[]\n"
        assert can_take(code, 1)


class TestExtends:
    def test_child_wins_key_by_key(self, write: Write) -> None:
        path = write(
            "extends: base.yaml\nname: idea\nmodel: {layers: {conv: {kernel: 3}}}\n"
            "train: {epochs: 9}\nseeds: 1\ndataset: {splits: {train: 2000}}\n"
        )
        found = load_experiment(path).experiment
        assert (found.name, found.title, found.seeds) == ("idea", "", (0,))
        assert found.train.epochs == 9
        assert found.train.optimizer == Sgd(name="sgd", learning_rate=0.1, momentum=0.5)
        assert found.dataset.splits.model_dump() == {
            "train": 2000,
            "validation": 500,
            "test": None,
        }
        assert found.model.layers["conv"] == Conv(
            op="conv", filters=8, kernel=(3, 3), activation="relu"
        )
        assert list(found.model.layers) == ["conv", "pool", "drop", "out"]

    def test_layer_of_another_operation_replaces_in_place(self, write: Write) -> None:
        path = write(
            "extends: base.yaml\nname: idea\n"
            "model: {layers: {pool: {op: dropout, rate: 0.1}, conv: {op: conv, kernel: 3}}}\n"
        )
        layers = load_experiment(path).experiment.model.layers
        assert list(layers) == ["conv", "pool", "drop", "out"]
        assert layers["pool"] == Dropout(op="dropout", rate=0.1)
        assert isinstance(layers["conv"], Conv)
        assert layers["conv"].filters == 8  # the same operation keeps its other keys

    @pytest.mark.parametrize(
        "line", ["optimizer: adam", "optimizer: {name: adam}", "optimizer: {name: adam, b1: 0.9}"]
    )
    def test_optimizer_of_another_name_replaces(self, write: Write, line: str) -> None:
        path = write(f"extends: base.yaml\nname: idea\ntrain:\n  {line}\n")
        assert load_experiment(path).experiment.train.optimizer == Adam(name="adam")

    def test_initializer_of_another_name_replaces(self, write: Write) -> None:
        write(
            "extends: base.yaml\nname: middle\n"
            "model: {layers: {conv: {init: {name: truncated_normal, stddev: 0.02}}}}\n",
            "middle.yaml",
        )
        wanted = {
            "zeros": "zeros",
            "{stddev: 0.1}": TruncatedNormal(name="truncated_normal", stddev=0.1),
            "{name: normal, stddev: 0.1}": Normal(name="normal", stddev=0.1),
            "variance_scaling": VarianceScaling(name="variance_scaling"),
        }
        for text, init in wanted.items():
            path = write(
                f"extends: middle.yaml\nname: idea\nmodel: {{layers: {{conv: {{init: {text}}}}}}}\n"
            )
            conv = load_experiment(path).experiment.model.layers["conv"]
            assert isinstance(conv, Conv)
            assert conv.init == init
            found = load_experiment(path, [f"model.conv.init={text}"]).experiment.model.layers
            assert found["conv"] == conv

    def test_optimizer_of_the_same_name_is_merged(self, write: Write) -> None:
        path = write("extends: base.yaml\nname: idea\ntrain: {optimizer: {momentum: 0.7}}\n")
        found = load_experiment(path).experiment.train.optimizer
        assert found == Sgd(name="sgd", learning_rate=0.1, momentum=0.7)

    def test_null_unsets_a_key(self, write: Write) -> None:
        path = write(
            "extends: base.yaml\nname: idea\nmodel: {layers: {pool: null, drop: ~}}\n"
            "train: {optimizer: }\nseeds: null\n"
        )
        found = load_experiment(path).experiment
        assert list(found.model.layers) == ["conv", "out"]
        assert found.train.optimizer == Sgd(name="sgd")
        assert found.seeds == (0,)

    def test_new_layers_follow_the_inherited_ones(self, write: Write) -> None:
        path = write(
            "extends: base.yaml\nname: idea\nmodel: {layers: {end: {op: dropout, rate: 0}}}\n"
        )
        plan = load_experiment(path).plan
        assert plan is not None
        assert (plan.output, plan.by_name["end"].inputs) == ("end", ("out",))

    def test_chain_of_files(self, write: Write) -> None:
        for i in range(1, MAX_PARENTS + 1):
            lower = f"f{i - 1}.yaml" if i > 1 else "base.yaml"
            write(f"extends: {lower}\nname: f{i}\ntrain: {{epochs: {i}}}\n", f"f{i}.yaml")
        assert load_experiment(Path(f"f{MAX_PARENTS}.yaml")).experiment.train.epochs == MAX_PARENTS
        write(f"extends: f{MAX_PARENTS}.yaml\nname: last\n", "last.yaml")
        assert complaint(Path("last.yaml")) == (
            "f1.yaml:1:10: extends: the chain of extends has more than 8 files; merge some of them."
        )

    def test_parent_in_a_folder_below(self, write: Write, tmp_path: Path) -> None:
        (tmp_path / "below").mkdir()
        (tmp_path / "below" / "base.yaml").write_text(BASE)
        path = write("extends: below/base.yaml\nname: idea\n")
        assert load_experiment(path).experiment.train.epochs == 3

    def test_invalid_values_are_located_in_their_own_file(self, write: Write) -> None:
        write(BASE.replace("epochs: 3", "epochs: 0").replace("units: 10", "unitz: 10"), "base.yaml")
        path = write("extends: base.yaml\nname: idea\ntrain: {batch_size: -1}\nzebra: 1\n")
        assert complaint(path).splitlines() == [
            "base.yaml:10:10: model.layers.out: 'units' is missing; "
            "add 'units: ...' (number of output units).",
            "base.yaml:10:22: model.layers.out.unitz: unknown key 'unitz' "
            "(did you mean 'units'?); use inputs, op, units, activation, use_bias, init, bias_init"
            ", trainable or weights.",
            "base.yaml:12:11: train.epochs: 0 is too small; use 1 or more.",
            "idea.yaml:3:21: train.batch_size: -1 is too small; use 1 or more.",
            "idea.yaml:4:1: zebra: unknown key 'zebra'; "
            "use name, title, task, dataset, model, train, evaluation, checkpoint, seeds or"
            " extends.",
        ]

    def test_problems_of_both_files_are_reported_together(self, write: Write) -> None:
        write(BASE + "seeds: 3\n", "base.yaml")
        path = write("extends: base.yaml\nname: idea\nname: other\ntrain: {epochs: 07}\n")
        assert complaint(path).splitlines() == [
            "base.yaml:16:1: seeds: duplicate key 'seeds' (first defined on line 15); remove one.",
            "idea.yaml:3:1: name: duplicate key 'name' (first defined on line 2); remove one.",
            "idea.yaml:4:17: train.epochs: 07 starts with a zero, which YAML versions "
            "interpret differently; use 7, 0o7 if it is octal, or '07' for a string.",
        ]


class TestOverrides:
    def test_values_are_yaml(self) -> None:
        overrides = (
            "train.epochs=5",
            "train.optimizer.learning_rate=1e-3",
            "model.conv1.kernel=[7, 5]",
            "model.layers.conv2.padding=same",
            "title=A = b",
            "seeds=3",
            "train.schedule={name: step, every: 2}",
        )
        found = load_experiment(EXPERIMENTS / "standard.yaml", overrides).experiment
        conv1, conv2 = found.model.layers["conv1"], found.model.layers["conv2"]
        assert isinstance(conv1, Conv)
        assert isinstance(conv2, Conv)
        assert (conv1.kernel, conv2.padding) == ((7, 5), "same")
        assert (found.train.epochs, found.title, found.seeds) == (5, "A = b", (0, 1, 2))
        assert found.train.optimizer.learning_rate == 0.001
        assert found.train.schedule.model_dump() == {
            "name": "step",
            "every": 2,
            "factor": 0.1,
            "warmup_epochs": 0.0,
        }

    def test_later_ones_win(self, write: Write) -> None:
        path = write(BASE)
        found = load_experiment(path, ["train.epochs=5", "train={epochs: 6}", "train.epochs=7"])
        assert found.experiment.train.epochs == 7
        assert found.experiment.train.batch_size == 500

    def test_into_a_short_form(self, write: Write) -> None:
        path = write(BASE.replace("{name: sgd, learning_rate: 0.1, momentum: 0.5}", "adam"))
        found = load_experiment(path, ["train.optimizer.b1=0.5"]).experiment.train.optimizer
        assert found == Adam(name="adam", b1=0.5)

    def test_items_of_lists(self, write: Write) -> None:
        groups = "  groups:\n    - {layers: conv}\n    - {layers: [out, conv], weight_decay: 0.1}\n"
        overrides = (
            "train.groups.0.learning_rate=0.2",
            "train.groups.1.layers.1=o*",
            "train.groups.1.weight_decay=null",
            "train.groups.1.learning_rate.times=2",
            "seeds.1=7",
            "model.conv.kernel.0=3",
        )
        path = write(BASE.replace("train:\n", f"train:\n{groups}"))
        path.write_text(path.read_text().replace("kernel: 5", "kernel: [5, 5]"))
        found = load_experiment(path, overrides).experiment
        first, second = found.train.groups or ()
        assert (first.layers, first.learning_rate) == (("conv",), 0.2)
        assert (second.layers, second.weight_decay) == (("out", "o*"), None)
        assert second.model_dump()["learning_rate"] == {"times": 2}
        assert found.seeds == (1, 7)
        assert found.model.layers["conv"].kernel == (3, 5)  # type: ignore[union-attr]

    @pytest.mark.parametrize(
        ("override", "message"),
        [
            (
                "train.groups.0.learning_rate=x",
                "command line: train.groups.0.learning_rate: 'x' is not a learning rate; use a"
                " number, or {times: 0.1} for a multiple of the optimizer's.",
            ),
            (
                "train.groups.0.lr=1",
                "command line: train.groups.0.lr: unknown key 'lr' (did you mean 'learning_rate'?);"
                " use layers, learning_rate or weight_decay.",
            ),
            (
                "train.groups.0.layers=cnv",
                "command line: train.groups.0.layers: no layer matches 'cnv' (did you mean 'conv'?)"
                "; use conv, pool, drop or out.",
            ),
            (
                "train.groups.2.weight_decay=0",
                "command line: train.groups.2: train.groups has no item '2'; use train.groups.0 to"
                " train.groups.1.",
            ),
            (
                "train.groups.last.weight_decay=0",
                "command line: train.groups.last: train.groups has no item 'last'; use"
                " train.groups.0 to train.groups.1.",
            ),
        ],
    )
    def test_errors_in_items_of_lists(self, write: Write, override: str, message: str) -> None:
        groups = "  groups: [{layers: conv, weight_decay: 0}, {layers: out, weight_decay: 1}]\n"
        path = write(BASE.replace("train:\n", f"train:\n{groups}"))
        assert complaint(path, override).splitlines() == [message]

    def test_layers_can_be_added_replaced_and_removed(self, write: Write) -> None:
        path = write(BASE)
        overrides = ["model.drop=null", "model.pool.op=flatten", "model.end={op: dropout, rate: 0}"]
        layers = load_experiment(path, overrides).experiment.model.layers
        assert {name: op.op for name, op in layers.items()} == {
            "conv": "conv",
            "pool": "flatten",
            "out": "dense",
            "end": "dropout",
        }

    @pytest.mark.parametrize(
        "key", ["dataset.splits", "dataset.offline", "dataset.splits.test", "model.output", "seeds"]
    )
    def test_null_unsets_a_key_whether_the_file_has_it_or_not(self, write: Write, key: str) -> None:
        path = write(BASE)
        once = load_experiment(path, [f"{key}=null"])
        twice = load_experiment(path, [f"{key}=null", f"{key}=~"])
        assert once == twice
        data: Any = yaml.safe_load(BASE)
        *sections, last = key.split(".")
        section = data
        for part in sections:
            section = section[part]
        section.pop(last, None)
        assert once.experiment == load_experiment(write(dump_document(data))).experiment

    def test_null_does_not_hide_a_misspelled_key(self, write: Write) -> None:
        assert complaint(write(BASE), "train.scheduel=null", "dataset.splits.tset=null") == (
            "command line: dataset.splits.tset: unknown key 'tset' (did you mean 'test'?);"
            " use train, validation or test.\n"
            "command line: train.scheduel: unknown key 'scheduel' (did you mean"
            " 'schedule'?); use epochs, batch_size, optimizer, schedule, groups, precision, loss, "
            "metrics, clip, label_smoothing, class_weights, pos_weight, ema,"
            " early_stopping, restore_best or"
            " drop_last."
        )

    def test_the_text_of_the_file_is_kept(self, write: Write) -> None:
        path = write(BASE)
        assert load_experiment(path, ["train.epochs=5"]).text == BASE.encode()

    @pytest.mark.parametrize(
        ("override", "message"),
        [
            ("epochs", "'epochs' is not an override; use key=value."),
            ("=5", "'=5' is not an override; use key=value."),
            ("train..epochs=5", "'train..epochs=5' is not an override; use key=value."),
            (".train=5", "'.train=5' is not an override; use key=value."),
            (
                "a." * 40 + "b=1",
                "'a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a...' is not an override; use key=value.",
            ),
            ("a\x1fb=1", "'a\\x1fb=1' is not an override; use key=value."),
            (
                "train.epochs=",
                "train.epochs: the value is missing; "
                "use train.epochs=VALUE, or train.epochs=null to unset it.",
            ),
            (
                "train.epochs=#3",
                "train.epochs: the value is missing; "
                "use train.epochs=VALUE, or train.epochs=null to unset it.",
            ),
            ("train.epochs=0", "train.epochs: 0 is too small; use 1 or more."),
            ("train.epochs=x", "train.epochs: expected an integer, got 'x'; use an integer."),
            (
                "train.epochs.x=1",
                "train.epochs: expected an integer, got a mapping; use an integer.",
            ),
            (
                "train.epochs=[1",
                "train.epochs: unclosed bracket; close it.",
            ),
            (
                "train.epochs=012",
                "train.epochs: 012 starts with a zero, which YAML versions interpret "
                "differently; use 12, 0o12 if it is octal, or '012' for a string.",
            ),
            (
                "train.epochs=\udce9",
                "train.epochs: is not UTF-8 text; encode it in UTF-8.",
            ),
            (
                "train.epoch=1",
                "train.epoch: unknown key 'epoch' (did you mean 'epochs'?); "
                "use epochs, batch_size, optimizer, schedule, groups, precision, loss, metrics,"
                " clip,"
                " label_smoothing, class_weights, pos_weight, ema,"
                " early_stopping, restore_best or drop_last.",
            ),
            (
                "epochs=1",
                "epochs: unknown key 'epochs' (did you mean 'train.epochs'?); "
                "use name, title, task, dataset, model, train, evaluation, checkpoint, seeds or"
                " extends.",
            ),
            (
                "model.cnv.kernel=3",
                "model.cnv.kernel: unknown layer 'cnv' (did you mean 'conv'?); "
                "use conv, pool, drop or out.",
            ),
            (
                "model.layers.zebra.kernel=3",
                "model.layers.zebra.kernel: unknown layer 'zebra'; use conv, pool, drop or out.",
            ),
            (
                "model.zebra=null",
                "model.zebra: unknown layer 'zebra'; use conv, pool, drop or out.",
            ),
            (
                "model.conv.kernal=3",
                "model.layers.conv.kernal: unknown key 'kernal' (did you mean 'kernel'?); "
                "use inputs, op, filters, kernel, stride, padding, activation, use_bias,"
                " init, groups, dilation, bias_init, trainable or weights.",
            ),
            (
                "model.conv.kernel=30",
                "model.layers.conv.kernel: a 30x30 kernel is larger than the 28x28x1 input; "
                "use [28, 28] or less, or padding: same.",
            ),
            (
                "train.optimizer=adamm",
                "train.optimizer: unknown optimizer 'adamm' (did you mean 'adam'?); use sgd, adam, "
                "adamw, radam, adamax, rmsprop, adagrad, adadelta, lamb, lars, lion or muon.",
            ),
            (
                "train.metrics=[bogus]",
                "train.metrics.0: unknown metric 'bogus'; use accuracy, top5_accuracy, "
                "brier_score, mse, mae, psnr, ssim, exact_match, hamming_loss, kl,"
                " balanced_accuracy, macro_f1, ece, r2, rmse, mean_average_precision or micro_f1.",
            ),
            (
                "train.metrics.0=mse",
                "train.metrics.0: metric 'mse' is not available for task: classify; use accuracy,"
                " top5_accuracy, brier_score, balanced_accuracy, macro_f1, ece or kl.",
            ),
            (
                "train.groups.0.weight_decay=0",
                "train.groups.0: train.groups is not set, so it has no items; use"
                " train.groups=VALUE.",
            ),
            (
                "train.epochs.0=1",
                "train.epochs.0: train.epochs is not a list; use train.epochs=VALUE.",
            ),
            ("extends=other.yaml", "extends: cannot be overridden; set it in a file."),
        ],
    )
    def test_wrong_ones_are_placed_on_the_command_line(
        self, write: Write, override: str, message: str
    ) -> None:
        assert complaint(write(BASE), override) == f"command line: {message}"

    def test_locations_of_replaced_values_are_dropped(self, write: Write) -> None:
        path = write(BASE.replace("units: 10", "units: 10, inputs: drop"))
        assert complaint(path, "model.out={op: concat}") == (
            "command line: model.layers.out: concat needs two or more inputs, got one; "
            "use inputs: [FIRST, SECOND]."
        )

    def test_all_invalid_overrides_are_reported_with_those_of_the_file(self, write: Write) -> None:
        path = write(BASE.replace("rate: 0.5", "rate: 2"))
        assert complaint(path, "train.epochs=0", "oops", "seeds=[1", "name=a b").splitlines() == [
            "command line: 'oops' is not an override; use key=value.",
            "command line: seeds: unclosed bracket; close it.",
            "command line: name: 'a b' is not a valid name; "
            "start with a letter and use letters, digits, '-' and '_'.",
            "command line: train.epochs: 0 is too small; use 1 or more.",
            "idea.yaml:9:31: model.layers.drop.rate: 2 is too large; use a value less than 1.",
        ]

    @pytest.mark.parametrize("model", ["{python: a.b:C}", "{layers: [1]}", "3"])
    def test_layers_of_a_model_without_any(self, write: Write, model: str) -> None:
        path = write(f"name: a\ntask: classify\ndataset: {{name: mnist}}\nmodel: {model}\n")
        assert (
            "command line: model.conv.kernel: unknown layer 'conv'; "
            "remove it (the model has no layers)."
        ) in complaint(path, "model.conv.kernel=3").splitlines()


class TestPartsOfADefault:
    """Options without a name are merged with the default optimizer or schedule."""

    @pytest.fixture
    def bare(self, write: Write) -> Path:
        """A file with required keys only."""
        head = "name: bare\ntask: classify\ndataset: {name: mnist}\n"
        return write(head + "model: {layers: {out: {op: dense, units: 10}}}\n", "bare.yaml")

    @pytest.mark.parametrize(
        ("override", "value"),
        [
            ("train.optimizer.learning_rate", 0.1),
            ("train.optimizer.momentum", 0.5),
            ("train.optimizer.nesterov", False),
            ("train.epochs", 3),
            ("dataset.splits.train", 100),
            ("dataset.splits.validation", 200),
            ("checkpoint.every", 3),
            ("checkpoint.keep", 2),
            ("train.schedule.name", "constant"),
        ],
    )
    def test_on_the_command_line_and_in_files(
        self, bare: Path, write: Write, override: str, value: object
    ) -> None:
        """The right value is the whole experiment of the bare file with one value exchanged."""
        *sections, last = override.split(".")
        expected = load_experiment(bare).experiment.model_dump(mode="json")
        section = expected
        for part in sections:
            section = section[part]
        section[last] = value
        nested: Any = {last: value}
        for part in reversed(sections):
            nested = {part: nested}
        child = write(dump_document({"extends": "bare.yaml", "name": "bare", **nested}))
        flat = yaml.safe_load(bare.read_text())
        flat.setdefault(sections[0], {}).update(nested[sections[0]])
        whole = write(dump_document(flat), "whole.yaml")
        text = yaml.safe_dump(value).partition("\n")[0]
        for loaded in (
            load_experiment(bare, [f"{override}={text}"]),
            load_experiment(child),
            load_experiment(whole),
        ):
            assert loaded.experiment.model_dump(mode="json") == expected

    @pytest.mark.parametrize("first", ["train.optimizer=adam", "train.optimizer.name=adam"])
    @pytest.mark.parametrize("option", ["learning_rate=0.1", "b1=0.5", "nesterov=true"])
    def test_another_name_has_its_own_defaults_whatever_the_order(
        self, bare: Path, write: Write, first: str, option: str
    ) -> None:
        key, text = option.split("=")
        expected = Adam.model_validate({"name": "adam", key: yaml.safe_load(text)})
        second = f"train.optimizer.{option}"
        for path in (bare, write(BASE)):  # neither the default's momentum nor the file's
            for overrides in ([first, second], [second, first]):
                found = load_experiment(path, ["train.epochs=2", *overrides]).experiment
                assert found.train.optimizer == expected
                assert found.train.epochs == 2

    def test_the_last_of_two_names_wins(self, bare: Path) -> None:
        overrides = ["train.optimizer=adam", "train.optimizer.eps=1e-3", "train.optimizer=lamb"]
        found = load_experiment(bare, overrides).experiment.train.optimizer
        assert found.model_dump(include={"name", "eps"}) == {"name": "lamb", "eps": 1e-3}

    def test_a_schedule_is_named_before_its_options(self, bare: Path) -> None:
        overrides = ["train.schedule.every=2", "train.schedule=step"]
        found = load_experiment(bare, overrides).experiment.train.schedule
        assert found.model_dump() == {
            "name": "step",
            "every": 2,
            "factor": 0.1,
            "warmup_epochs": 0.0,
        }

    def test_a_layers_operation_is_chosen_before_its_options(self, write: Write) -> None:
        overrides = ["model.pool.rate=0.2", "model.pool.op=dropout"]
        layers = load_experiment(write(BASE), overrides).experiment.model.layers
        assert layers["pool"] == Dropout(op="dropout", rate=0.2)

    def test_a_child_merges_into_a_parents_other_optimizer(self, write: Write) -> None:
        write(BASE.replace("{name: sgd, learning_rate: 0.1, momentum: 0.5}", "adam"), "base.yaml")
        child = write("extends: base.yaml\nname: a\ntrain: {optimizer: {learning_rate: 0.1}}\n")
        found = load_experiment(child).experiment.train.optimizer
        assert found == Adam(name="adam", learning_rate=0.1)

    @pytest.mark.parametrize("line", ["{name: sgd, nesterov: false}", "{nesterov: false}"])
    def test_the_defaults_name_merges_into_options_without_a_name(
        self, write: Write, line: str
    ) -> None:
        write(
            BASE.replace("{name: sgd, learning_rate: 0.1, momentum: 0.5}", "{momentum: 0.5}"),
            "base.yaml",
        )
        child = write(f"extends: base.yaml\nname: a\ntrain: {{optimizer: {line}}}\n")
        found = load_experiment(child).experiment.train.optimizer
        assert found == Sgd(name="sgd", momentum=0.5, nesterov=False)

    @pytest.mark.parametrize(
        "override",
        [
            "train.optimizer.momentum=null",
            "train.schedule.every=null",
            "train.optimizer.b1=~",
            "checkpoint.every=null",
            "train.optimizer=null",
        ],
    )
    def test_null_may_unset_a_missing_key(self, bare: Path, override: str) -> None:
        assert load_experiment(bare, [override]) == load_experiment(bare)

    @pytest.mark.parametrize(
        ("override", "message"),
        [
            (
                "train.optimizer.b1=0.5",
                "train.optimizer.b1: sgd, the default optimizer, has no 'b1' (available for"
                " adam, adamw, radam, adamax, lamb and lion); set train.optimizer.name to adam,"
                " adamw, radam, adamax, lamb or lion.",
            ),
            (
                "train.schedule.every=2",
                "train.schedule.every: constant, the default schedule, has no 'every' (available"
                " for step); set train.schedule.name to step.",
            ),
            (
                "train.schedule.name=step",
                "train.schedule: 'every' is missing; add 'every: ...' (epochs between drops).",
            ),
            (
                "train.optimizer.learning_rate=-1",
                "train.optimizer.learning_rate: -1 is too small; use a value greater than 0.",
            ),
            ("model.args.x=1", "model.args: args are for Python models only; remove them."),
        ],
    )
    def test_problems_of_options_are_located_where_they_are_set(
        self, bare: Path, override: str, message: str
    ) -> None:
        assert complaint(bare, override) == f"command line: {message}"

    def test_an_option_of_another_optimizer_than_the_parents(self, write: Write) -> None:
        write(BASE.replace("{name: sgd, learning_rate: 0.1, momentum: 0.5}", "adam"), "base.yaml")
        child = write("extends: base.yaml\nname: a\ntrain: {optimizer: {momentum: 0.1}}\n")
        assert complaint(child) == (
            "idea.yaml:3:21: train.optimizer.momentum: adam has no 'momentum' (available for"
            " sgd, rmsprop, lars and muon); remove it, or set train.optimizer.name to sgd, rmsprop,"
            " lars or muon."
        )


NUMBERS = (
    st.from_regex(r"[-+]?(0|[1-9][0-9]{0,5})(\.[0-9]{0,3})?([eE][-+]?[0-9]{1,3})?", fullmatch=True)
    | st.from_regex(r"0x[0-9a-fA-F]{1,8}|0o[0-7]{1,8}", fullmatch=True)
    | st.sampled_from([".inf", "-.INF", ".nan", ".5", "+1.10", "12345678901234567890123"])
)
WORDS = st.sampled_from(
    ["true", "TRUE", "False", "~", "Null", "'yes'", '"5"', '"a\\tb"', "'it''s'"]
)


class TestWhatAChildBreaks:
    """Errors in a parent that are caused by a line of the child are reported at that line."""

    PARENT = """\
name: base
task: classify
dataset: {name: mnist}
model:
  layers:
    conv: {op: conv, filters: 8, kernel: 5}
    pool: {op: max_pool, size: 2}
    conv2: {op: conv, filters: 8, kernel: 5}
    pool2: {op: max_pool, size: 2}
    sum: {op: add, inputs: [pool2, pool2]}
    out: {op: dense, units: 10}
train: {epochs: 3, schedule: {name: cosine, warmup_epochs: 2}}
"""
    KERNEL = (
        "this breaks model.layers.conv2.kernel (base.yaml:8:43): a 5x5 kernel is larger than the"
        " 3x3x8 input; use [3, 3] or less, or padding: same."
    )

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("model: {layers: {conv: {stride: 4}}}", f"3:33: model.layers.conv.stride: {KERNEL}"),
            (
                "model: {layers: {conv: {filters: 9, stride: 4, init: zeros}}}",
                f"3:45: model.layers.conv.stride: {KERNEL.replace('3x3x8', '3x3x9')}",
            ),
            (
                "model: {layers: {new: {op: max_pool, size: 4, inputs: pool},"
                " conv2: {inputs: new}}}",
                f"3:23: model.layers.new: {KERNEL}",
            ),
            (
                "model: {layers: {pool: {op: flatten}}}",
                "3:24: model.layers.pool: this breaks model.layers.conv2 (base.yaml:8:12): conv"
                " takes images, but its input is a vector of size 4608; add a reshape to [height,"
                " width, channels] before it.",
            ),
            (
                "train: {epochs: 2}",
                "3:17: train.epochs: this breaks train.schedule.warmup_epochs (base.yaml:12:60): a"
                " warmup of 2 epochs takes all 2 epochs; use less than 2.",
            ),
            (
                "dataset: {name: cifar100}",
                "3:17: dataset.name: this breaks model.layers.out.units (base.yaml:11:29): the"
                " output has shape 10, but the dataset has 100 classes; use 100.",
            ),
            (
                "task: reconstruct",
                "3:7: task: this breaks model.layers.out (base.yaml:11:10): the output has shape"
                " 10, but the images are 28x28x1; end with a layer of shape [28, 28, 1].",
            ),
            (
                "model: {layers: {out: {units: 11}}}",  # the child's own value is wrong
                "3:31: model.layers.out.units: the output has shape 11, but the dataset has 10"
                " classes; use 10.",
            ),
        ],
    )
    def test_it_is_reported_at_the_line_of_the_child(
        self, write: Write, line: str, message: str
    ) -> None:
        write(self.PARENT, "base.yaml")
        assert complaint(write(f"extends: base.yaml\nname: a\n{line}\n")) == f"idea.yaml:{message}"

    def test_a_removed_layer_is_reported_where_it_is_removed(self, write: Write) -> None:
        write(self.PARENT, "base.yaml")
        child = write("extends: base.yaml\nname: a\nmodel: {layers: {pool2: null}}\n")
        for i, line in enumerate(complaint(child).splitlines()):
            assert line == (
                f"idea.yaml:3:25: model.layers.pool2: this breaks model.layers.sum.inputs.{i}"
                f" (base.yaml:10:{29 + 7 * i}): unknown layer 'pool2' (did you mean 'pool'?);"
                " use input, conv, pool or conv2."
            )

    def test_another_operation_may_break_a_file(self, write: Write) -> None:
        path = write(self.PARENT, "base.yaml")
        assert complaint(path, "model.pool.op=flatten") == (
            "command line: model.layers.pool.op: this breaks model.layers.conv2 (base.yaml:8:12):"
            " conv takes images, but its input is a vector of size 4608; add a reshape to [height,"
            " width, channels] before it."
        )

    def test_an_override_may_break_a_file_as_well(self, write: Write) -> None:
        path = write(self.PARENT, "base.yaml")
        message = f"command line: model.layers.conv.stride: {self.KERNEL}"
        assert complaint(path, "train.epochs=5", "model.conv.stride=4", "seeds=2") == message
        child = write("extends: base.yaml\nname: a\ntrain: {epochs: 9}\n")
        assert complaint(child, "model.conv.stride=4") == message

    def test_a_grandchild_is_reported_at_its_own_line(self, write: Write) -> None:
        write(self.PARENT, "base.yaml")
        write("extends: base.yaml\nname: b\nmodel: {layers: {conv: {filters: 4}}}\n", "b.yaml")
        child = write("extends: b.yaml\nname: a\nmodel: {layers: {conv: {stride: 4}}}\n")
        message = self.KERNEL.replace("3x3x8", "3x3x4")
        assert complaint(child) == f"idea.yaml:3:33: model.layers.conv.stride: {message}"

    def test_problems_of_the_parent_alone_stay_there(self, write: Write) -> None:
        write(self.PARENT.replace("kernel: 5}\n    pool:", "kernel: 50}\n    pool:"), "base.yaml")
        child = write("extends: base.yaml\nname: a\nmodel: {layers: {out: {use_bias: false}}}\n")
        assert complaint(child) == (
            "base.yaml:6:42: model.layers.conv.kernel: a 50x50 kernel is larger than the 28x28x1"
            " input; use [28, 28] or less, or padding: same."
        )

    def test_thousands_of_layers_are_checked_in_time(self, write: Write) -> None:
        layers = "".join(f"    n{i}: {{op: dropout, rate: 0}}\n" for i in range(1500))
        write(self.PARENT.replace("    out:", f"{layers}    out:"), "base.yaml")
        text = layers.replace("rate: 0", "rate: 0.5")
        child = f"extends: base.yaml\nname: a\nmodel:\n  layers:\n    conv: {{stride: 4}}\n{text}"
        told = unmeasured("told_in_time", write(child).absolute())
        assert "a 5x5 kernel is larger than the 3x3x8 input" in told


class TestValuesAsTheyAreWritten:
    @given(NUMBERS | WORDS)
    @example("3e563")
    @example("1.10")
    @example("0x1F")
    def test_in_messages(self, text: str) -> None:
        """Messages show scalars as written, in all positions."""
        spec = (
            f"name: idea\ntask: {text}\ndataset: {{name: mnist}}\nmodel:\n  layers:\n"
            f"    a: {text}\n    b: {{op: conv, filters: 8, kernel: [{text}, x]}}\n"
            f"    c: {{op: max_pool, size: [2, 2, {text}]}}\n"
            f"    d: {{op: dense, units: 10, activation: {text}}}\n"
            f"train:\n  optimizer: {{name: {text}}}\n  precision: {text}\n  metrics: [{text}]\n"
        )
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "idea.yaml"
            path.write_text(spec)
            lines = {line.split(": ")[1]: line for line in complaint(path).splitlines()}
        is_string = text[0] in "'\""

        def invalid(noun: str, article: str = "a") -> str:
            return f"unknown {noun} {text}" if is_string else f"{text} is not {article} {noun}"

        for key, shown in {
            "task": invalid("task"),
            "model.layers.a": f"{text} is not a layer",
            "model.layers.b.kernel": f"[{text}, 'x'] is not a valid size",
            "model.layers.c.size": f"[2, 2, {text}] is not a valid size",
            "model.layers.d.activation": invalid("activation", "an"),
            "train.optimizer.name": invalid("optimizer", "an"),
            "train.precision": invalid("precision"),
            "train.metrics.0": invalid("metric"),
        }.items():
            assert f": {key}: {shown}; use " in lines[key]

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("name: 3e563", "name: 3e563 is a number, not a name; NAMING."),
            ("name: 0x1F", "name: 0x1F is a number, not a name; NAMING."),
            ("name: 2024-01-01", "name: '2024-01-01' is not a valid name; NAMING."),
            ('name: "1 \\u0041"', 'name: "1 \\u0041" is not a valid name; NAMING.'),
            ("name: &x '1 a'", "name: '1 a' is not a valid name; NAMING."),
            ("title: 1.10", "title: expected a string, got 1.10; put it in quotes: '1.10'."),
            ("title: [0x1F, ~]", "title: expected a string, got [0x1F, ~]; use a string."),
            ("seeds: [0x1, 2, 1]", "seeds.2: duplicate seed 1; list each seed once."),
            ("seeds: 0x7D1", "seeds: 0x7D1 seeds are too many; use at most 1,000."),
            ("train: {epochs: 1e3}", "train.epochs: expected an integer, got 1e3; use 1000."),
            ("train: {epochs: 0x0}", "train.epochs: 0x0 is too small; use 1 or more."),
            (
                "train: {optimizer: {learning_rate: 1e999}}",
                "train.optimizer.learning_rate: 1e999 is not a finite number; use a finite number.",
            ),
            (
                "train: {epochs: 2, schedule: {name: cosine, warmup_epochs: 0x3}}",
                "train.schedule.warmup_epochs: a warmup of 0x3 epochs takes all 2 epochs; use"
                " less than 2.",
            ),
            (
                "dataset: {name: mnist, train_examples: 0x1FFFF}",
                "dataset.train_examples: 0x1FFFF exceeds the 50,000 training images; use"
                " at most 50000.",
            ),
            (
                "dataset: {name: mnist, splits: {train: 100000}}",
                "dataset.splits.train: 100,000 images requested, but mnist has 60,000 for this"
                " split; use at most 60000.",
            ),
            (
                "extends: 0x1F",
                "extends: 0x1F is not a file name; specify a file in the same folder or a"
                " subfolder.",
            ),
        ],
    )
    def test_of_every_kind(self, write: Write, line: str, message: str) -> None:
        naming = "start with a letter and use letters, digits, '-' and '_'"
        key = line.partition(":")[0]
        lines = [
            "name: idea",
            "task: classify",
            "dataset: {name: mnist}",
            "model: {layers: {out: {op: dense, units: 10}}}",
        ]
        text = "\n".join([*(each for each in lines if not each.startswith(f"{key}:")), line])
        found = complaint(write(text)).partition(": ")[2]
        assert found == message.replace("NAMING", naming)

    def test_remedies_on_the_command_line_are_quoted_for_a_shell(self, write: Write) -> None:
        message = complaint(write(BASE), "title=3e563")
        assert message == (
            "command line: title: expected a string, got 3e563; put it in quotes:"
            " 'title=\"3e563\"'."
        )
        (word,) = shlex.split(message.removesuffix(".").partition("quotes: ")[2])
        assert load_experiment(write(BASE), [word]).experiment.title == "3e563"


class TestFiles:
    def test_that_do_not_exist(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        assert complaint(Path("none.yaml")) == (
            "none.yaml: cannot be read: no such file or directory; check the file name."
        )

    def test_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        Path("folder.yaml").mkdir()
        assert complaint(Path("folder.yaml")) == "folder.yaml: is a folder; specify a .yaml file."

    def test_that_can_be_read_only_once(self, tmp_path: Path) -> None:
        """Pipes, as in ``cnnbench show <(generate)``."""
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        writer = subprocess.Popen(["sh", "-c", f"printf '%s' \"$1\" > '{pipe}'", "sh", BASE])
        try:
            assert load_experiment(pipe).text == BASE.encode()
        finally:
            assert writer.wait(timeout=10) == 0


class TestPythonModels:
    def test_have_no_plan(self, write: Write) -> None:
        path = write(
            "name: a\ntask: classify\ndataset: {name: mnist}\n"
            "model: {python: package.module:Net, args: {width: 3, sizes: [1, {a: ~}]}}\n"
        )
        loaded = load_experiment(path)
        assert loaded.plan is None
        assert loaded.experiment.model.args == {"width": 3, "sizes": [1, {"a": None}]}

    @pytest.mark.parametrize(
        "name",
        ["Net", "a.Net", "a:", ":Net", "a:b.C", "a b:C", "1a:C", "a..b:C", "a:C\\n", "a/b:C"],
    )
    def test_malformed_names(self, write: Write, name: str) -> None:
        path = write(
            f'name: a\ntask: classify\ndataset: {{name: mnist}}\nmodel: {{python: "{name}"}}\n'
        )
        shown = repr(name.replace("\\n", "\n"))
        assert complaint(path) == (
            f"idea.yaml:4:17: model.python: {shown} is not a reference to a class; "
            "use package.module:Class."
        )


def assert_reloads(loaded: Loaded, folder: Path) -> None:
    path = folder / "resolved.yaml"
    text = loaded.resolved()
    path.write_text(text, encoding="utf-8")
    again = load_experiment(path)
    assert again.experiment == loaded.experiment
    assert again.experiment.digest() == loaded.experiment.digest()
    assert list(again.experiment.model.layers) == list(loaded.experiment.model.layers)
    assert again.plan == loaded.plan
    assert again.resolved() == text


class TestResolved:
    @pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
    def test_shipped_experiments_reload_equal(self, path: Path, tmp_path: Path) -> None:
        assert_reloads(load_experiment(path, ["seeds=3"]), tmp_path)

    def test_writes_every_default_and_extends_nothing(self) -> None:
        text = load_experiment(EXPERIMENTS / "modified.yaml", ["train.epochs=5"]).resolved()
        data = yaml.safe_load(text)
        assert "extends" not in data
        assert data["train"]["epochs"] == 5
        assert data["dataset"]["pixel_scale"] == 256
        assert data["model"]["layers"]["conv1"] == {
            "inputs": None,
            "op": "conv",
            "filters": 32,
            "kernel": [5, 5],
            "stride": [1, 1],
            "padding": "valid",
            "activation": "relu",
            "use_bias": True,
            "init": "glorot_uniform",
            "groups": 1,
            "dilation": [1, 1],
            "bias_init": "zeros",
            "trainable": True,
            "weights": None,
        }

    @pytest.mark.parametrize("title", ["1e-3", "010", "0o7", "no", "null", "~", "é: #", "'\"", "-"])
    def test_titles_that_look_like_something_else(
        self, write: Write, tmp_path: Path, title: str
    ) -> None:
        path = write(BASE.replace("title: Base", dump_document({"title": title}).strip()))
        loaded = load_experiment(path)
        assert loaded.experiment.title == title
        assert_reloads(loaded, tmp_path)


# Valid experiments by construction: sizes stay positive and the last layer has ten units.
VALUES = st.integers(1, 3)
PAIRS = VALUES | st.lists(VALUES, min_size=2, max_size=2)
ACTIVATIONS = st.sampled_from(["linear", "relu", "gelu"])
TITLES = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), max_size=12)


def op_with(kind: str, required: dict[str, Any], **optional: Any) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries({"op": st.just(kind), **required}, optional=optional)


MIDDLE = st.one_of(
    op_with(
        "conv",
        {"filters": VALUES, "kernel": PAIRS},
        padding=st.just("same"),
        activation=ACTIVATIONS,
        use_bias=st.booleans(),
        init=st.sampled_from(["he_normal", "zeros"]),
    ),
    op_with("conv_transpose", {"filters": VALUES, "kernel": PAIRS}, padding=st.just("valid")),
    op_with("max_pool", {"size": st.just(2)}, stride=st.just([1, 2])),
    op_with("avg_pool", {"size": st.just([1, 2])}),
    op_with("upscale", {"size": VALUES}),
    op_with("dropout", {"rate": st.floats(0, 0.999)}),
    op_with("activation", {"activation": ACTIVATIONS}),
    op_with("batch_norm", {}, momentum=st.floats(0, 0.999), epsilon=st.floats(1e-9, 1)),
)
OPTIMIZER = st.sampled_from(["sgd", "adam", {"name": "lion", "b1": 0.5}]) | st.fixed_dictionaries(
    {"name": st.just("sgd"), "learning_rate": st.floats(1e-300, 1e300)},
    optional={"nesterov": st.booleans(), "momentum": st.just(0)},
)


@st.composite
def specs(draw: st.DrawFn) -> dict[str, Any]:
    middle = draw(st.lists(MIDDLE, max_size=4))
    layers: dict[str, Any] = {f"l{i}": op for i, op in enumerate(middle)}
    last = f"l{len(middle) - 1}" if middle else "input"
    if draw(st.booleans()):
        layers["c"] = {"op": "conv", "filters": 2, "kernel": 1, "inputs": last}
        layers["t"] = {"op": "conv_transpose", "tie": "c"}
        layers["both"] = {"op": "concat", "inputs": ["c", "t"]}
    layers["out"] = {"op": "dense", "units": 10}
    spec = {
        "name": draw(st.from_regex("[A-Za-z][A-Za-z0-9_-]{0,10}", fullmatch=True)),
        "title": draw(TITLES),
        "task": "classify",
        "dataset": {
            "name": draw(st.sampled_from(["mnist", "cifar10"])),
            "pixel_scale": draw(st.floats(1e-3, 1e3)),
        },
        "model": {"layers": layers},
        "train": {
            "epochs": draw(st.integers(2, 10**6)),
            "optimizer": draw(OPTIMIZER),
            "schedule": draw(st.sampled_from(["constant", {"name": "cosine", "warmup_epochs": 1}])),
        },
        "seeds": draw(VALUES | st.lists(st.integers(0, 2**32 - 1), min_size=1, unique=True)),
    }
    for key in draw(st.sets(st.sampled_from(["title", "train", "seeds"]))):
        del spec[key]
    return spec


QUIET = settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])


@given(specs())
@QUIET
def test_any_valid_experiment_reloads_equal(tmp_path: Path, spec: dict[str, Any]) -> None:
    path = tmp_path / "idea.yaml"
    path.write_text(dump_document(spec), encoding="utf-8")
    assert_reloads(load_experiment(path), tmp_path)


@pytest.mark.parametrize(
    "shares", [{"op": "softmax"}, {"op": "activation", "activation": "hard_sigmoid"}]
)
def test_outputs_of_binary_cross_entropy_are_probabilities(
    shares: dict[str, str], tmp_path: Path
) -> None:
    layers = {
        "scores": {"op": "conv", "filters": 2, "kernel": 1},
        "shares": shares,
        "out": {"op": "slice", "size": 1},
    }
    spec = {"name": "idea", "task": "reconstruct", "dataset": {"name": "mnist"}}
    more = {"model": {"layers": layers}, "train": {"loss": "binary_cross_entropy"}}
    path = tmp_path / "idea.yaml"
    path.write_text(dump_document(spec | more), encoding="utf-8")
    assert_reloads(load_experiment(path), tmp_path)


@given(specs(), st.data())
@QUIET
def test_layers_in_any_order_with_named_inputs_make_one_network(
    tmp_path: Path, spec: dict[str, Any], data: st.DataObject
) -> None:
    path = tmp_path / "idea.yaml"
    path.write_text(dump_document(spec), encoding="utf-8")
    plan = load_experiment(path).plan
    assert plan is not None
    named = {
        node.name: spec["model"]["layers"][node.name] | {"inputs": list(node.inputs)}
        for node in plan.nodes
    }
    order = data.draw(st.permutations(list(named)))
    shuffled = spec | {"model": {"layers": {name: named[name] for name in order}}}
    path.write_text(dump_document(shuffled), encoding="utf-8")
    again = load_experiment(path).plan
    assert again is not None
    assert (again.num_params, again.multiply_adds) == (plan.num_params, plan.multiply_adds)
    assert {n.name: n.layout for n in again.nodes} == {n.name: n.layout for n in plan.nodes}
    done = {"input"}
    for node in again.nodes:
        assert set(node.inputs) <= done
        done.add(node.name)


# What users and their editors do to a file.
SNIPPETS = [
    *"{}[]:,-?!&*#|>@`%'\"\\\n\t \x00\x85\ufeff\U0001f600",
    *("no", "010", "1e999", ".nan", "null", "~", "<<", "*a", "&a ", "!!int ", "---\n", "- "),
    *("inputs: ", "tie: ", "op: ", "extends: ", "name", "input", "conv", "dense", "out", "model"),
    *("9" * 50, "0x" + "f" * 50, "-1", "1.5", '"\\uD800"', '"\\UFFFFFFFF"', "%YAML 9.9\n---\n"),
]


def load_or_refuse(path: Path, raw: bytes, overrides: tuple[str, ...] = ()) -> str | None:
    """The messages that loading gives, if any; other exceptions pass through."""
    path.write_bytes(raw)
    try:
        with in_time():
            load_experiment(path, overrides)
    except SpecError as error:
        for problem in error.problems:
            assert problem.message
            assert problem.remedy
            assert str(problem).isprintable()
        return str(error)
    else:
        return None


@given(st.data())
@settings(QUIET, max_examples=200)
def test_mutated_files_raise_only_spec_errors(tmp_path: Path, data: st.DataObject) -> None:
    text = data.draw(specs().map(dump_document) | st.just(BASE))
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(start, min(len(text), start + 12)))
        text = text[:start] + data.draw(st.sampled_from(["", *SNIPPETS])) + text[end:]
    load_or_refuse(tmp_path / "idea.yaml", text.encode())


JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec="utf-8"), max_size=5)
    | st.sampled_from(["input", "conv", "dense", "out", "sgd", "mnist", "relu", "same"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["op", "name", "inputs", "layers", "tie", "kernel", "size", "x"]), inner
        )
    ),
    max_leaves=5,
)


def paths_of(data: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items: Any = []
    if isinstance(data, dict):
        items = data.items()
    elif isinstance(data, list):
        items = enumerate(data)
    inner = (paths_of(value, (*at, key)) for key, value in items)
    return [at, *itertools.chain.from_iterable(inner)]


def replaced(data: Any, at: tuple[Any, ...], value: Any) -> Any:
    if not at:
        return value
    copy = dict(data) if isinstance(data, dict) else list(data)
    copy[at[0]] = replaced(copy[at[0]], at[1:], value)
    return copy


@given(specs(), st.data())
@settings(QUIET, max_examples=200)
def test_wrong_values_anywhere_raise_only_spec_errors(
    tmp_path: Path, spec: dict[str, Any], data: st.DataObject
) -> None:
    changed: Any = spec
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.sampled_from(paths_of(changed)))
        changed = replaced(changed, at, data.draw(JUNK))
    assume(not names_a_foreign_dataset(changed))
    load_or_refuse(tmp_path / "idea.yaml", dump_document(changed).encode())


def names_a_foreign_dataset(spec: Any) -> bool:
    """Looking a name up in tensorflow-datasets takes a second, once; its answer is not ours."""
    dataset = spec.get("dataset") if isinstance(spec, dict) else None
    known = ("mnist", "cifar10")
    return isinstance(dataset, dict) and dataset.get("name", "mnist") not in known


@given(
    st.text(st.characters() | st.sampled_from("\ud800\udce9=.[]{}'"), max_size=20).filter(
        lambda t: "\0" not in t
    ),
    st.sampled_from(
        ["", "train.epochs=", "model.conv.", "model.conv=", "train.optimizer.", "seeds="]
    ),
)
@settings(QUIET, max_examples=200)
def test_any_override_raises_only_spec_errors(tmp_path: Path, text: str, start: str) -> None:
    load_or_refuse(tmp_path / "idea.yaml", BASE.encode(), (start + text,))


def unmeasured(function: str, path: Path) -> str:
    """Runs a function of this module in a process without coverage, and returns its result.

    Measuring them takes as long again.
    """
    code = f"from tests.spec.test_loader import *; print({function}(Path(sys.argv[1])))"
    return subprocess.run(
        [sys.executable, "-c", code, str(path)],
        cwd=EXPERIMENTS.parent,
        env=without("COVERAGE_"),
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def told_in_time(path: Path) -> str:
    with in_time():
        return complaint(path)


def told_of_thousands(path: Path) -> str | None:
    layers = {f"layer{i}": {"op": "flatten", "inputs": f"lager{i}"} for i in range(1_200)}
    spec = {"name": "a", "task": "classify", "dataset": {"name": "mnist"}, "model": {}}
    spec["model"] = {"layers": layers}
    return load_or_refuse(path, dump_document(spec).encode())


def test_thousands_of_invalid_layers_are_reported_in_time(tmp_path: Path) -> None:
    told = unmeasured("told_of_thousands", tmp_path / "idea.yaml")
    assert len(told.splitlines()) == 1_200
    assert re.search("unknown layer 'lager0' \\(did you mean 'layer1'\\?\\)", told)
