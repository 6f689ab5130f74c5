import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors import safe_open
from safetensors.numpy import save

from cnnbench.system.array_files import encode
from cnnbench.system.cache import CacheEntry, cache_dir, read_entry, write_entry

KEY = "a set, by its content"


def _entry(seed: int = 0) -> CacheEntry:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (7, 5, 4, 1), dtype=np.uint8)
    return CacheEntry({"images": images, "labels": np.arange(7, dtype=np.int32)}, "a test", KEY)


@pytest.fixture
def notes() -> list[str]:
    return []


@settings(max_examples=50)
@given(
    images=hnp.arrays(np.uint8, hnp.array_shapes(min_dims=1, max_dims=4, min_side=0)),
    labels=hnp.arrays(np.int32, st.integers(0, 9)),
    source=st.text(max_size=20),
    key=st.text(max_size=20),
    sums=st.lists(st.text(max_size=3)).map(tuple),
)
def test_round_trip(
    images: np.ndarray,
    labels: np.ndarray,
    source: str,
    key: str,
    sums: tuple[str, ...],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = tmp_path_factory.mktemp("cache") / "new" / "a.safetensors"
    write_entry(path, CacheEntry({"images": images, "labels": labels}, source, key, {"a": sums}))
    found = read_entry(path, key, pytest.fail)
    assert found is not None
    assert (found.source, found.key, found.files) == (source, key, {"a": sums})
    for name, array in {"images": images, "labels": labels}.items():
        np.testing.assert_array_equal(found.arrays[name], array, strict=True)
    assert [each.name for each in path.parent.iterdir()] == ["a.safetensors"]


def test_the_metadata_hold_the_sha256_of_the_rest(tmp_path: Path) -> None:
    write_entry(tmp_path / "a", _entry())
    with safe_open(tmp_path / "a", framework="np") as file:
        digest = file.metadata()["sha256"]
        np.testing.assert_array_equal(file.get_tensor("images"), _entry().arrays["images"])
    content = (tmp_path / "a").read_bytes()
    assert hashlib.sha256(content.replace(digest.encode(), b"0" * 64)).hexdigest() == digest


def test_a_missing_file_is_not_reported(tmp_path: Path) -> None:
    assert read_entry(tmp_path / "none", KEY, pytest.fail) is None


def test_no_flipped_bit_is_ever_used(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_entry(path, _entry())
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        notes: list[str] = []
        assert read_entry(path, KEY, notes.append) is None, at
        assert len(notes) == 1
        assert not path.exists()


def sealed(header: str, data: bytes = b"") -> bytes:
    """A file whose SHA-256 is right, whatever it says."""
    zeros = "0" * 64
    text = f'{header}"__metadata__":{{"sha256":"{zeros}"}}}}'.encode()
    content = len(text).to_bytes(8, "little") + text + data
    return content.replace(zeros.encode(), hashlib.sha256(content).hexdigest().encode())


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the header is damaged"),
        (b"\x93NUMPY\x01\x00", "the header is damaged"),
        (b"[]\n", "the header is damaged"),
        (save({"a": np.zeros(1)}), "the header is damaged"),
        (save({"a": np.zeros(1)}, {"sha256": "0" * 64}), "the SHA-256 does not match"),
        (b"".join(encode({}, {})), f"contains '', not {KEY!r}"),
        # Must not be trusted: allocating them would exhaust memory.
        (b"\xff" * 8 + b"{}", "the header is damaged"),
        (
            sealed('{"a":{"dtype":"U8","shape":[1000000000000],"data_offsets":[0,1000000000000]},'),
            "the header is damaged",
        ),
        (sealed('{"a":{"dtype":"U8","shape":[4],"data_offsets":[-4,0]},'), "the header is damaged"),
        (
            sealed('{"a":{"dtype":"F8_E5M2","shape":[4],"data_offsets":[0,4]},', b"1234"),
            "the header is damaged",
        ),
    ],
)
def test_reports_why_a_file_is_ignored(
    content: bytes, reason: str, tmp_path: Path, notes: list[str]
) -> None:
    path = tmp_path / "a"
    path.write_bytes(content)
    assert read_entry(path, KEY, notes.append) is None
    assert notes == [f"{path}: {reason}; ignoring this cache file, it will be recreated."]


def test_a_file_that_was_renamed_is_not_used(tmp_path: Path, notes: list[str]) -> None:
    path = tmp_path / "fashion_mnist.safetensors"
    write_entry(path, replace(_entry(), key="mnist as registered"))
    assert read_entry(path, "fashion_mnist as registered", notes.append) is None
    assert notes == [
        f"{path}: contains 'mnist as registered', not 'fashion_mnist as registered'; "
        "ignoring this cache file, it will be recreated."
    ]


@pytest.mark.parametrize("cut", [1, 64, 100])
def test_a_cut_file_is_removed(cut: int, tmp_path: Path, notes: list[str]) -> None:
    path = tmp_path / "a"
    write_entry(path, _entry())
    path.write_bytes(path.read_bytes()[:-cut])
    assert read_entry(path, KEY, notes.append) is None
    assert notes == [
        f"{path}: the SHA-256 does not match; ignoring this cache file, it will be recreated."
    ]


def test_a_failed_write_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    write_entry(path, _entry())
    old = path.read_bytes()

    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match=r"^\[Errno 28\] No space left on device$"):
        write_entry(path, _entry(1))
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


# Repeatedly writes one of two contents, and reads the file.
_RACER = """
import sys
from dataclasses import replace
from pathlib import Path
import numpy as np
from cnnbench.system.cache import CacheEntry, read_entry, write_entry
def stop(note): raise SystemExit(note)
path, mine = Path(sys.argv[1]), int(sys.argv[2])
for _ in range(60):
    write_entry(path, CacheEntry({"a": np.full(200_000, mine, np.uint8)}, "race", "key"))
    found = read_entry(path, "key", stop)
    assert found is not None
    assert len(set(found.arrays["a"].tolist())) == 1
"""


def test_processes_at_once_never_see_a_torn_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", _RACER, str(path), str(n)], stderr=subprocess.PIPE, text=True
        )
        for n in range(3)
    ]
    assert [racer.communicate()[1] for racer in racers] == [""] * 3
    assert [racer.returncode for racer in racers] == [0] * 3
    assert list(tmp_path.iterdir()) == [path]


def test_cache_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("CNNBENCH_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert cache_dir() == tmp_path / ".cache" / "cnnbench"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_dir() == tmp_path / ".cache" / "cnnbench"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "shared"))
    assert cache_dir() == tmp_path / "shared" / "cnnbench"
    monkeypatch.setenv("CNNBENCH_CACHE_DIR", "~/elsewhere")
    assert cache_dir() == tmp_path / "elsewhere"


def test_a_file_in_the_format_before_is_replaced_without_a_word(tmp_path: Path) -> None:
    old, new = tmp_path / "a.arrays", tmp_path / "a.safetensors"
    old.write_bytes(b'{"format": "cnnbench arrays 2", "key": "", "source": "", "arrays": []}\n')
    assert read_entry(new, KEY, pytest.fail) is None
    write_entry(new, _entry())
    assert list(tmp_path.iterdir()) == [new]
