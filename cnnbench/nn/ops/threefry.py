"""Random bits of JAX's default generator, in one vectorized loop on CPUs."""

import jax
import jax.numpy as jnp
from jax import lax

_ROTATIONS = (13, 15, 26, 6), (17, 29, 16, 24)
_PARITY = 0x1BD11BDA

Words = tuple[jax.Array, jax.Array]


def random_bits(keys: jax.Array, size: int) -> jax.Array:
    """32 random bits per value, those of `jax.random.bits` with each key.

    JAX computes the rounds of Threefry in a loop on CPUs, with a pass through memory each; as
    straight-line code, they stay in registers.

    Args:
      keys: typed keys, (n,); those of another generator than Threefry are left to JAX.
      size: values per key.

    Returns:
      (n, size), unsigned integers.

    >>> key = jax.random.key(0)
    >>> bool((random_bits(key[None], 3) == jax.random.bits(key, 3)).all())
    True
    """
    if str(jax.random.key_impl(keys)) != "threefry2x32":
        return jax.vmap(lambda key: jax.random.bits(key, (size,), jnp.uint32))(keys)
    key = jax.random.key_data(keys)
    places = lax.iota(jnp.uint32, size)
    first, second = _threefry2x32((key[:, :1], key[:, 1:]), (jnp.zeros_like(places), places))
    return first ^ second


def _threefry2x32(key: Words, counter: Words) -> Words:
    """Threefry-2x32 with 20 rounds (Salmon et al., "Parallel random numbers", SC 2011)."""
    keys = *key, key[0] ^ key[1] ^ jnp.uint32(_PARITY)
    first, second = counter[0] + keys[0], counter[1] + keys[1]
    for group in range(1, 6):
        for distance in _ROTATIONS[(group - 1) % 2]:
            first = first + second
            second = first ^ (second << distance | second >> (32 - distance))
        first = first + keys[group % 3]
        second = second + keys[(group + 1) % 3] + jnp.uint32(group)
    return first, second
