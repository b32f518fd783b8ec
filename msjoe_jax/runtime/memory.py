"""Memory of this host and of its devices."""

import pathlib
import resource
import sys

import jax

GIB = 2**30
STATUS = pathlib.Path("/proc/self/status")  # Linux's


def memory_metrics() -> dict[str, float]:
    """Returns `memory/…` in GiB: resident on this host now, and of its fullest device the peak.

    The peak is that since the process began. A device that tells nothing of its memory, such as a
    CPU, has no metric.
    """
    metrics = {"memory/host_gib": host_bytes() / GIB}
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    for name, key, of in (
        ("memory/device_peak_gib", "peak_bytes_in_use", max),
        ("memory/device_limit_gib", "bytes_limit", min),
    ):
        if values := [one[key] for one in stats if key in one]:
            metrics[name] = of(values) / GIB
    return metrics


def host_bytes() -> int:
    """Returns the memory of this process, in bytes; its peak where there is no /proc."""
    try:
        line = next(x for x in STATUS.read_text().splitlines() if x.startswith("VmRSS:"))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
