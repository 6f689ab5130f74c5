"""Environment variables that tune PyTorch for CPUs, from its performance tuning guide.

https://docs.pytorch.org/tutorials/recipes/recipes/tuning_guide.html: an allocator that keeps freed
memory, and one thread pinned to each core. Both are set in the environment of a worker, which
reads them on startup. `TorchTrainer` sets the rest: denormals and the optimizer.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from ctypes.util import find_library
from types import MappingProxyType

from cnnbench.bench.frameworks.interface import ARRANGEMENTS, TorchSettings, torch_name
from cnnbench.bench.worker_process import BenchVariant
from cnnbench.system.host import TCMALLOC, TCMALLOC_KEEPS, huge_pages, preloading

# See mallopt(3): map no single blocks, and hardly ever return memory. cnnbench sets the same for
# itself (`host.keep_malloc_arenas`), and uses `huge_pages`, too.
_GLIBC = MappingProxyType(
    {
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_TRIM_THRESHOLD_": "2000000000",
        "MALLOC_TOP_PAD_": "67108864",
    }
)
_JEMALLOC = (  # as in torch.backends.xeon.run_cpu, and never returns memory
    "oversize_threshold:1,background_thread:true,metadata_thp:auto,"
    "dirty_decay_ms:-1,muzzy_decay_ms:-1"
)
_PRELOADED: Mapping[TorchSettings, tuple[str, Mapping[str, str], str]] = MappingProxyType(
    {
        TorchSettings.JEMALLOC: ("jemalloc", {"MALLOC_CONF": _JEMALLOC}, "libjemalloc2"),
        TorchSettings.TCMALLOC: (
            TCMALLOC,
            TCMALLOC_KEEPS,
            "libtcmalloc-minimal4",
        ),
    }
)


def torch_variants(
    cpus: Sequence[int],
    environ: Mapping[str, str],
    *,
    bfloat16: bool,
    find: Callable[[str], str | None] = find_library,
) -> tuple[BenchVariant, ...]:
    """Every variant of PyTorch: tuned ones, those with default settings, and bfloat16.

    A missing allocator gives a single variant, which is skipped.

    Args:
      cpus: one CPU of each core, to which threads are pinned.
      environ: the caller's environment.
      bfloat16: whether to include variants that compute in bfloat16.
      find: finds a shared library by its name without prefix and suffix.
    """
    groups = [TorchSettings.TUNED, *_PRELOADED, TorchSettings.DEFAULT]
    groups += [TorchSettings.BFLOAT16] if bfloat16 else []
    return tuple(each for group in groups for each in _variants(group, cpus, environ, find))


def _variants(
    settings: TorchSettings,
    cpus: Sequence[int],
    environ: Mapping[str, str],
    find: Callable[[str], str | None],
) -> list[BenchVariant]:
    variables: dict[str, str] = {}
    if settings in _PRELOADED:
        name, options, package = _PRELOADED[settings]
        library = find(name) if sys.platform == "linux" else None
        if library is None:
            lacking = f"lib{name} is not installed; on Debian, apt-get install {package}."
            return [BenchVariant(f"torch-{settings}", "torch", lacking=lacking)]
        variables = {**preloading(library, environ), **options, **pinning(cpus)}
    elif settings is not TorchSettings.DEFAULT:
        variables = {**_GLIBC, **huge_pages(environ), **pinning(cpus)}
    names = (torch_name(settings, arrangement) for arrangement in ARRANGEMENTS)
    return [BenchVariant(name, "torch", environment=variables) for name in names]


def pinning(cpus: Sequence[int]) -> dict[str, str]:
    """OpenMP variables for one thread pinned to each CPU.

    ``KMP_BLOCKTIME`` is only read by Intel's OpenMP: its threads go to sleep after 1 ms without
    work, so that they do not disturb the variant that trains next.

    >>> pinning([0, 2])["OMP_PLACES"]
    '{0},{2}'
    """
    places = ",".join(f"{{{cpu}}}" for cpu in cpus)
    return {
        "OMP_NUM_THREADS": str(len(cpus)),
        "OMP_PLACES": places,
        "OMP_PROC_BIND": "close",
        "KMP_BLOCKTIME": "1",
    }
