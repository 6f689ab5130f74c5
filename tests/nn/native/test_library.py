"""What is missing to use oneDNN, and how C files are compiled and cached."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cnnbench.errors import UsageError
from cnnbench.nn.lowering import lower
from cnnbench.nn.native import compiler, library
from tests.support.engines import needs_onednn
from tests.support.oracles import make_plan

FOLDER = Path(compiler.__file__).parent
CALLS = (library.lacking, library._search, compiler.load_compiled, compiler.obstacle)
PACKAGE = library._INSTALL


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty cache, and nothing known from before."""
    monkeypatch.setenv("CNNBENCH_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("CC", raising=False)
    forget()
    yield
    forget()


def forget() -> None:
    for call in CALLS:
        call.cache_clear()


def compiled(folder: Path) -> list[Path]:
    return list((folder / "cache" / "native").glob("*.so"))


def test_without_onednn_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "_paths", list)
    assert library.lacking() == f"oneDNN 3 is not installed; {PACKAGE}"


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_another_version_of_onednn_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor a damaged file."""
    old, damaged = tmp_path / "old.so", tmp_path / "damaged.so"
    source = """
        static const struct {int major, minor, patch; const char *hash; unsigned cpu, gpu;}
        number = {2, 7, 0, "", 2, 0};
        const void *dnnl_version(void) { return &number; }
    """
    command = ["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(old)]
    subprocess.run(command, input=source, text=True, check=True)
    damaged.write_bytes(b"\x7fELF")
    monkeypatch.setattr(library, "_paths", lambda: [str(damaged), str(old)])
    assert library.lacking() == f"{old} is oneDNN 2.7.0 without OpenMP; {PACKAGE}"
    forget()
    monkeypatch.setattr(library, "_paths", lambda: [str(damaged)])
    assert library.lacking() == f"{damaged}: file too short"
    assert library.load() is None


@needs_onednn
def test_its_files_are_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert library.lacking() is None
    assert len(compiled(tmp_path)) == len([*FOLDER.glob("*.c")])
    forget()
    monkeypatch.setenv("CC", "no-such-compiler")
    assert library.lacking() is None


@needs_onednn
def test_a_damaged_file_is_compiled_again(tmp_path: Path) -> None:
    assert library.lacking() is None
    path, *_ = compiled(tmp_path)
    content = path.read_bytes()
    path.unlink()  # the old one stays loaded
    path.write_bytes(b"")
    forget()
    assert library.lacking() is None
    assert path.read_bytes()[:4] == content[:4]


@needs_onednn
def test_a_folder_that_cannot_be_written_is_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").write_text("a file")
    assert library.lacking() is None


@needs_onednn
def test_without_a_compiler_there_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    assert library.lacking() == (
        "a C compiler is needed, and no-such-compiler cannot be run: [Errno 2] No such file or"
        " directory: 'no-such-compiler'; install gcc"
    )


@needs_onednn
def test_a_compiler_with_an_open_quote_cannot_be_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "gcc '")
    assert "gcc ' cannot be run: No closing quotation; install gcc" in str(library.lacking())


@needs_onednn
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has CPU affinities")
def test_openmp_does_not_bind_the_process() -> None:
    code = """
import os
before = os.sched_getaffinity(0)
from cnnbench.nn.native.library import load
assert load()
assert os.sched_getaffinity(0) == before
"""
    environment = os.environ | {"OMP_PROC_BIND": "true", "OMP_PLACES": "cores"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


@needs_onednn
def test_what_the_compiler_says_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", f"{sys.executable} -c 'raise SystemExit(\"no room\")'")
    assert library.lacking() == (f"{compiler._compiler()} cannot compile activation.c: no room")


@needs_onednn
def test_the_version_is_that_of_the_library() -> None:
    assert re.fullmatch(r"3\.\d+\.\d+", library.number())


def test_a_request_without_onednn_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "_paths", list)
    assert not library.number()
    plan = make_plan({"conv": {"op": "conv", "filters": 2, "kernel": 3}}, (4, 4, 1), (2, 2, 2))
    with pytest.raises(UsageError) as caught:
        lower(plan, "onednn")
    assert str(caught.value) == (f"engine onednn: oneDNN 3 is not installed; {PACKAGE}.")
