"""The biased projection, rounded once."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@jax.custom_vjp
def affine(x: Float[Array, "*BL D"], w: Float[Array, "D *F"], b: Float[Array, "*F"]) -> Array:
    """Computes x @ w + b over flattened tokens, [*BL, *F] in the type of `x` and `w`.

    Product and bias are summed in float32 and rounded once, as torch's `linear` does: in bfloat16 a
    bias added afterwards costs the vision tower 5 to 9 % more error. The rule is written out
    because the derived one would multiply float32 cotangents, slower than bfloat16 everywhere.
    """
    flat = x.reshape(-1, x.shape[-1])
    y = jnp.matmul(flat, w.reshape(w.shape[0], -1), preferred_element_type=jnp.float32)
    y = (y + b.reshape(-1)).astype(x.dtype)
    return y.reshape(*x.shape[:-1], *w.shape[1:])


def _forward(x: Array, w: Array, b: Array) -> tuple[Array, tuple[Array, Array, Array]]:
    return affine(x, w, b), (x, w, b)


def _backward(saved: tuple[Array, Array, Array], g: Array) -> tuple[Array, Array, Array]:
    x, w, b = saved
    rows, columns = x.reshape(-1, x.shape[-1]), w.reshape(w.shape[0], -1)
    g = g.reshape(len(rows), -1)
    db = g.astype(jnp.float32).sum(0).astype(b.dtype)
    return (g @ columns.T).reshape(x.shape), (rows.T @ g).reshape(w.shape), db.reshape(b.shape)


affine.defvjp(_forward, _backward)
