"""Attention against plain attention: what is right is close, what is wrong is far."""

import jax
import jax.numpy as jnp
import pytest

from msjoe_jax.models import attention
from msjoe_jax.models.attention_check import Parity, compare
from msjoe_jax.runtime.machine import make_machine


def parity(dtype: str, causal: bool) -> Parity:
    machine = make_machine(devices=jax.devices()[:1])
    with jax.set_mesh(machine.mesh):
        return compare(
            dtype, (4, 2), 16, backend="auto", chunk=256, causal=causal, rows=1, whole=machine.whole
        )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("causal", [False, True])
def test_chunks_are_close_to_the_whole(dtype, causal):
    found = parity(dtype, causal)
    assert found.holds and found.backend == "xla"
    assert found.gradient > 0 and found.bound == (1e-4 if dtype == "float32" else 0.03)
    # Rounding to 8 bits is seen: the reference is float32, not what is compared with it.
    assert (found.forward > 1e-3) == (dtype == "bfloat16")


@pytest.mark.parametrize("wrong", [1.2, float("nan")])
def test_wrong_attention_is_seen(monkeypatch, wrong):
    right = attention._chunked

    def chunked(q, k, v, segments, causal, chunk, first=0):
        out = right(q, k, v, segments, causal, chunk, first)
        return out if chunk >= k.shape[1] else out * jnp.float32(wrong)

    monkeypatch.setattr(attention, "_chunked", chunked)
    assert not parity("float32", True).holds


def test_both_directions_count():
    assert Parity("xla", 0.1, 0.1, 0.1).holds
    assert not Parity("xla", 0.2, 0.1, 0.1).holds
    assert not Parity("xla", 0.1, 0.2, 0.1).holds
    assert not Parity("xla", 0.1, float("nan"), 0.1).holds
