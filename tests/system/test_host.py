"""How busy the machine is before a run trains, and the memory of this process."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cnnbench.system import host
from cnnbench.system.host import peak_memory_bytes


def test_the_load_is_that_of_before_the_first_training(monkeypatch):
    host.load_per_cpu.cache_clear()
    loads = iter([(3.0, 0.0, 0.0), (99.0, 0.0, 0.0)])
    monkeypatch.setattr(host, "CPU_TIMES", Path("none"))
    monkeypatch.setattr("os.getloadavg", lambda: next(loads))
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    assert [host.load_per_cpu() for _ in range(2)] == [0.75, 0.75]
    host.load_per_cpu.cache_clear()


@pytest.mark.parametrize(("average", "load"), [(3.0, 0.25), (0.8, 0.2), (0.3, 0.075)])
def test_a_command_that_has_just_ended_is_not_counted(monkeypatch, tmp_path, average, load):
    """A quarter of the CPUs' time is used by others while it looks."""
    times = tmp_path / "stat"
    times.write_text("cpu  100 0 100 1000 0 0 0 0 0 0\ncpu0 1 1 1\n")
    looked = "cpu  102 1 101 1010 5 0 1 0 0 0\ncpu0 2 2 2\n"
    monkeypatch.setattr(host, "CPU_TIMES", times)
    # Not the one that all threads call: another that slept before it was needed would end the look.
    monkeypatch.setattr(host, "sleep", lambda _: times.write_text(looked))
    monkeypatch.setattr("os.getloadavg", lambda: (average, 0.0, 0.0))
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    host.load_per_cpu.cache_clear()
    assert host.load_per_cpu() == pytest.approx(load)
    host.load_per_cpu.cache_clear()


def test_a_system_that_knows_no_load_has_none(monkeypatch):
    host.load_per_cpu.cache_clear()
    monkeypatch.delattr("os.getloadavg")
    assert host.load_per_cpu() is None
    host.load_per_cpu.cache_clear()


def test_peak_memory_includes_freed_memory() -> None:
    block = np.ones(30_000_000, np.uint64)
    del block
    peak = peak_memory_bytes()
    assert peak is not None
    assert peak >= 240_000_000


CHILD = """
import sys
import numpy as np
from cnnbench.system import host
if sys.argv[1] == "keep":
    host.keep_malloc_arenas()
block = np.ones(25_000_000, np.uint64)
del block
status = open("/proc/self/status").read()
print(next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")))
"""


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"),
    reason="only the GNU C library is configured",
)
def test_freed_memory_stays_with_the_process() -> None:
    resident = {
        mode: int(subprocess.run([sys.executable, "-c", CHILD, mode], check=True,
                                 capture_output=True, text=True).stdout)
        for mode in ("keep", "return")
    }  # fmt: skip
    assert resident["keep"] - resident["return"] > 150_000  # KiB of 195,312


@pytest.mark.parametrize(
    ("known", "mode", "set_to"),
    [
        ({}, "always [madvise] never", "glibc.malloc.hugetlb=1"),
        ({"GLIBC_TUNABLES": "a=2"}, "always [madvise] never", "a=2:glibc.malloc.hugetlb=1"),
        ({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}, "always [madvise] never", None),
        ({}, "[always] madvise never", None),
        ({}, "always madvise [never]", None),
        ({}, None, None),
    ],
)
def test_huge_pages_are_requested_where_programs_decide(known, mode, set_to, tmp_path) -> None:
    file = tmp_path / "enabled"
    if mode:
        file.write_text(f"{mode}\n")
    wanted = {"GLIBC_TUNABLES": set_to} if set_to else {}
    assert host.huge_pages(known, file) == wanted


@pytest.mark.parametrize(
    ("known", "library", "uses"),
    [
        ({}, "libtcmalloc.so", "libtcmalloc.so"),
        ({"LD_PRELOAD": "libfoo.so"}, "libtcmalloc.so", "libtcmalloc.so:libfoo.so"),
        ({"LD_PRELOAD": "/lib/libmimalloc.so.2"}, "libtcmalloc.so", None),
        ({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}, "libtcmalloc.so", None),
        ({"GLIBC_TUNABLES": "glibc.malloc.top_pad=0"}, "libtcmalloc.so", "libtcmalloc.so"),
        ({}, None, None),
    ],
)
def test_tcmalloc_is_used_where_it_is_installed(known, library, uses, monkeypatch) -> None:
    monkeypatch.setattr(host, "huge_pages", lambda _: {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"})
    found = host.kept_memory(known, {host.TCMALLOC: library}.__getitem__)
    if uses:
        assert found == {"LD_PRELOAD": uses, **host.TCMALLOC_KEEPS}
    else:
        assert found == ({} if known else host.huge_pages({}))


# Not arrays: NumPy requests huge pages itself.
THREAD = """
import ctypes, resource, threading
from cnnbench.system import host
host.keep_malloc_arenas()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
def step():
    for _ in range(5):
        block = libc.malloc(ctypes.c_size_t(100 << 20))
        ctypes.memset(block, 1, 100 << 20)
        libc.free(ctypes.c_void_p(block))
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
thread = threading.Thread(target=step)
thread.start()
thread.join()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.parametrize(("way", "times"), [(host.huge_pages, 20), (host.kept_memory, 4)])
def test_large_blocks_of_threads_cause_few_page_faults(way, times) -> None:
    if not (variables := way({})):
        pytest.skip("neither huge pages nor tcmalloc here")
    faults = [
        int(subprocess.run([sys.executable, "-c", THREAD], check=True, capture_output=True,
                           text=True, env=os.environ | each).stdout)
        for each in ({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}, variables)
    ]  # fmt: skip
    assert faults[0] > times * faults[1]


def test_freed_memory_of_tcmalloc_returns_to_the_system() -> None:
    if "LD_PRELOAD" not in (variables := host.kept_memory({})):
        pytest.skip("tcmalloc is not installed")
    code = THREAD.split("before =", maxsplit=1)[0] + "step(); host.trim_malloc()\n"
    code += "print(open('/proc/self/statm').read().split()[1])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True,
                          env=os.environ | variables)  # fmt: skip
    assert int(done.stdout) * os.sysconf("SC_PAGE_SIZE") < 80 << 20
