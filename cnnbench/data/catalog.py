"""Which image-classification datasets there are, and what their images look like."""

import contextlib
import importlib
import importlib.util
import io
import logging
import os
import re
import textwrap
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cnnbench.errors import DataError, Noun, did_you_mean, or_list
from cnnbench.system import commands
from cnnbench.system.files import at_home

EMBEDDED = "mnist_5k"
TESTED = "4.9.10"  # of tensorflow-datasets
TENSORFLOW_EXTRA = commands.pip_install("cnnbench[tensorflow]")
LIST = f"`{commands.cnnbench('data', 'list')}`"

_patching = threading.Lock()

_NAMES = Noun(  # what other libraries call some of them
    {
        "cifar10": ("cifar", "cifar-10"),
        "fashion_mnist": ("fashion", "FashionMNIST"),
        "kmnist": ("kuzushiji", "KuzushijiMNIST"),
    }
)


@dataclass(frozen=True, slots=True)
class DatasetInfo:
    """A dataset before any of it is read.

    Args:
      name: tensorflow-datasets' name, ``name/config``, or ``mnist_5k``.
      shape: height, width and channels of every image.
      num_classes: labels are 0 to ``num_classes - 1``.
      num_train: images to train and validate on; None until the data is prepared.
      num_test: images to test on; None until the data is prepared.
      title: one line about it.
    """

    name: str
    shape: tuple[int, int, int]
    num_classes: int
    num_train: int | None
    num_test: int | None
    title: str


# Sizes as in tensorflow-datasets 4.9.10; a set with several configurations stands
# here as its default one.
KNOWN: Mapping[str, DatasetInfo] = MappingProxyType(
    {
        info.name: info
        for info in (
            DatasetInfo("mnist", (28, 28, 1), 10, 60_000, 10_000, "handwritten digits"),
            DatasetInfo("fashion_mnist", (28, 28, 1), 10, 60_000, 10_000, "articles of clothing"),
            DatasetInfo("kmnist", (28, 28, 1), 10, 60_000, 10_000, "cursive Japanese characters"),
            DatasetInfo(
                "emnist", (28, 28, 1), 62, 697_932, 116_323, "handwritten digits and letters"
            ),
            DatasetInfo("cifar10", (32, 32, 3), 10, 50_000, 10_000, "small colour photographs"),
            DatasetInfo("cifar100", (32, 32, 3), 100, 50_000, 10_000, "the same in fine classes"),
            DatasetInfo("svhn_cropped", (32, 32, 3), 10, 73_257, 26_032, "house numbers"),
            DatasetInfo(EMBEDDED, (28, 28, 1), 10, 4_500, 500, "5,000 MNIST digits, embedded"),
        )
    }
)


def split_sizes(
    wanted: Mapping[str, int], pool: int, held_out: int | None = None
) -> tuple[int, int]:
    """Images that train and validate, as they are asked for and by default.

    By default the last sixth of the training images validates, or what is left of them where
    fewer are; all others train. Neither number is checked.

    Args:
      wanted: numbers by ``train`` and ``validation``; a missing one has its default.
      pool: training images there are.
      held_out: validation images there are beside them; None where they are a part of them.

    >>> split_sizes({}, 60_000), split_sizes({"train": 55_000}, 60_000)
    ((50000, 10000), (55000, 5000))
    >>> split_sizes({"validation": 0}, 60_000)
    (60000, 0)
    """
    if held_out is not None:
        return wanted.get("train", pool), wanted.get("validation", held_out)
    rest = pool - wanted.get("train", 0)
    validation = wanted.get("validation", min(pool // 6, rest))
    return wanted.get("train", pool - validation), validation


def describe(name: str, data_dir: Path | None = None) -> DatasetInfo:
    """Shape and size of a dataset, without reading or fetching it.

    Args:
      name: a name of `KNOWN`, or any image-classification set of tensorflow-datasets.
      data_dir: folder of prepared data, which may hold sets of the user's own.

    Raises:
      DataError: there is no such set, or its images cannot feed a network as they are.

    >>> describe("cifar10").shape
    (32, 32, 3)
    """
    if name in KNOWN:
        return KNOWN[name]
    return info_of(name, open_builder(name, default_data_dir(data_dir)))


def default_data_dir(data_dir: Path | None) -> Path:
    """The folder asked for, or the one that tensorflow-datasets would use."""
    chosen = data_dir or os.environ.get("TFDS_DATA_DIR") or Path("~/tensorflow_datasets")
    return at_home(Path(chosen))


def open_builder(name: str, data_dir: Path, **kwargs: Any) -> Any:
    """The `tfds.core.DatasetBuilder` of a dataset, without fetching anything.

    Raises:
      DataError: there is no such set, or describing it takes a package that is missing.
    """
    if not re.fullmatch(r"[a-z_][a-z0-9_]*(/[\w.+-]+)?", name):
        raise DataError(_unknown(name))
    with quiet():
        import tensorflow_datasets as tfds
        from google.protobuf.json_format import ParseError

        try:
            with _without_temporary_folder():
                return tfds.builder(name, data_dir=data_dir, **kwargs)
        except tfds.core.DatasetNotFoundError:
            raise DataError(_unknown(name)) from None
        except ModuleNotFoundError as error:
            raise DataError(_missing_package(name, error)) from error
        except ValueError as error:
            if "/" not in name:
                raise DataError(_damaged(name, data_dir, error)) from error
            raise DataError(_wrong_config(name)) from error
        except (ParseError, KeyError, TypeError, AttributeError, OSError) as error:
            raise DataError(_damaged(name, data_dir, error)) from error


@contextlib.contextmanager
def _without_temporary_folder() -> Iterator[None]:
    """Keeps tensorflow-datasets from asking a bucket that is switched off.

    It makes a temporary folder before it asks, and leaves it behind each time.
    """
    import tensorflow_datasets as tfds

    with _patching:
        info = tfds.core.DatasetInfo
        ask = info.initialize_from_bucket
        info.initialize_from_bucket = lambda _: None
        try:
            yield
        finally:
            info.initialize_from_bucket = ask


def info_of(name: str, builder: Any) -> DatasetInfo:
    """What a builder says of its images and labels.

    Raises:
      DataError: not one image and one class label, or images of varying size.
    """
    image, label = (builder.info.features[key] for key in supervised_keys(name, builder))
    if None in image.shape:
        raise DataError(
            f"dataset '{name}' has images of varying size ({_sizes(image.shape)}); "
            "cnnbench needs images of one size, choose another dataset"
        )
    splits = builder.info.splits
    return DatasetInfo(
        name=name,
        shape=image.shape,
        num_classes=label.num_classes,
        num_train=splits["train"].num_examples if "train" in splits else None,
        num_test=splits["test"].num_examples if "test" in splits else None,
        title=textwrap.shorten(builder.info.description or name, 80, placeholder=" ..."),
    )


def supervised_keys(name: str, builder: Any) -> tuple[str, str]:
    """Names of the features that hold the image and its class.

    Raises:
      DataError: the set is not for image classification.
    """
    import numpy as np
    import tensorflow_datasets as tfds

    features = dict(builder.info.features.items())
    match [(key, features.get(key)) for key in builder.info.supervised_keys or ()]:
        case [(image, tfds.features.Image() as feature), (label, tfds.features.ClassLabel())] if (
            np.dtype(feature.np_dtype) == np.uint8
        ):
            return image, label
    raise DataError(
        f"dataset '{name}' is not for image classification (its examples are not one "
        f"8-bit image with one class label); {LIST} shows some that are"
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep tensorflow-datasets from writing on the terminal, which is ours.

    It prints banners, draws bars and logs retries; what matters of all that
    reaches the user through exceptions.
    """
    # Read once, when TensorFlow is first imported.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    loggers = [logging.getLogger(each) for each in ("absl", "urllib3.connectionpool")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with contextlib.redirect_stdout(io.StringIO()):
            import tensorflow_datasets as tfds

            tfds.disable_progress_bar()
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def private(module: str, name: str) -> Any:
    """A part of tensorflow-datasets that its documentation does not promise.

    Args:
      module: below `tensorflow_datasets.core`.
      name: of a class or function in it.

    Raises:
      DataError: the installed version has none of that name.
    """
    try:
        return getattr(importlib.import_module(f"tensorflow_datasets.core.{module}"), name)
    except (ImportError, AttributeError):
        found = f"tensorflow-datasets {version('tensorflow-datasets')} has no core.{module}.{name}"
        remedy = f"run {commands.pip_install(f'tensorflow-datasets=={TESTED}')}"
        raise DataError(f"{found}, which cnnbench needs; {remedy}.") from None


def has_tensorflow() -> bool:
    """Whether the `tensorflow` extra is installed."""
    return importlib.util.find_spec("tensorflow") is not None


def _unknown(name: str) -> str:
    import tensorflow_datasets as tfds

    near = _NAMES.hint(name, [*KNOWN, *tfds.list_builders(with_community_datasets=False)])
    return f"dataset '{name}' does not exist{near or f'; {LIST} shows names'}"


def _wrong_config(name: str) -> str:
    import tensorflow_datasets as tfds

    base, _, config = name.partition("/")
    configs = list(tfds.builder_cls(base).builder_configs)
    if not configs:
        return f"dataset '{base}' has no configurations; write '{base}' without '/{config}'"
    near = did_you_mean(config, configs) or f"; write one of {or_list(configs)}"
    return f"dataset '{base}' has no configuration '{config}'{near}"


def _damaged(name: str, data_dir: Path, error: Exception) -> str:
    reason = " ".join(str(error).split())[-80:].rstrip(".") or type(error).__name__
    where = f"{data_dir / name}: the description of the prepared data cannot be read"
    return f"{where} ({reason}); remove that folder and prepare the dataset again"


def _missing_package(name: str, error: ModuleNotFoundError) -> str:
    # tensorflow-datasets raises the error anew and loses its `name` on the way.
    package = str(error).rpartition("No module named ")[2].strip("'").partition(".")[0]
    install = TENSORFLOW_EXTRA if package == "tensorflow" else commands.pip_install(package)
    return f"dataset '{name}' cannot be described without the package '{package}'; {install}"


def _sizes(shape: tuple[int | None, ...]) -> str:
    return "x".join("?" if size is None else str(size) for size in shape)
