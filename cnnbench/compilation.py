"""JAX's cache of compiled programs on disk, and whether it had what was needed."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import jax

from cnnbench.cache import cache_dir

_ASKED = "/jax/compilation_cache/compile_requests_use_cache"
_FOUND = "/jax/compilation_cache/cache_hits"


def keep_compiled() -> None:
    """Keeps compiled programs below the cache folder, for later runs."""
    jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "programs"))
    # By default only programs that took a second to compile are kept.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@dataclass(slots=True)
class Lookups:
    """How often the cache was asked for a program, and how often it had it."""

    asked: int = 0
    found: int = 0

    @property
    def state(self) -> str:
        """``warm`` where every program came from the cache, ``cold`` otherwise."""
        return "warm" if self.asked and self.found == self.asked else "cold"


@contextmanager
def lookups() -> Iterator[Lookups]:
    """Counts what the cache is asked for in its body."""
    counts = Lookups()

    def count(event: str, **_: object) -> None:
        counts.asked += event == _ASKED
        counts.found += event == _FOUND

    jax.monitoring.register_event_listener(count)
    try:
        yield counts
    finally:
        jax.monitoring.unregister_event_listener(count)
