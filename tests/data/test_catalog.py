import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow_datasets as tfds

from cnnbench.data.catalog import (
    EMBEDDED,
    KNOWN,
    DatasetInfo,
    default_data_dir,
    describe,
    has_tensorflow,
    open_builder,
    private_api,
    quiet,
)
from cnnbench.data.published.readers.medmnist import MEDMNIST
from cnnbench.errors import DataError

THEIRS = [name for name in KNOWN if name != EMBEDDED and name not in MEDMNIST]


@pytest.mark.parametrize("name", THEIRS)
def test_known_shapes_are_those_of_tensorflow_datasets(name: str, tmp_path: Path) -> None:
    features = tfds.builder(name, data_dir=tmp_path).info.features
    assert KNOWN[name].shape == tuple(size or 0 for size in features["image"].shape)
    # Labels of letters are 1 to 26 there, of 37 classes that the files do not have.
    num_classes = {"emnist/letters": 26}.get(name, features["label"].num_classes)
    assert KNOWN[name].num_classes == num_classes
    assert KNOWN[name].name == name


@pytest.mark.parametrize("name", ["", "/byclass", "/bymerge", "/balanced", "/digits", "/mnist"])
def test_known_sizes_of_emnist_are_those_of_its_configs(name: str, tmp_path: Path) -> None:
    config = tfds.builder(f"emnist{name}", data_dir=tmp_path).builder_config
    assert KNOWN[f"emnist{name}"].num_train == config.train_examples
    assert KNOWN[f"emnist{name}"].num_test == config.test_examples


def test_describes_datasets_that_are_not_in_the_table(tmp_path: Path) -> None:
    assert describe("binary_alpha_digits", tmp_path) == DatasetInfo(
        name="binary_alpha_digits",
        shape=(20, 16, 1),
        num_classes=36,
        num_train=None,
        num_test=None,
        title="Binary 20x16 digits of '0' through '9' and capital 'A' through 'Z'. 39 ...",
        classes=tuple("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
    )


def test_describes_noise() -> None:
    assert describe("random/224x160x3/1000") == DatasetInfo(
        "random/224x160x3/1000", (224, 160, 3), 1000, 1200, 200, "noise"
    )


_NOISE = "has no image shape and number of classes; use random/HEIGHTxWIDTHxCHANNELS/CLASSES"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        *(
            (name, f"dataset '{name}' {_NOISE}, such as random/224x224x3/1000")
            for name in ("random", "random/224", "random/224x224x3", "random/0x8x3/10")
        ),
        (
            "random/2000x2000x3/10",
            "dataset 'random/2000x2000x3/10' needs 15.6 GiB of memory, more than the 4 GiB"
            " allowed; use smaller images",
        ),
        ("mnsit", "unknown dataset 'mnsit' (did you mean 'mnist'?)"),
        ("MNIST", "unknown dataset 'MNIST' (did you mean 'mnist'?)"),
        ("bean", "unknown dataset 'bean' (did you mean 'beans'?)"),
        ("medmnist", "unknown dataset 'medmnist' (did you mean 'pathmnist'?)"),
        ("svhn", "unknown dataset 'svhn' (did you mean 'svhn_cropped'?)"),
        ("zzzzqq", "unknown dataset 'zzzzqq'; see `cnnbench data list`"),
        ("../../x", "unknown dataset '../../x'; see `cnnbench data list`"),
        ("", "unknown dataset ''; see `cnnbench data list`"),
        (
            "emnist/blanced",
            "dataset 'emnist' has no configuration 'blanced' (did you mean 'balanced'?)",
        ),
        (
            "emnist/x",
            "dataset 'emnist' has no configuration 'x'; use one of byclass, bymerge, balanced, "
            "letters, digits or mnist",
        ),
        ("mnist/x", "dataset 'mnist' has no configurations; use 'mnist' without '/x'"),
        *(
            (
                name,
                f"dataset '{name}' is not an image classification dataset (examples must be one "
                "8-bit image with one class label); see `cnnbench data list` for some that are",
            )
            for name in ("imdb_reviews", "celeb_a")
        ),
    ],
)
def test_names_that_cannot_be_used(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        describe(name, tmp_path)
    assert str(caught.value) == message


@pytest.mark.skipif(has_tensorflow(), reason="TensorFlow is installed here")
def test_a_dataset_that_needs_tensorflow_names_the_package(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    message = "dataset 'coco' requires the package 'tensorflow'; pip install 'cnnbench[tensorflow]'"
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        describe("coco", tmp_path)
    # tensorflow-datasets prints a banner.
    assert capfd.readouterr() == ("", "")


def test_known_names_cost_no_import() -> None:
    code = (
        "import sys; from cnnbench.data.catalog import describe; describe('mnist');"
        "print({'numpy', 'jax', 'tensorflow_datasets'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_data_dir_comes_from_the_argument_then_the_environment_then_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    assert default_data_dir(None) == tmp_path / "tensorflow_datasets"
    monkeypatch.setenv("TFDS_DATA_DIR", "~/sets")
    assert default_data_dir(None) == tmp_path / "sets"
    assert default_data_dir(Path("here")) == Path("here")


def test_quiet_gives_the_terminal_back(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("absl")
    level = logger.level
    with quiet():
        sys.stdout.write("banner")
        logger.error("noise")
    sys.stdout.write("ours")
    assert capsys.readouterr() == ("ours", "")
    assert logger.level == level


def test_tensorflow_datasets_is_as_it_was_afterwards(tmp_path: Path) -> None:
    """A program that calls cnnbench may use it, too."""
    before = vars(tfds.core.DatasetInfo)["initialize_from_bucket"]
    assert open_builder("cmaterdb", tmp_path).info.full_name == "cmaterdb/bangla/1.0.0"
    assert vars(tfds.core.DatasetInfo)["initialize_from_bucket"] is before
    with pytest.raises(DataError):
        open_builder("mnist/x", tmp_path)
    assert vars(tfds.core.DatasetInfo)["initialize_from_bucket"] is before


def test_a_name_that_starts_with_a_digit_is_unknown(tmp_path: Path) -> None:
    """tensorflow-datasets cannot even parse it; found by the fuzzer."""
    with pytest.raises(DataError) as caught:
        open_builder("9mnist_5k", tmp_path)
    assert str(caught.value).startswith("unknown dataset '9mnist_5k'")


@pytest.mark.parametrize(("module", "name"), [("hashing", "Gone"), ("gone", "Hasher")])
def test_a_version_without_a_private_part_is_an_error(module: str, name: str) -> None:
    with pytest.raises(DataError) as caught:
        private_api(module, name)
    assert str(caught.value) == (
        f"tensorflow-datasets {tfds.__version__} has no core.{module}.{name}, which cnnbench"
        " requires;"
        " run pip install tensorflow-datasets==4.9.10."
    )
