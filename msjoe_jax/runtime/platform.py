"""Settings of the environment that must be made before JAX and TensorFlow are imported."""

import glob
import hashlib
import logging
import os
import pathlib
import platform
import sys
import warnings

# Device files of the accelerators JAX can use here: TPU v2-v4, TPU v5 and later, NVIDIA.
TPU_FILES = ("/dev/accel*", "/dev/vfio/[0-9]*")
ACCELERATOR_FILES = (*TPU_FILES, "/dev/nvidia0")
HUGE_PAGES = "/sys/kernel/mm/transparent_hugepage/enabled"

QUIET = {
    "TF_CPP_MIN_LOG_LEVEL": "3",  # TensorFlow's C++ start-up lines; its Python errors still raise
    "TF_ENABLE_ONEDNN_OPTS": "0",  # else a notice on rounding; we compute nothing with TensorFlow
    "GRPC_VERBOSITY": "ERROR",
    "GLOG_minloglevel": "2",
}
# Hosts, and libraries in one process, see at once what another has written to or removed from
# object storage; TensorFlow, through which etils.epath reads it, remembers for 5 seconds.
FRESH = {"GCS_STAT_CACHE_MAX_AGE": "0"}


def quiet_cpu_default() -> None:
    """Selects the CPU where there is no accelerator, and silences import chatter.

    Call before the first import of jax. `jax[tpu]` brings libtpu, which on a machine without a
    TPU prints a page of warnings before JAX falls back to the CPU; naming the CPU avoids it.
    What the user has set in the environment is kept.
    """
    if not any(glob.glob(pattern) for pattern in ACCELERATOR_FILES):
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    for name, value in {**QUIET, **FRESH}.items():
        os.environ.setdefault(name, value)
    logging.getLogger("absl").setLevel(logging.ERROR)  # the logger of Orbax, CLU and Grain
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=DeprecationWarning)


def use_huge_pages() -> None:
    """Starts this process again with the C library asking for huge pages, for programs of a CPU.

    Each run of a program takes its memory afresh, and in pages of 4 KiB the kernel's work on them
    was a third of the demo's joint step. The library reads the wish at its start alone, hence the
    second one. Nothing happens on an accelerator, where GLIBC_TUNABLES is set (it may be empty),
    and where Linux gives huge pages to all who ask for none, or to nobody.
    """
    quiet_cpu_default()
    if os.environ.get("JAX_PLATFORMS") != "cpu" or "GLIBC_TUNABLES" in os.environ:
        return
    try:
        asks = "[madvise]" in pathlib.Path(HUGE_PAGES).read_text()
        library, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").split()
    except (OSError, ValueError):
        return  # not Linux, or another C library
    if asks and library == "glibc" and tuple(map(int, version.split("."))) >= (2, 35):
        os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def has_tpu() -> bool:
    """Whether this machine has TPU chips that JAX may use."""
    platforms = os.environ.get("JAX_PLATFORMS", "tpu")
    return "tpu" in platforms and any(glob.glob(pattern) for pattern in TPU_FILES)


def cache_folder() -> pathlib.Path:
    """Returns the user's folder for what only saves time; XDG_CACHE_HOME names the one above it."""
    home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(home) / "msjoe_jax"


def keep_compiled_programs() -> None:
    """Lets JAX keep compiled programs for the next run, in the user's cache folder.

    Call before the first import of jax. Programs of a CPU are machine code, so each kind of
    processor has a folder of its own. JAX_COMPILATION_CACHE_DIR names another folder, which may be
    one on object storage (gs://…); JAX_ENABLE_COMPILATION_CACHE=0 keeps none.
    """
    folder = cache_folder() / f"compiled-{_processor()}"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")


def _processor() -> str:
    """Eight hex digits for the kind of processor, its instruction sets included."""
    description = platform.machine()
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    description += next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return hashlib.sha256(description.encode()).hexdigest()[:8]
