"""What is counted while files are read, and who is told."""

import csv
import io
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from cnnbench.data.own.array_files import read_array_files
from cnnbench.data.published.archives import tar_files
from cnnbench.system.progress import CountDone, FileWork, counted, shown_by


class Recorded:
    """Keeps the works and their counts."""

    def __init__(self) -> None:
        self.works = list[tuple[FileWork, list[int]]]()

    @contextmanager
    def showing(self, work: FileWork) -> Iterator[CountDone]:
        counts = list[int]()
        self.works.append((work, counts))
        yield counts.append


def test_without_a_display_nothing_is_shown_and_displays_nest() -> None:
    outer, inner = Recorded(), Recorded()
    with shown_by(outer):
        with shown_by(inner), counted("decoded", 2) as count:
            count(1)
        with shown_by(None), counted("decoded", 3) as count:
            count(2)
        with counted("read", None, "bytes") as count:
            count(3)
    with counted("decoded", 4) as count:
        count(4)
    assert inner.works == [(FileWork("decoded", 2), [1])]
    assert outer.works == [(FileWork("read", None, "bytes"), [3])]


@pytest.mark.parametrize("name", ["pixels.csv", "pixels.csv.gz"])
def test_tables_count_the_bytes_of_their_file(tmp_path: Path, name: str) -> None:
    text = io.StringIO()
    rng = np.random.default_rng(0)
    csv.writer(text).writerows([["label", *range(64)]])
    csv.writer(text).writerows([i % 2, *rng.integers(0, 255, 64)] for i in range(1000))
    path, content = tmp_path / name, text.getvalue().encode()
    if name.endswith(".gz"):
        import gzip

        content = gzip.compress(content)
    path.write_bytes(content)
    seen = Recorded()
    with shown_by(seen):
        read_array_files(path)
    ((work, counts),) = seen.works
    assert work == FileWork("read", len(content), "bytes")
    assert counts == sorted(counts)
    assert len(set(counts)) > 3
    assert counts[-1] > 0.9 * len(content)


def test_archives_count_the_bytes_of_their_file(tmp_path: Path) -> None:
    path = tmp_path / "a.tgz"
    content = np.random.default_rng(0).bytes(100_000)
    with tarfile.open(path, "w:gz") as archive:
        for number in range(5):
            info = tarfile.TarInfo(str(number))
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    seen = Recorded()
    with shown_by(seen):
        assert len(list(tar_files(path, 10**6, str.isdigit))) == 5
    ((work, counts),) = seen.works
    assert work == FileWork("read", path.stat().st_size, "bytes")
    assert counts == sorted(counts)
    assert len(set(counts)) == 5


def test_tables_of_image_files_count_rows(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq
    from PIL import Image

    file = io.BytesIO()
    Image.new("L", (4, 4)).save(file, "PNG")
    table = {"image": [{"bytes": file.getvalue()}] * 600, "label": [0, 1] * 300}
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    seen = Recorded()
    with shown_by(seen):
        read_array_files(tmp_path / "a.parquet")
    assert seen.works == [(FileWork("decoded", 600), [256, 512, 600])]
