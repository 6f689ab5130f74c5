"""Pictures, looked at pixel by pixel."""

import io

import numpy as np
import pytest
from matplotlib import image as reader

from cnnbench.report.plots.image_grid import reconstructions_png


def grey_levels(png: bytes) -> np.ndarray:
    return np.unique((reader.imread(io.BytesIO(png))[..., :3].mean(axis=2) * 255).round())


@pytest.mark.parametrize("channels", [1, 3])
def test_inputs_stand_above_outputs(channels):
    inputs = np.full((3, 28, 28, channels), 255, np.uint8)
    outputs = np.full((3, 28, 28, channels), 100.0)
    picture = reader.imread(io.BytesIO(reconstructions_png(inputs, outputs)))[..., 0]
    height, width = picture.shape
    upper, lower = picture[height // 4, width // 2], picture[3 * height // 4, width // 2]
    assert upper == pytest.approx(1.0, abs=0.01)
    assert lower == pytest.approx(100 / 255, abs=0.01)


def test_outputs_beyond_the_scale_are_clipped_not_stretched():
    inputs = np.zeros((2, 8, 8, 1), np.uint8)
    beyond = np.where(np.arange(8) < 4, -50.0, 300.0).reshape(1, 1, 8, 1) * np.ones((2, 8, 1, 1))
    levels = grey_levels(reconstructions_png(inputs, beyond))
    assert {0.0, 255.0} <= set(levels)


def test_one_image_is_enough():
    one = np.zeros((1, 28, 28, 1), np.uint8)
    assert reconstructions_png(one, one.astype(float)).startswith(b"\x89PNG")
