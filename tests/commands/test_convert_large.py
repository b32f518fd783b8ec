"""Conversion where it is hard: peak memory, kills, a disk that refuses, eight devices."""

import json
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import textwrap

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from msjoe_jax.commands.convert import convert
from msjoe_jax.errors import UserError
from msjoe_jax.models.qwen2_5_vl.config import QwenConfig
from msjoe_jax.rollout.model_folder import load_model_folder
from msjoe_jax.weights.qwen import qwen_table
from msjoe_jax.weights.safetensors import read_header, write_file
from msjoe_jax.weights.tables import slots
from tests.support.commands import PYTHON, ROOT, command, program
from tests.support.processes import xla_flags
from tests.support.published import qwen_folder
from tests.support.qwen_oracle import shapes_of

SHARDS = 16


@pytest.mark.slow
def test_loads_onto_eight_devices(tmp_path):
    qwen_folder(tmp_path / "hf", dtype=torch.bfloat16)
    convert(tmp_path / "hf", tmp_path / "out")
    text = """
        import sys, jax, numpy as np
        from msjoe_jax.rollout.model_folder import load_model_folder
        from msjoe_jax.rollout.system import state_table
        from msjoe_jax.runtime.checkpoint import load_params
        from msjoe_jax.runtime.mesh import *
        import pathlib
        whole = load_model_folder(pathlib.Path(sys.argv[1]), ["mllm"])
        mesh = make_mesh(1, 4, 2)
        like, table = whole.system.abstract["mllm"], state_table(whole.system)
        like = with_shardings(like, param_shardings(like, table, mesh, AxisRules()))
        params = load_params(sys.argv[1] + "/params", like, prefix="mllm")
        trees = params, whole.params["mllm"]
        for a, b in zip(*map(jax.tree.leaves, trees), strict=True):
            np.testing.assert_array_equal(a, np.asarray(b).astype(a.dtype))
        up = params["language"]["layers"]["up"]
        print(up.addressable_shards[0].data.shape, len(up.sharding.device_set))
    """
    done = program(text, tmp_path / "out", XLA_FLAGS=xla_flags(8))
    assert done.stdout == "(2, 8, 24) 8\n"


def test_a_disk_that_refuses(tmp_path):
    """A limit on the size of a file stands for a full disk: the write itself fails."""
    qwen_folder(tmp_path / "hf", sharded=False)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(UserError, match=r"cannot be written \(.*File too large.*resumes"):
            convert(tmp_path / "hf", tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not (tmp_path / "out").exists()
    convert(tmp_path / "hf", tmp_path / "out")  # and goes on once there is room
    load_model_folder(tmp_path / "out", ["mllm"])


def large_folder(folder: pathlib.Path, shards: int = SHARDS) -> None:
    """Shards of about 40 MB with a layer each, of one random block over and over."""
    small = QwenConfig.from_hf(json.loads((folder / "config.json").read_text()))
    config = small.to_hf()
    config |= {"hidden_size": 1024, "intermediate_size": 5600, "num_hidden_layers": shards - 1}
    config |= {"num_attention_heads": 16, "vocab_size": 10_000, "tie_word_embeddings": True}
    config["rope_scaling"]["mrope_section"] = [8, 12, 12]
    config["vision_config"]["out_hidden_size"] = 1024
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").unlink()
    sizes = QwenConfig.from_hf(config)
    wanted = slots(qwen_table(sizes), shapes_of(sizes))
    block = np.random.default_rng(0).integers(0, 1 << 15, 10_300_000, np.uint16)
    files: dict[str, dict] = {}
    places = {}
    for name, slot in wanted.items():
        part = name.split(".")[2] if name.startswith("model.layers") else str(shards - 1)
        file = f"model-{int(part) + 1:05}-of-{shards:05}.safetensors"
        files.setdefault(file, {})[name] = (np.dtype(jnp.bfloat16), slot.shape)
        places[name] = file

    def load(name: str) -> np.ndarray:
        size = int(np.prod(wanted[name].shape))
        return block[:size].view(jnp.bfloat16).reshape(wanted[name].shape)

    for file, tensors in files.items():
        write_file(folder / file, tensors, load)
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


MEASURE = """
    import pathlib, re, sys, jax
    from msjoe_jax.commands.convert import convert
    from msjoe_jax.commands.export import export
    def status(field):
        text = pathlib.Path("/proc/self/status").read_text()
        return int(re.search(field + r":\\s+(\\d+) kB", text)[1]) * 1024
    def measure(function, *arguments):
        pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
        before = status("VmRSS")
        function(*arguments)
        print(status("VmHWM") - before)
    jax.devices()
    source, *out = map(pathlib.Path, sys.argv[1:])
    if len(out) == 1:
        measure(convert, source, out[0])
    else:
        measure(export, source, out[0], "hf")
        measure(export, source, out[1], "orbax")
"""


@pytest.mark.soak
def test_peak_memory(tmp_path):
    """At most 1.3 of the largest shard and one layer, beside what the imports take.

    One layer is a shard here. The model has 16 of them, and a stacked leaf 170 MB. The way back
    has the same bound, if what glibc keeps of freed memory for each of TensorStore's threads is
    not counted: it does not keep blocks above the threshold.
    """
    source, checkpoint, hf, orbax = (tmp_path / name for name in ("a", "b", "c", "d"))
    qwen_folder(source, sharded=False)
    large_folder(source)
    largest = max(p.stat().st_size for p in source.glob("*.safetensors"))
    assert 35e6 < largest < 45e6
    done = program(MEASURE, source, checkpoint)
    done_back = program(MEASURE, checkpoint, hf, orbax, MALLOC_MMAP_THRESHOLD_=str(1 << 20))
    took = [int(x) for x in (done.stdout + done_back.stdout).split()]
    print(f"{[x // 10**6 for x in took]} MB for shards of {largest // 10**6} MB")
    assert max(took) <= 1.3 * largest + largest
    (whole,) = hf.glob("*.safetensors")
    again = read_header(whole)
    for name, tensor in read_header(min(source.glob("*.safetensors"))).items():
        assert tensor.read().tobytes() == again[name].read().tobytes()


# Kills itself in the 13th tensor, when its first block has all its bytes but not yet its name.
KILLED = """
    import os, pathlib, signal, sys
    from msjoe_jax.commands.convert import convert
    from msjoe_jax.runtime.resumable_folder import ResumableFolder
    note, parts = ResumableFolder.note, []
    def counted(self, part):
        note(self, part)
        parts.append(part)
    def kill(event, arguments):
        if len(parts) == 12 and event == "os.rename" and not str(arguments[1]).endswith(".zarray"):
            os.kill(os.getpid(), signal.SIGKILL)
    ResumableFolder.note = counted
    sys.addaudithook(kill)
    convert(*map(pathlib.Path, sys.argv[1:]))
"""


@pytest.mark.soak
def test_kill_9_and_the_same_command(tmp_path):
    qwen_folder(tmp_path / "hf", sharded=False)
    large_folder(tmp_path / "hf", shards=4)
    flags = (f"--source={tmp_path / 'hf'}", f"--out={tmp_path / 'out'}")
    line = [sys.executable, "-c", textwrap.dedent(KILLED), tmp_path / "hf", tmp_path / "out"]
    log = tmp_path / "out.partial" / "progress" / "finished"
    killed = subprocess.run(line, env=PYTHON, cwd=ROOT, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "out").exists()
    done = log.read_text().splitlines()[1:]
    assert len(done) == 12
    log.write_text(log.read_text()[:-2])  # a kill may cut a line off, which is then done again
    state = tmp_path / "out.partial" / "params" / "state"
    before = {p: p.stat().st_mtime_ns for p in state.rglob("*") if p.is_file()}
    (torn,) = (p for p in before if p.suffix == ".partial")
    del before[torn]

    # Files of another time are another source: the values may differ where nobody looked.
    shutil.copytree(tmp_path / "hf", tmp_path / "other", copy_function=shutil.copyfile)
    with pytest.raises(UserError, match=r"out.partial was begun from another source"):
        convert(tmp_path / "other", tmp_path / "out")

    assert command("convert", *flags).returncode == 0
    untouched = sum(
        (tmp_path / "out" / p.relative_to(tmp_path / "out.partial")).stat().st_mtime_ns == t
        for p, t in before.items()
    )
    assert untouched >= len(done) - 1  # all but the cut line's tensor
    convert(tmp_path / "hf", tmp_path / "whole")
    assert tree(tmp_path / "out" / "params" / "state") == tree(
        tmp_path / "whole" / "params" / "state"
    )
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["mllm", "params"]


def tree(folder: pathlib.Path) -> dict[str, bytes]:
    """Files below a folder by name; Orbax's own differ in times alone, which the arrays lack."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()
            and p.name != "commit_success.txt"}  # fmt: skip
