"""The compile counter."""

import jax
import jax.numpy as jnp

from msjoe_jax.runtime.compile_counter import CompileCounter


def test_compile_counter_counts_new_programs_only():
    function = jax.jit(lambda x: x * 3 + 1)
    x, y = jnp.zeros(3), jnp.zeros(4)
    counter = CompileCounter()
    function(x)
    function(x)
    assert counter.count == 1
    assert counter.seconds > 0
    function(y)
    assert counter.count == 2
    counter.close()
    function(jnp.zeros(5))
    assert counter.count == 2
