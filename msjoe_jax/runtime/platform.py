"""Settings of the environment that must be made before JAX and TensorFlow are imported."""

import glob
import logging
import os
import warnings

# Device files of the accelerators JAX can use here: TPU v2-v4, TPU v5 and later, NVIDIA.
ACCELERATOR_FILES = ("/dev/accel*", "/dev/vfio/[0-9]*", "/dev/nvidia0")

QUIET = {
    "TF_CPP_MIN_LOG_LEVEL": "3",  # TensorFlow's C++ start-up lines; its Python errors still raise
    "TF_ENABLE_ONEDNN_OPTS": "0",  # else a notice on rounding; we compute nothing with TensorFlow
    "GRPC_VERBOSITY": "ERROR",
    "GLOG_minloglevel": "2",
}


def quiet_cpu_default() -> None:
    """Selects the CPU where there is no accelerator, and silences import chatter.

    Call before the first import of jax. `jax[tpu]` brings libtpu, which on a machine without a
    TPU prints a page of warnings before JAX falls back to the CPU; naming the CPU avoids it.
    What the user has set in the environment is kept.
    """
    if not any(glob.glob(pattern) for pattern in ACCELERATOR_FILES):
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    logging.getLogger("absl").setLevel(logging.ERROR)  # the logger of Orbax, CLU and Grain
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
