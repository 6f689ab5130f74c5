"""Files of predictions: what is written is read, and what is damaged is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from cnnbench.errors import StoreError
from cnnbench.runs.folder import RunFolder, read_predictions
from cnnbench.runs.predictions import agrees, decode_predictions, encode_predictions
from cnnbench.system.array_files import encode
from tests.training.test_resume import digest

REMEDY = "restore the file from a copy, or remove it: verdicts then do not account for the images."


def sample(size: int = 11, classes: int = 10) -> dict[str, Any]:
    rng = np.random.default_rng(size)
    return {
        "test_accuracy": rng.random(size) < 0.5,
        "test_loss": rng.random(size).astype(np.float32),
        "test_label": rng.integers(0, classes, size).astype(np.int32),
        "validation_accuracy": rng.random(2 * size) < 0.5,
    }


@given(st.integers(0, 40))
def test_what_is_written_is_read(size: int) -> None:
    values = sample(size)
    content = b"".join(map(bytes, encode_predictions(values)))
    values["test_label"] = values["test_label"].astype(np.uint8)
    assert digest(decode_predictions(content, "file")) == digest(values)


def test_labels_of_many_classes_keep_their_values() -> None:
    values = {"test_label": np.array([0, 256, 21_841], np.int32)}
    found = decode_predictions(b"".join(map(bytes, encode_predictions(values))), "file")
    assert digest(found) == digest(values)


def test_a_bit_per_image_is_stored(tmp_path: Path) -> None:
    """Ten seeds and 10,000 images take 12.5 kB, and a file is read with NumPy alone."""
    bits = np.random.default_rng(0).random(10_000) < 0.98
    RunFolder(tmp_path).write_predictions(3, {"test_accuracy": bits})
    path = tmp_path / "predictions" / "seed-3.safetensors"
    assert path.stat().st_size < 1250 + 300
    found = np.unpackbits(load_file(path)["test_accuracy"], count=10_000)
    assert found.mean() == bits.mean()


def test_runs_of_older_versions_have_none(tmp_path: Path) -> None:
    assert read_predictions(tmp_path, 0) is None


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the header is damaged"),
        (b"".join(map(bytes, encode_predictions(sample())))[:-1], "the SHA-256 does not match"),
        (b"".join(map(bytes, encode({"test_loss": np.zeros(3)}, {}))), "the header is damaged"),
        (
            b"".join(map(bytes, encode({"test_loss": np.zeros(3)}, {"bits": "", "test": "4"}))),
            "the header is damaged",
        ),
        (
            b"".join(
                map(
                    bytes,
                    encode(
                        {"test_accuracy": np.zeros(1, np.uint8)},
                        {"bits": "test_accuracy", "test": "9"},
                    ),
                )
            ),
            "the header is damaged",
        ),
    ],
)
def test_a_damaged_file_is_refused(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "predictions" / "seed-0.safetensors"
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(StoreError) as caught:
        read_predictions(tmp_path, 0)
    assert str(caught.value) == f"{path}: {reason}; {REMEDY}"


def test_the_mean_of_bits_is_exact() -> None:
    bits = np.array([True, True, False])
    assert agrees(bits, 2 / 3)
    assert not agrees(bits, 2 / 3 + 1e-9)
    assert not agrees(np.zeros(0, bool), 0.5)


def test_the_mean_of_losses_is_that_of_a_sum_in_another_order() -> None:
    losses = np.random.default_rng(0).random(10_000).astype(np.float32)
    assert agrees(losses, float(losses.sum()) / len(losses))
    assert not agrees(losses, float(losses.mean()) + 0.001)
    assert agrees(losses * np.float32("nan"), float("nan"))
