"""Images as characters in a terminal."""

import io
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from cnnbench.report.plots.terminal_image import RAMP, ImageGroup, blocks, gallery, ramp, shrunk
from tests.support.oracles import Array


def grey(*rows: list[int]) -> Array:
    return np.array(rows, np.uint8)[..., None]


def shown(images: list[Array], **options: Any) -> str:
    console = Console(file=io.StringIO(), width=80, **options)
    groups = [ImageGroup([f"image {number}"], [image]) for number, image in enumerate(images)]
    console.print(gallery(groups, console))
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_every_character_is_the_mean_of_two_pixels() -> None:
    levels = [round(255 * place / 9) for place in range(10)]
    assert ramp(grey(levels, levels)).plain == RAMP
    assert ramp(grey([0, 255], [255, 255], [255, 0])).plain == "=@\n= ".replace("=", RAMP[4])


def test_half_blocks_carry_both_colours() -> None:
    image = np.array([[[1, 2, 3]], [[4, 5, 6]], [[7, 8, 9]]], np.uint8)
    text = blocks(image)
    assert text.plain == "▀\n▀"
    colours = [
        (span.style.color.triplet, span.style.bgcolor.triplet)  # type: ignore[union-attr]
        for span in text.spans
    ]
    assert colours == [((1, 2, 3), (4, 5, 6)), ((7, 8, 9), (0, 0, 0))]
    (first,) = blocks(grey([9], [8])).spans
    assert first.style.color.triplet == (9, 9, 9)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("options", "coloured"),
    [
        ({"force_terminal": True, "color_system": "truecolor"}, True),
        ({"force_terminal": True, "color_system": "truecolor", "no_color": True}, False),
        ({"force_terminal": True, "color_system": None}, False),
        ({"force_terminal": False}, False),
    ],
)
def test_colours_are_for_terminals_that_have_them(
    options: dict[str, object], coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    text = shown([np.full((4, 4, 1), 255, np.uint8)], **options)
    assert ("▀" in text, "@" in text) == (coloured, not coloured)


def test_images_stand_side_by_side_as_far_as_there_is_room() -> None:
    images = [np.full((28, 28, 1), 255, np.uint8)] * 3
    lines = shown(images).splitlines()
    assert [line.split() for line in lines if "image" in line] == [
        ["image", "0", "image", "1"],
        ["image", "2"],
    ]
    assert max(map(len, lines)) <= 80
    assert sum(line.rstrip() == "@" * 28 + "  " + "@" * 28 for line in lines) == 14


def test_a_pair_fits_and_a_large_image_is_shrunk() -> None:
    console = Console(file=io.StringIO(), width=80)
    large = np.full((224, 224, 3), 255, np.uint8)
    console.print(gallery([ImageGroup(["a" * 100], [large, large])], console))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert max(map(len, lines)) <= 80
    assert "@" * 37 + "  " + "@" * 37 in [line.rstrip() for line in lines]
    assert "".join(line.strip() for line in lines[:2]) == "a" * 100


def test_shrinking_takes_means() -> None:
    image = grey([0, 10, 7], [20, 30, 7], [1, 1, 1])
    np.testing.assert_array_equal(shrunk(image, 2), grey([15]))
    np.testing.assert_array_equal(shrunk(image, 3), image)
