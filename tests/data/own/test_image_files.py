"""Image files as a network sees them."""

import contextlib
import io
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from cnnbench.data.own import pillow_files
from cnnbench.data.own.image_files import Preprocessing, read_image
from cnnbench.data.published.mnist_5k import load_embedded
from cnnbench.errors import CnnbenchError, DataError, UsageError

GRAY, COLOR = (28, 28, 1), (32, 32, 3)
AS_IT_IS = Preprocessing("no")
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def save(path: Path, pixels: Any, **options: Any) -> Path:
    Image.fromarray(np.asarray(pixels)).save(path, **options)
    return path


def ramp(height: int, width: int) -> Any:
    """Gray levels that increase from left to right."""
    return np.tile(np.linspace(0, 250, width).round().astype(np.uint8), (height, 1))


@pytest.fixture(scope="module")
def digits() -> Any:
    return load_embedded()["test_images"][:40]


def test_a_digit_of_the_dataset_comes_back_pixel_by_pixel(tmp_path: Path, digits: Any) -> None:
    for number, digit in enumerate(digits):
        seen = read_image(save(tmp_path / f"{number}.png", digit[..., 0]), GRAY, Preprocessing())
        np.testing.assert_array_equal(seen.pixels, digit)
        assert (seen.width, seen.height, seen.inverted) == (28, 28, False)


def test_dark_ink_on_white_paper_is_inverted(tmp_path: Path, digits: Any) -> None:
    for number, digit in enumerate(digits):
        file = save(tmp_path / f"{number}.png", 255 - digit[..., 0])
        seen = read_image(file, GRAY, Preprocessing())
        np.testing.assert_array_equal(seen.pixels, digit)
        assert seen.inverted
        assert seen.border > 127
        kept = read_image(file, GRAY, AS_IT_IS)
        np.testing.assert_array_equal(kept.pixels, 255 - digit)
        assert not kept.inverted


def test_the_border_decides_and_yes_and_no_overrule_it(tmp_path: Path) -> None:
    pixels = np.full((28, 28), 200, np.uint8)
    pixels[1:-1, 1:-1] = 30
    file = save(tmp_path / "a.png", pixels)
    for invert, inverted in (("auto", True), ("yes", True), ("no", False)):
        seen = read_image(file, GRAY, Preprocessing(invert))  # type: ignore[arg-type]
        assert (seen.inverted, seen.border) == (inverted, 200.0)
        want = 255 - pixels if inverted else pixels
        np.testing.assert_array_equal(seen.pixels[..., 0], want)


def test_colors_are_never_inverted_unless_asked(tmp_path: Path) -> None:
    file = save(tmp_path / "a.png", np.full((32, 32, 3), [250, 240, 230], np.uint8))
    assert read_image(file, COLOR, Preprocessing()).pixels[0, 0].tolist() == [250, 240, 230]
    assert read_image(file, COLOR, Preprocessing("yes")).pixels[0, 0].tolist() == [5, 15, 25]


def test_a_larger_file_is_averaged_per_pixel(tmp_path: Path) -> None:
    """Bilinear scaling weights neighbors by a triangle, and preserves a plane."""
    wide = ramp(280, 280)
    seen = read_image(save(tmp_path / "a.png", wide), GRAY, AS_IT_IS).pixels[..., 0]
    means = wide.reshape(28, 10, 28, 10).mean(axis=(1, 3))
    np.testing.assert_allclose(seen[2:-2, 2:-2], means[2:-2, 2:-2], atol=1.01)


@pytest.mark.parametrize("shape", [(28, 56), (56, 28)])
def test_the_middle_is_cut_out(tmp_path: Path, shape: tuple[int, int]) -> None:
    pixels = np.zeros(shape, np.uint8)
    middle = tuple(slice((side - 28) // 2, (side + 28) // 2) for side in shape)
    rng = np.random.default_rng(0)
    pixels[middle] = rng.integers(0, 256, (28, 28))
    seen = read_image(save(tmp_path / "a.png", pixels), GRAY, AS_IT_IS)
    np.testing.assert_array_equal(seen.pixels[..., 0], pixels[middle])
    assert (seen.height, seen.width) == shape


def test_transparent_is_white_and_colors_become_gray(tmp_path: Path) -> None:
    pixels = np.zeros((28, 28, 4), np.uint8)
    pixels[10, 10] = [255, 0, 0, 255]
    seen = read_image(save(tmp_path / "a.png", pixels), GRAY, AS_IT_IS).pixels[..., 0]
    assert seen[10, 10] == 76  # 0.299 of red (ITU-R 601-2)
    assert (np.delete(seen.ravel(), 10 * 28 + 10) == 255).all()


@pytest.mark.parametrize("kind", ["LA", "RGBA", "P", "L", "deep"])
def test_white_ink_on_a_transparent_ground_is_seen(tmp_path: Path, kind: str) -> None:
    """On white paper there would be nothing; the network would still name a class."""
    ink = np.zeros((28, 28), np.uint8)
    ink[8:20, 12:16] = 255
    file = tmp_path / "ink.png"
    if kind == "deep":
        samples = np.dstack([np.full_like(ink, 255)] * 3 + [ink]) * np.uint16(257)
        file.write_bytes(png(samples, 6, 16))
    elif kind in {"P", "L"}:
        Image.fromarray(ink).convert(kind).save(file, transparency=0)
    else:
        image = Image.fromarray(np.full_like(ink, 255)).convert(kind)
        image.putalpha(Image.fromarray(ink))
        image.save(file)
    seen = read_image(file, (28, 28, 1), Preprocessing("auto", trim=False))
    np.testing.assert_array_equal(seen.pixels[..., 0], ink)
    assert not seen.inverted


def test_gray_becomes_colors(tmp_path: Path) -> None:
    seen = read_image(save(tmp_path / "a.png", ramp(32, 32)), COLOR, AS_IT_IS).pixels
    for channel in range(3):
        np.testing.assert_array_equal(seen[..., channel], ramp(32, 32))


def test_sixteen_bits_keep_their_brightness(tmp_path: Path) -> None:
    deep = ramp(28, 28).astype(np.uint16) * 257
    seen = read_image(save(tmp_path / "a.png", deep), GRAY, AS_IT_IS)
    np.testing.assert_array_equal(seen.pixels[..., 0], ramp(28, 28))


@pytest.mark.parametrize("mode", ["1", "P", "LA", "CMYK"])
def test_every_mode_is_read(tmp_path: Path, mode: str) -> None:
    file = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    halves = np.zeros((28, 28), np.uint8)
    halves[:, 14:] = 255
    Image.fromarray(halves).convert("RGB").convert(mode).save(file)
    seen = read_image(file, GRAY, AS_IT_IS).pixels[..., 0]
    np.testing.assert_allclose(seen, halves, atol=12)  # a JPEG is not exact


# PNG files of every kind that the standard allows, made here from their samples.

ADAM7 = (
    (0, 0, 8, 8),
    (0, 4, 8, 8),
    (4, 0, 8, 4),
    (0, 2, 4, 4),
    (2, 0, 4, 2),
    (0, 1, 2, 2),
    (1, 0, 2, 1),
)
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
KINDS = [
    (color, depth)
    for color, depths in {
        0: (1, 2, 4, 8, 16),
        2: (8, 16),
        3: (1, 2, 4, 8),
        4: (8, 16),
        6: (8, 16),
    }.items()
    for depth in depths
]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def packed(samples: Any, depth: int) -> bytes:
    """Lines of samples, (h, w, c), none of them filtered."""
    lines = []
    for row in samples.reshape(len(samples), -1):
        bits = (row[:, None].astype(np.int64) >> np.arange(depth)[::-1]) & 1
        lines.append(b"\0" + np.packbits(bits.astype(np.uint8)).tobytes())
    return b"".join(lines)


def png(
    samples: Any, color: int, depth: int, *, interlaced: bool = False, chunks: bytes = b""
) -> bytes:
    """A PNG file of integer samples, (h, w, c); `chunks` come before the data."""
    height, width, _ = samples.shape
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlaced)
    passes = [samples]
    if interlaced:
        passes = [samples[top::down, left::right] for top, left, down, right in ADAM7]
    data = b"".join(packed(each, depth) for each in passes if each.size)
    body = chunk(b"IHDR", header) + chunks + chunk(b"IDAT", zlib.compress(data))
    return SIGNATURE + body + chunk(b"IEND", b"")


def drawn(color: int, depth: int, size: int) -> tuple[Any, bytes, Any]:
    """Samples of a PNG color type, its chunks, and the expected RGB image."""
    rng, most = np.random.default_rng([color, depth]), 2**depth - 1
    samples = rng.integers(0, most + 1, (size, size, CHANNELS[color]))
    if color == 3:
        palette = rng.integers(0, 256, (most + 1, 3), np.uint8)
        alphas = rng.integers(0, 256, max(1, most // 2), np.uint8)
        chunks = chunk(b"PLTE", palette.tobytes()) + chunk(b"tRNS", alphas.tobytes())
        shade = palette[samples[..., 0]] / 255
        opaque = np.append(alphas, [255] * (most + 1 - len(alphas)))[samples[..., 0]] / 255
    elif color in (4, 6):
        chunks, shade, opaque = b"", samples[..., :-1] / most, samples[..., -1] / most
    else:
        samples[3:5, 2:9] = samples[3, 2]  # the transparent value is there more than once
        key = samples[3, 2]
        samples[0, :] = key
        samples[1, :] = key ^ 1  # differs in the lowest bit alone
        chunks = chunk(b"tRNS", struct.pack(f">{len(key)}H", *key))
        shade, opaque = samples / most, (samples != key).any(axis=2)
    shade = np.broadcast_to(shade, (size, size, 3))
    return samples, chunks, 255 * (shade * opaque[..., None] + 1 - opaque[..., None])


@pytest.mark.parametrize("interlaced", [False, True], ids=["in lines", "interlaced"])
@pytest.mark.parametrize(("color", "depth"), KINDS)
def test_every_kind_of_png_is_seen_as_it_is(
    tmp_path: Path, color: int, depth: int, interlaced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pillow_files, "_AT_ONCE", 100)  # of 32 rows, 3 at a time
    samples, chunks, seen = drawn(color, depth, 32)
    file = tmp_path / "a.png"
    file.write_bytes(png(samples, color, depth, interlaced=interlaced, chunks=chunks))
    for shape in (COLOR, (32, 32, 1)):
        got = read_image(file, shape, AS_IT_IS).pixels
        # ITU-R 601-2
        want = seen if shape is COLOR else (seen @ [0.299, 0.587, 0.114])[..., None]
        np.testing.assert_allclose(got, want, atol=0.51 if shape is COLOR and depth == 16 else 1.01)


@pytest.mark.parametrize(("color", "depth"), [(0, 2), (0, 8), (2, 8)])
def test_of_a_transparent_value_the_low_bits_count(tmp_path: Path, color: int, depth: int) -> None:
    """As in the standard; some programs write other values."""
    samples, _, seen = drawn(color, depth, 32)
    key = samples[3, 2] | 2**depth
    content = png(samples, color, depth, chunks=chunk(b"tRNS", struct.pack(f">{len(key)}H", *key)))
    (tmp_path / "a.png").write_bytes(content)
    got = read_image(tmp_path / "a.png", COLOR, AS_IT_IS).pixels
    np.testing.assert_allclose(got, seen, atol=1.01)


# Transform of each orientation value, on stored rows and columns.
TURNS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: np.swapaxes(a, 0, 1),
    6: lambda a: np.swapaxes(a[::-1], 0, 1),
    7: lambda a: np.swapaxes(a[::-1, ::-1], 0, 1),
    8: lambda a: np.swapaxes(a[:, ::-1], 0, 1),
}


@pytest.mark.parametrize(("color", "depth"), [(0, 2), (0, 16), (2, 16), (4, 16), (6, 8), (6, 16)])
@pytest.mark.parametrize("orientation", TURNS)
def test_exif_orientation_of_a_png(
    tmp_path: Path, orientation: int, color: int, depth: int
) -> None:
    samples, chunks, seen = drawn(color, depth, 32)
    exif = b"MM\0*\0\0\0\x08\0\x01" + struct.pack(">HHIHHI", 0x0112, 3, 1, orientation, 0, 0)
    content = png(samples, color, depth, chunks=chunks + chunk(b"eXIf", exif))
    (tmp_path / "a.png").write_bytes(content)
    got = read_image(tmp_path / "a.png", COLOR, AS_IT_IS).pixels
    np.testing.assert_allclose(got, TURNS[orientation](seen), atol=1.01)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("orientation", TURNS)
def test_exif_orientation_of_a_jpeg(tmp_path: Path, orientation: int, mode: str) -> None:
    """Blocks of 8x8 pixels of the same color, which JPEG preserves."""
    inks = np.random.default_rng(orientation).integers(0, 256, (4, 4, len(mode)), np.uint8)
    inks = inks.repeat(8, axis=0).repeat(8, axis=1)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: Any = {"exif": exif, "quality": 100, "subsampling": 0, "progressive": True}
    image = Image.fromarray(inks[..., 0] if mode == "L" else inks, mode)
    image.save(tmp_path / "a.jpg", **options)
    got = read_image(tmp_path / "a.jpg", COLOR, AS_IT_IS).pixels
    seen = np.broadcast_to(inks.astype(float), (32, 32, 3)) if mode == "L" else inks.astype(float)
    if mode == "CMYK":
        seen = (255 - seen[..., :3]) * (255 - seen[..., 3:]) / 255
    np.testing.assert_allclose(got, TURNS[orientation](seen), atol=3)


def test_unsupported_formats_are_reported(tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    Image.fromarray(ramp(28, 28)).save(file)
    content = bytearray(file.read_bytes())
    content[content.index(b"\xff\xc0") + 4] = 12  # bits a sample, in the header of the frame
    file.write_bytes(content)
    for name, end in (("JPEG", content), ("PNG", SIGNATURE + b"nothing")):
        file.write_bytes(end)
        with pytest.raises(DataError) as caught:
            read_image(file, GRAY, AS_IT_IS)
        assert str(caught.value) == (
            f"{file}: is a damaged or unsupported {name} file; save it again with 8 bits per"
            " channel, or remove it"
        )


def test_exif_orientation_of_a_photo(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees, clockwise
    file = save(tmp_path / "a.jpg", ramp(28, 56), exif=exif, quality=100)
    seen = read_image(file, GRAY, AS_IT_IS)
    assert (seen.width, seen.height) == (28, 56)
    assert (np.diff(seen.pixels[:, 14, 0].astype(int)) > 0).all()


def test_trim_cuts_to_the_ink_and_centres_its_mass(tmp_path: Path) -> None:
    paper = np.full((400, 600), 190, np.uint8)
    paper[100:300, 40:120] = 20  # 200 high, 80 wide
    seen = read_image(save(tmp_path / "a.png", paper), GRAY, Preprocessing(trim=True)).pixels[
        ..., 0
    ]
    ink = np.zeros((28, 28), np.uint8)
    ink[4:24, 10:18] = 255  # 3.5 to 23.5 would be the middle, and halves are rounded to even
    np.testing.assert_array_equal(seen, ink)


def test_trim_finds_no_ink_in_specks_that_vanish(tmp_path: Path) -> None:
    """Two pixels of 3,000 x 3,000 are nothing in 20 x 20, which has no middle."""
    paper = np.full((3000, 3000), 255, np.uint8)
    paper[0, 0] = paper[-1, -1] = 0
    file = save(tmp_path / "a.png", paper)
    with pytest.raises(DataError, match="has no ink to trim to; remove --trim"):
        read_image(file, GRAY, Preprocessing(trim=True))


def test_trim_centers_the_mass_within_the_image(tmp_path: Path, digits: Any) -> None:
    """MNIST was made so (its boxes are 20 pixels), and trimming a digit of it changes little."""
    alike = []
    for number, digit in enumerate(digits):
        file = save(tmp_path / f"{number}.png", digit[..., 0])
        seen = read_image(file, GRAY, Preprocessing(trim=True)).pixels[..., 0].astype(float)
        rows, columns = np.indices(seen.shape)
        middle = [(axis * seen).sum() / seen.sum() for axis in (rows, columns)]
        assert np.abs(np.array(middle) - 14).max() <= 0.51
        alike.append(np.corrcoef(seen.ravel(), digit.ravel().astype(float))[0, 1])
    assert np.median(alike) > 0.99


def claimed(width: int, height: int) -> bytes:
    """A PNG file of a few bytes that says it is large."""

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return SIGNATURE + header + chunk(b"IDAT", zlib.compress(b"0")) + chunk(b"IEND", b"")


def test_mistakes_end_in_a_message(tmp_path: Path) -> None:
    file = tmp_path / "a.png"

    def refused(kind: type[CnnbenchError], message: str, shape: Any = GRAY, **how: Any) -> None:
        with pytest.raises(kind, match=f"^{re.escape(message)}$"):
            read_image(file, shape, Preprocessing(**how))

    known = "PNG, JPEG, WebP, GIF, BMP or TIFF file"
    refused(UsageError, f"{file}: no such file; specify a {known}.")
    file.mkdir()
    refused(UsageError, f"{file}: is a folder; specify a {known}.")
    file.rmdir()
    file.write_bytes(b"")
    refused(DataError, f"{file}: is empty; save it again, or remove it")
    Image.new("L", (9, 9)).save(file, "PPM")
    refused(DataError, f"{file}: is damaged, or not a {known}; save it again, or remove it")
    for size in ((10_000, 9_000), (60_000, 60_000)):  # Pillow warns, then refuses
        file.write_bytes(claimed(*size))
        large = "has more than 89,478,485 pixels; make it smaller, or remove it"
        refused(DataError, f"{file}: {large}")
    Image.fromarray(ramp(90, 90)).save(file)
    file.write_bytes(file.read_bytes()[:-40])
    cut = "cannot be read (image file is truncated); save it again, or remove it"
    refused(DataError, f"{file}: {cut}")
    Image.new("L", (9, 9), 200).save(file)
    message = (
        "the network takes images with 4 channels, but image files have 1 (grayscale) or 3 (RGB)."
    )
    refused(UsageError, f"{file}: {message}", (9, 9, 4))
    refused(DataError, f"{file}: has no ink to trim to; remove --trim.", trim=True)
    message = "--trim: not available for networks that take RGB images; remove it."
    refused(UsageError, message, COLOR, trim=True)


def test_phones_put_a_preview_behind_a_photograph(tmp_path: Path) -> None:
    pictures = [Image.fromarray(ramp(28, 28)), Image.fromarray(ramp(14, 14))]
    pictures[0].save(
        tmp_path / "a.jpg", "MPO", save_all=True, append_images=pictures[1:], quality=100
    )
    seen = read_image(tmp_path / "a.jpg", GRAY, AS_IT_IS)
    np.testing.assert_allclose(seen.pixels[..., 0], ramp(28, 28), atol=3)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    form=st.sampled_from(["PNG", "JPEG"]),
    end=st.floats(0, 1),
    changes=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=4),
)
def test_a_damaged_file_is_read_or_refused(
    tmp_path: Path, form: str, end: float, changes: list[tuple[float, int]]
) -> None:
    file, content = tmp_path / "a", io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)).save(
        content, form
    )
    damaged = bytearray(content.getvalue())
    for place, value in changes:
        damaged[int(place * len(damaged))] = value
    file.write_bytes(damaged[: int(end * len(damaged)) if end < 0.9 else None])
    with contextlib.suppress(DataError):
        assert read_image(file, GRAY, Preprocessing()).pixels.shape == GRAY


@pytest.mark.parametrize("form", ["PNG", "GIF", "WEBP", "TIFF"])
def test_the_first_frame_of_an_animation_is_seen(tmp_path: Path, form: str) -> None:
    first, second = (Image.fromarray(np.full((28, 28), v, np.uint8)) for v in (10, 200))
    options: Any = {"lossless": True} if form == "WEBP" else {}
    first.save(tmp_path / "a", form, save_all=True, append_images=[second], **options)
    seen = read_image(tmp_path / "a", GRAY, AS_IT_IS).pixels
    np.testing.assert_array_equal(seen, np.full(GRAY, 10))


def test_a_program_may_remove_the_limit_of_pillow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    file = save(tmp_path / "a.png", ramp(28, 28))
    np.testing.assert_array_equal(read_image(file, GRAY, AS_IT_IS).pixels[..., 0], ramp(28, 28))
