"""A folder as users have them: every mode and format, odd names, rotated photos, broken files.

Pillow is the oracle, and the rules of torchvision's `ImageFolder`.
"""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from cnnbench.data.catalog import ImageForm, Shares
from cnnbench.data.own.array_files import read_array_files
from cnnbench.data.own.decoding import decode, decode_files
from cnnbench.data.own.folder import FolderSource
from cnnbench.data.own.pillow_files import quiet
from cnnbench.errors import DataError
from tests.data.own.test_image_files import png

WHITE = (255, 255, 255)
FORM = ImageForm(None, "stretch", 3, WHITE)
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8))
PHOTO = NOISE.resize((32, 24), Image.Resampling.BICUBIC)
ALPHA = np.tile(np.linspace(0, 255, 32).astype(np.uint8), (24, 1))
GLASS = Image.fromarray(np.dstack([np.asarray(PHOTO), ALPHA]))
DEEP = np.random.default_rng(1).integers(0, 65_536, (24, 32, 3)).astype(np.uint16)
TWICE: dict[str, Any] = {"save_all": True, "append_images": [ImageOps.invert(PHOTO)]}


def rotated(orientation: int) -> dict[str, Any]:
    exif = Image.Exif()
    exif[0x112] = orientation
    return {"exif": exif}


def profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


FILES: dict[str, Callable[[Path], object]] = {
    "alpha.png": GLASS.save,
    "alpha.tif": GLASS.save,
    "alpha.webp": lambda f: GLASS.save(f, lossless=True),
    "gray and alpha.png": GLASS.convert("LA").save,
    "palette.png": lambda f: PHOTO.quantize(16).save(f, transparency=3),
    "palette of alphas.png": lambda f: PHOTO.quantize(16).save(
        f, transparency=bytes(range(0, 256, 16))
    ),
    "palette.bmp": PHOTO.convert("P").save,
    "cmyk.jpg": PHOTO.convert("CMYK").save,
    "cmyk.tif": PHOTO.convert("CMYK").save,
    "ycbcr.tif": PHOTO.convert("YCbCr").save,
    "lab.tif": PHOTO.convert("LAB").save,
    "one bit.bmp": PHOTO.convert("1").save,
    "one bit.png": PHOTO.convert("1").save,
    "fax.tif": lambda f: PHOTO.convert("1").save(f, compression="group4"),
    "gray.jpg": PHOTO.convert("L").save,
    "progressive.jpg": lambda f: PHOTO.save(f, progressive=True),
    "profile.jpg": lambda f: PHOTO.save(f, icc_profile=profile()),
    "animated.gif": lambda f: PHOTO.save(f, **TWICE),
    "animated.webp": lambda f: PHOTO.save(f, lossless=True, **TWICE),
    "animated.png": lambda f: PHOTO.save(f, **TWICE),
    "pages.tif": lambda f: PHOTO.save(f, **TWICE),
    "wrong extension.jpg": lambda f: PHOTO.save(f, "PNG"),
    "UPPER.JPG": PHOTO.save,
    "Ünïcode & näme.PNG": PHOTO.save,
    **{f"exif{n}.jpg": partial(PHOTO.save, **rotated(n)) for n in range(1, 9)},
    "exif.png": lambda f: PHOTO.save(f, **rotated(6)),
    "exif.webp": lambda f: PHOTO.save(f, lossless=True, **rotated(8)),
    "exif.tif": lambda f: PHOTO.save(f, **rotated(6)),
}


def seen_by_pillow(file: Path) -> Any:
    with Image.open(file) as image:
        upright = ImageOps.exif_transpose(image)
        if upright.has_transparency_data:
            clear = upright.convert("RGBA")
            upright = Image.alpha_composite(Image.new("RGBA", clear.size, (*WHITE, 255)), clear)
        return np.asarray(upright.convert("RGB"))


@pytest.mark.parametrize("name", list(FILES))
def test_pixels_are_those_of_pillow(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    FILES[name](file)
    expected = seen_by_pillow(file)
    with quiet():
        found = decode(file, expected.shape[:2], FORM)
    np.testing.assert_array_equal(found, expected)


def test_16_bits_are_scaled_instead_of_clipped(tmp_path: Path) -> None:
    """Pillow's own conversion makes all but the darkest 1/257 white."""
    gray = np.asarray(PHOTO.convert("L"))
    for name in ("deep.tif", "deep.png"):
        Image.fromarray(gray.astype(np.uint16) * 257).save(tmp_path / name)
        with quiet():
            found = decode(tmp_path / name, gray.shape, FORM)
        np.testing.assert_array_equal(found, np.repeat(gray[..., None], 3, axis=2))


def image_folder(root: Path) -> tuple[list[str], list[tuple[str, int]]]:
    """Classes and samples as of torchvision's `ImageFolder`: `find_classes` and `make_dataset`."""
    suffixes = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
    classes = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
    return classes, [
        (os.path.join(place, name), label)  # noqa: PTH118 - as there
        for label, each in enumerate(classes)
        for place, _, names in sorted(os.walk(root / each, followlinks=True))
        for name in sorted(names)
        if name.lower().endswith(suffixes)
    ]


def test_listing_is_that_of_torchvision(tmp_path: Path) -> None:
    for folder in ("b", "a klasse", "Ünder"):
        (tmp_path / folder / "deep" / "er").mkdir(parents=True)
        for name in ("1.png", "10.PNG", "2.jpg", "with space.webp", "deep/x.bmp", "deep/er/y.tiff"):
            PHOTO.save(tmp_path / folder / name)
        for other in ("Thumbs.db", "desktop.ini", "notes.txt", ".DS_Store", "noextension"):
            (tmp_path / folder / other).write_bytes(b"x")
    names, samples = image_folder(tmp_path)
    (tmp_path / "b" / "._1.png").write_bytes(b"x")  # of macOS; torchvision would fail on it
    (tmp_path / ".hidden").mkdir()
    listing = FolderSource(tmp_path, FORM, Shares()).listing()
    assert list(listing.classes) == names
    (files,), (labels,) = listing.files.values(), listing.labels.values()
    ours = {(str(tmp_path / file), label) for file, label in zip(files, labels, strict=True)}
    assert ours == set(samples)
    assert len(ours) == 18


def test_broken_files_are_found_and_read_only_files_are_read(tmp_path: Path) -> None:
    whole = {"a.png": GLASS.save, "b.jpg": PHOTO.save, "c.webp": FILES["animated.webp"]}
    files = []
    for name, save in whole.items():
        save(tmp_path / name)
        (tmp_path / name).chmod(0o444)
        cut = tmp_path / f"cut_{name}"
        content = (tmp_path / name).read_bytes()
        cut.write_bytes(content[: len(content) // 2])
        files += [tmp_path / name, cut]
    for name, content in {"zero.png": b"", "text.png": b"hello", "page.jpg": b"<html>"}.items():
        (tmp_path / name).write_bytes(content)
        files.append(tmp_path / name)
    pixels, broken = decode_files(files, (24, 32), FORM, skip=True)
    assert broken.tolist() == [1, 3, 5, 6, 7, 8]
    assert len(pixels) == 3


def in_a_table(folder: Path, file: Path) -> Any:
    """The image as read from a Parquet file that contains the image file."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    cells = [{"bytes": file.read_bytes()}] * 2
    pq.write_table(pa.table({"image": cells, "label": [0, 1]}), folder / "table.parquet")
    return read_array_files(folder / "table.parquet").arrays["train_images"][0]


@pytest.mark.parametrize("name", [*FILES, "deep.png", "deep color.png", "deep.tif"])
def test_tables_decode_image_files_as_folders_do(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    if name == "deep color.png":
        file.write_bytes(png(DEEP, 2, 16))
    elif name.startswith("deep"):
        Image.fromarray(DEEP[..., 0]).save(file)
    else:
        FILES[name](file)
    found = in_a_table(tmp_path, file)
    form = ImageForm(None, "stretch", found.shape[2], WHITE)
    with quiet():
        np.testing.assert_array_equal(found, decode(file, found.shape[:2], form))


def test_tables_refuse_what_has_no_known_black_and_white(tmp_path: Path) -> None:
    """Such values used to wrap around."""
    file = tmp_path / "a.tif"
    for kind, what in ((np.int32, "32-bit integers"), (np.float32, "32-bit floats")):
        Image.fromarray(DEEP[..., 0].astype(kind)).save(file)
        with pytest.raises(DataError, match=rf"image 0: cannot be read \({what}\)"):
            in_a_table(tmp_path, file)
