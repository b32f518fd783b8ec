"""Products of a traced function are counted, loops as often as they run."""

import jax
import jax.numpy as jnp

from msjoe_jax.runtime.jaxpr_flops import traced_flops

X = jax.ShapeDtypeStruct((4, 8), jnp.float32)
W = jax.ShapeDtypeStruct((3, 8, 8), jnp.float32)
ONE = 2 * 4 * 8 * 8


def test_scans_and_their_gradients():
    def f(x, w):
        return jax.lax.scan(lambda h, p: (jnp.tanh(h @ p), None), x, w)[0].sum()

    assert traced_flops(f, X, W) == 3 * ONE
    assert traced_flops(jax.grad(f, (0, 1)), X, W) == 3 * 3 * ONE
    assert traced_flops(jax.jit(f), X, W) == 3 * ONE


def test_batches_branches_and_convolutions():
    def batched(x, w):
        return jnp.einsum("bi,yij->ybj", x, w)

    assert traced_flops(batched, X, W) == 3 * ONE
    x, kernel = jnp.ones((2, 16, 5)), jnp.ones((3, 5, 7))
    assert traced_flops(
        lambda x, k: jax.lax.conv_general_dilated(
            x, k, (1,), "VALID", dimension_numbers=("NWC", "WIO", "NWC")
        ),
        x,
        kernel,
    ) == 2 * (2 * 14 * 7) * (3 * 5)

    def branches(x, w):
        return jax.lax.cond(x[0, 0] > 0, lambda: x @ w[0], lambda: x @ w[0] @ w[1])

    assert traced_flops(branches, X, W) == 2 * ONE
