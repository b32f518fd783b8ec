"""The biased projection: rounded once, and its written-out gradient."""

import jax
import jax.numpy as jnp
import numpy as np

from msjoe_jax.models.linear import affine


def test_affine_rounds_once_and_has_the_derived_gradient():
    rng = np.random.default_rng(0)
    x, w, b = (
        jnp.asarray(rng.normal(size=s), jnp.bfloat16) for s in ((2, 3, 16), (16, 4, 5), (4, 5))
    )
    exact = np.einsum("BLD,DNH->BLNH", *(np.asarray(y, np.float64) for y in (x, w)))
    exact += np.asarray(b, np.float64)
    got = affine(x, w, b)
    assert got.dtype == jnp.bfloat16 and got.shape == (2, 3, 4, 5)
    # Half a unit in the last of 8 bits, and a little of float32.
    assert (np.abs(np.asarray(got, np.float64) - exact) <= np.abs(exact) * 2**-8 * 1.01).all()

    def plain(x, w, b):
        return jnp.einsum("BLD,DNH->BLNH", x, w) + b

    x, w, b = (y.astype(jnp.float32) for y in (x, w, b))
    g = jnp.asarray(rng.normal(size=exact.shape), jnp.float32)
    with jax.default_matmul_precision("highest"):
        ours_of, theirs_of = (jax.vjp(f, x, w, b)[1](g) for f in (affine, plain))
    for a, c in zip(ours_of, theirs_of, strict=True):
        assert a.shape == c.shape
        np.testing.assert_allclose(a, c, atol=1e-5)  # another summation order
