"""Random bits, compared with JAX's and with published test vectors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnbench.nn.ops import threefry

WORD = st.integers(0, 2**32 - 1)


@given(st.lists(st.tuples(WORD, WORD), min_size=2, max_size=2), st.sampled_from([1, 7, 64]))
def test_bits_are_those_of_jax(words, size) -> None:
    keys = jax.random.wrap_key_data(jnp.array(words, jnp.uint32), impl="threefry2x32")
    found = threefry.random_bits(keys, size)
    expected = [jax.random.bits(key, size, jnp.uint32) for key in keys]
    np.testing.assert_array_equal(found, np.stack(expected))


def test_bits_of_other_generators_are_those_of_jax() -> None:
    keys = jax.random.split(jax.random.key(0, impl="rbg"), 2)
    expected = jax.vmap(lambda key: jax.random.bits(key, (5,), jnp.uint32))(keys)
    np.testing.assert_array_equal(threefry.random_bits(keys, 5), expected)


# Known answers of Random123 (kat_vectors: threefry 2x32, 20 rounds): counter, key, result.
@pytest.mark.parametrize(
    ("counter", "key", "result"),
    [
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
        ((0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_rounds_give_the_known_answers(counter, key, result) -> None:
    words = [(jnp.uint32(first), jnp.uint32(second)) for first, second in (key, counter)]
    assert tuple(map(int, threefry._threefry2x32(words[0], words[1]))) == result


def test_rounds_are_not_a_loop() -> None:
    keys = jax.random.split(jax.random.key(0), 3)
    program = jax.jit(threefry.random_bits, static_argnums=1).lower(keys, 512).compile()
    assert "while" not in str(program.as_text())
