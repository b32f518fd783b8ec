"""Memory of the host as the kernel tells it, and of devices that tell it."""

import types

import jax
import numpy as np
import pytest

from msjoe_jax.runtime import memory
from msjoe_jax.runtime.memory import host_bytes, memory_metrics


def test_what_is_allocated_is_seen():
    before = host_bytes()
    block = np.ones(128 << 20, np.uint8)  # written to, so that it is there
    after = host_bytes()
    assert after - before > 64 << 20 and block.any()


def test_without_proc_it_is_the_peak(monkeypatch, tmp_path):
    now = host_bytes()
    monkeypatch.setattr(memory, "STATUS", tmp_path / "none")
    assert host_bytes() > 0.5 * now


def test_a_cpu_tells_nothing_of_devices():
    assert memory_metrics().keys() == {"memory/host_gib"}


def test_the_fullest_device_counts(monkeypatch):
    def device(**stats):
        return types.SimpleNamespace(memory_stats=lambda: stats or None)

    devices = [
        device(peak_bytes_in_use=3 << 30, bytes_limit=8 << 30),
        device(peak_bytes_in_use=5 << 30, bytes_limit=9 << 30),
        device(),
    ]
    monkeypatch.setattr(jax, "local_devices", lambda: devices)
    metrics = memory_metrics()
    assert metrics["memory/device_peak_gib"] == 5 and metrics["memory/device_limit_gib"] == 8
    assert metrics["memory/host_gib"] == pytest.approx(host_bytes() / 2**30, rel=0.5)
