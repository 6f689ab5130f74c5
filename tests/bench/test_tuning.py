"""Environment of tuned variants of PyTorch, and what it does in a process."""

import ctypes
import subprocess
import sys

import pytest

from cnnbench.bench import session
from cnnbench.bench.frameworks import VARIANTS
from cnnbench.bench.frameworks.interface import ARRANGEMENTS, TorchSettings, settings_of, torch_name
from cnnbench.bench.tuning import torch_variants
from cnnbench.bench.worker_process import BenchVariant, Worker
from cnnbench.system.host import cores, has_bfloat16, num_cpus

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="the allocator is configured on Linux")
GLIBC = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="not glibc")


def names(*settings: TorchSettings) -> list[str]:
    return [torch_name(each, arrangement) for each in settings for arrangement in ARRANGEMENTS]


def found(*, bfloat16: bool = False, **libraries: str) -> dict[str, BenchVariant]:
    """Variants of a machine with two cores and some libraries."""
    made = torch_variants((0, 2), {"LD_PRELOAD": "own.so"}, bfloat16=bfloat16, find=libraries.get)
    return {variant.name: variant for variant in made}


def test_every_arrangement_is_measured_tuned_and_with_default_settings() -> None:
    measured = [variant.name for variant in found().values() if not variant.lacking]
    assert measured == names(TorchSettings.TUNED, TorchSettings.DEFAULT)


def test_default_settings_are_those_of_the_caller() -> None:
    assert all(found()[name].environment == {} for name in names(TorchSettings.DEFAULT))


@LINUX
def test_missing_allocators_are_skipped_once() -> None:
    assert {name: v.lacking for name, v in found().items() if v.lacking} == {
        "torch-jemalloc": (
            "libjemalloc is not installed; on Debian, apt-get install libjemalloc2."
        ),
        "torch-tcmalloc": (
            "libtcmalloc_minimal is not installed; on Debian, apt-get install libtcmalloc-minimal4."
        ),
    }


@LINUX
def test_installed_allocators_are_loaded_first() -> None:
    variants = found(jemalloc="libjemalloc.so.2", tcmalloc_minimal="libtcmalloc_minimal.so.4")
    for name in names(TorchSettings.JEMALLOC):
        environment = variants[name].environment
        assert environment["LD_PRELOAD"] == "libjemalloc.so.2:own.so"
        assert "dirty_decay_ms:-1" in environment["MALLOC_CONF"]
        assert environment["OMP_NUM_THREADS"] == "2"
    for name in names(TorchSettings.TCMALLOC):
        assert variants[name].environment["TCMALLOC_RELEASE_RATE"] == "0"


def test_bfloat16_is_measured_where_the_processor_has_it() -> None:
    assert list(found(bfloat16=True))[-4:] == names(TorchSettings.BFLOAT16)
    assert not set(names(TorchSettings.BFLOAT16)) & set(found())
    variants = found(bfloat16=True)
    tuned, low = (variants[f"torch-{name}-eager-nchw"] for name in ("tuned", "bfloat16"))
    assert tuned.environment == low.environment


@pytest.mark.parametrize("here", [True, False])
def test_ours_in_bfloat16_takes_part_with_pytorchs(
    here: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "has_bfloat16", lambda: here)
    listed = [variant.name for variant in session.variants(("flax", "torch"))]
    low = ("cnnbench-bfloat16", "torch-bfloat16-eager-nchw")
    assert [name in listed for name in low] == [here, here]
    assert (listed[0], listed[-1]) == ("cnnbench", "flax")
    assert len(set(listed)) == len(listed)


def test_every_variant_that_starts_has_a_trainer() -> None:
    variants = found(bfloat16=True, jemalloc="a", tcmalloc_minimal="b")
    assert {name for name, variant in variants.items() if not variant.lacking} <= {*VARIANTS}
    for each in TorchSettings:
        assert {settings_of(name) for name in names(each)} == {each}


def test_processors_with_bfloat16(tmp_path) -> None:
    (tmp_path / "proc").mkdir()
    for flags, expected in (
        ("avx512f avx512_bf16 amx_tile", True),
        ("avx2 amx_bf16", True),
        ("fp asimd bf16 i8mm", True),
        ("avx2 avx512f avx512_vnni", False),
    ):
        (tmp_path / "proc/cpuinfo").write_text(f"processor : 0\nflags : {flags}\n")
        assert has_bfloat16(tmp_path) is expected
    assert has_bfloat16(tmp_path / "elsewhere") is False


def test_threads_of_one_core_count_once(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {3, 0, 1, 5}, raising=False)
    for cpu, siblings in ((0, "0,4"), (1, "1,5"), (3, "3,7"), (5, "1,5")):
        folder = tmp_path / f"sys/devices/system/cpu/cpu{cpu}/topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{siblings}\n")
    assert cores(tmp_path) == (0, 1, 3)
    assert cores(tmp_path / "elsewhere") == (0, 1, 3, 5)


def test_there_is_a_core() -> None:
    assert 1 <= len(cores()) <= num_cpus()


MAPPED = """\
import ctypes
class Info(ctypes.Structure):
    _fields_ = [(n, ctypes.c_size_t) for n in "arena ordblks smblks hblks hblkhd a b c d e".split()]
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.mallinfo2.restype = ctypes.c_void_p, Info
block = libc.malloc(ctypes.c_size_t(200 << 20))
mapped = libc.mallinfo2().hblks
libc.free(ctypes.c_void_p(block))
print(mapped > 0, libc.mallinfo2().arena >> 20 >= 200)
"""


@GLIBC
def test_a_tuned_process_keeps_freed_memory() -> None:
    """A freed block of 200 MiB stays in the heap, instead of being mapped and returned."""

    def run(environment: dict[str, str]) -> str:
        command = [sys.executable, "-c", MAPPED]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    assert run({}) == "True False"
    assert run(dict(found()["torch-tuned-eager-nchw"].environment)) == "False True"


def test_a_worker_starts_in_the_environment_of_its_variant(tmp_path, monkeypatch) -> None:
    started: list[dict[str, str]] = []

    def popen(*_: object, env: dict[str, str], **__: object) -> None:
        started.append(env)

    monkeypatch.setattr(subprocess, "Popen", popen)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    for name in ("torch-tuned-eager-nchw", "torch-eager-nchw"):
        Worker(found()[name], tmp_path)
    assert [env["OMP_NUM_THREADS"] for env in started] == ["2", "7"]
    assert [env.get("MALLOC_MMAP_MAX_") for env in started] == ["0", None]
    assert all(env["TORCHINDUCTOR_CACHE_DIR"].startswith(str(tmp_path)) for env in started)
