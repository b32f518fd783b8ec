"""Measurements of this project, beside its peers and its limits; run from the checkout."""

from msjoe_jax.runtime.platform import quiet_cpu_default

quiet_cpu_default()  # before any of them imports JAX
