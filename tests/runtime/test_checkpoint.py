"""Checkpoints: bit for bit, whole after a kill, onto another mesh, and clear about misfits."""

import json
import os
import signal
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from msjoe_jax.errors import UserError
from msjoe_jax.runtime.checkpoint import Checkpoints, load_meta, load_params, save_params
from tests.support.commands import PYTHON, ROOT
from tests.support.placed import placed
from tests.support.processes import xla_flags


def make_state(step: int) -> dict:
    """A training state in small, every value a function of `step`."""
    rng = np.random.default_rng(step)
    params = {
        "mllm": {"layers": {"up": jnp.asarray(rng.normal(size=(2, 8, 4)), jnp.float32)}},
        "sampler": {"conv": jnp.asarray(rng.normal(size=(3, 5)), jnp.bfloat16)},
    }
    return {
        "params": params,
        "opt": optax.chain(optax.clip(1.0), optax.adamw(1e-3)).init(params),
        "step": jnp.int32(step),
        "key": jax.random.key(step, impl="rbg"),
        "keys": jax.random.split(jax.random.key(step), 3),
    }


def bits(tree) -> list[bytes]:
    def raw(leaf):
        key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(leaf) if key else leaf).tobytes()

    return [raw(leaf) for leaf in jax.tree.leaves(tree)]


@pytest.mark.parametrize("iterator_state", [{"next": 3, "inner": [{"a": "b"}]}, b"\x00\xff", None])
def test_restores_bit_for_bit(tmp_path, iterator_state):
    state, meta = make_state(3), {"config": {"seed": 1, "name": "tiny"}}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, state, iterator_state, meta)
    with Checkpoints(tmp_path) as checkpoints:
        restored, iterator, read_meta = checkpoints.restore(
            placed(jax.eval_shape(lambda: make_state(0)))
        )
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    assert [x.dtype for x in jax.tree.leaves(restored)] == [x.dtype for x in jax.tree.leaves(state)]
    assert bits(restored) == bits(state)
    assert (iterator, read_meta) == (iterator_state, meta)
    draw = jax.random.normal(restored["key"], (4,))
    assert np.array_equal(draw, jax.random.normal(state["key"], (4,)))


def test_keeps_the_newest_and_leaves_a_saved_step_alone(tmp_path):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoints.latest_step() is None
        for step in (1, 2, 10):
            checkpoints.save(step, make_state(step), None, {})
        checkpoints.save(10, make_state(11), None, {})
        checkpoints.wait()
        assert checkpoints.latest_step() == 10
        assert bits(checkpoints.restore(make_state(0))[0]) == bits(make_state(10))
        assert bits(checkpoints.restore(make_state(0), step=2)[0]) == bits(make_state(2))
        with pytest.raises(UserError, match=r"no checkpoint in .*/1"):
            checkpoints.restore(make_state(0), step=1)
        with pytest.raises(UserError, match="newer checkpoint than step 3"):
            checkpoints.save(3, make_state(3), None, {})


@pytest.mark.parametrize("keep", [0, -1])
def test_none_cannot_be_kept(tmp_path, keep):
    with pytest.raises(UserError, match=f"keep={keep} checkpoints must be at least 1"):
        Checkpoints(tmp_path, keep=keep)


def test_state_donated_right_after_an_asynchronous_save(tmp_path):
    """`save` may return only when it holds a copy: the training step overwrites the state."""
    double = jax.jit(lambda tree: jax.tree.map(lambda x: x * 2, tree), donate_argnums=0)
    state = {"w": jnp.arange(2_000_000, dtype=jnp.float32)}
    with Checkpoints(tmp_path) as checkpoints:
        for step in range(3):
            expected = np.array(state["w"])
            checkpoints.save(step, state, None, {})
            for _ in range(3):
                state = double(state)
            checkpoints.wait()
            restored, _, _ = checkpoints.restore({"w": jnp.zeros(2_000_000)})
            assert np.array_equal(restored["w"], expected)


SAVE_UNTIL = """
    import os, signal, sys
    from tests.runtime.test_checkpoint import make_state
    from msjoe_jax.runtime.checkpoint import Checkpoints
    folder, mode, event, end = sys.argv[1:]
    def kill(name, arguments):
        if name == event and any(str(x).endswith(end) for x in arguments):
            os.kill(os.getpid(), signal.SIGKILL)
    checkpoints = Checkpoints(folder, asynchronous=mode == "async")
    sys.addaudithook(kill)
    for step in range((checkpoints.latest_step() or 0) + 1, 6):
        checkpoints.save(step, make_state(step), {"next": step}, {"step": step})
    checkpoints.wait()
"""


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_kill_9_leaves_a_whole_latest_step(tmp_path, mode):
    """Before a whole checkpoint gets its name; then while one too many is being removed."""
    for event, end, latest in (("os.rename", "/2", 1), ("os.rmdir", "", 3)):
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(SAVE_UNTIL), tmp_path, mode, event, end],
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
            timeout=300,
        )
        assert done.returncode == -signal.SIGKILL
        with Checkpoints(tmp_path) as checkpoints:
            step = checkpoints.latest_step()
            restored, iterator, meta = checkpoints.restore(make_state(0))
        assert step == latest
        assert bits(restored) == bits(make_state(step))
        assert (iterator, meta) == ({"next": step}, {"step": step})
        assert all(path.name.isdigit() for path in tmp_path.iterdir())  # nothing half written left


FILL = """
    import sys
    from msjoe_jax.runtime.platform import quiet_cpu_default
    quiet_cpu_default()
    import numpy as np
    from msjoe_jax.errors import run_cli
    from msjoe_jax.runtime.checkpoint import Checkpoints, save_params
    folder, mode = sys.argv[1:]
    rng = np.random.default_rng(0)
    tree = {f"w{i}": rng.normal(size=(100, 1000)).astype("f4") for i in range(10)}  # 4 MB
    def save():
        if mode == "params":
            save_params(f"{folder}/params", tree | {"x": rng.normal(size=10**6)}, {})
        with Checkpoints(f"{folder}/run", asynchronous=mode == "async") as checkpoints:
            for step in (1, 2):
                checkpoints.save(step, tree, None, {})
    run_cli(save)
"""


@pytest.mark.slow
@pytest.mark.parametrize("mode, left", [("async", ["1"]), ("sync", ["1"]), ("params", [])])
def test_a_full_disk_is_one_line_and_leaves_whole_checkpoints(tmp_path, mode, left):
    """On a file system of 7 MB, which only the process sees."""
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(FILL))
    mount = f"mount -t tmpfs -o size=7m none {tmp_path / 'disk'}"
    look = f"ls {tmp_path / 'disk'}/run"
    (tmp_path / "disk").mkdir()
    outside = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    try:
        subprocess.run([*outside, mount], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this machine lets nobody mount a file system of their own")
    line = f"{mount} && {sys.executable} {program} {tmp_path / 'disk'} {mode}; echo $?; {look}"
    done = subprocess.run([*outside, line], env=PYTHON, cwd=ROOT, capture_output=True, text=True)
    status, *names = done.stdout.split()
    assert (status, names) == ("2", left), done.stderr
    what = "a model needs 13 MB" if mode == "params" else "a checkpoint needs 4.4 MB"
    (said,) = [text for text in done.stderr.splitlines() if not text.startswith("ls: ")]
    assert said.startswith(f"error: {tmp_path / 'disk'}") and f"full: {what}, " in said


@pytest.mark.slow
def test_restores_onto_eight_devices(tmp_path):
    state = make_state(5)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(5, state, None, {})
    program = """
        import json, sys, jax, numpy as np
        from tests.runtime.test_checkpoint import make_state, bits
        from msjoe_jax.runtime.checkpoint import Checkpoints
        from msjoe_jax.runtime.mesh import *
        mesh = make_mesh(1, 4, 2)
        table = [("mllm/layers/up", ("layers", "embed", "mlp")), (".*", REPLICATED)]
        like = jax.eval_shape(lambda: make_state(0))
        like = with_shardings(like, param_shardings(like, table, mesh, AxisRules()))
        restored, _, _ = Checkpoints(sys.argv[1]).restore(like)
        up = restored["opt"][1][0].mu["mllm"]["layers"]["up"]
        print(json.dumps([
            up.addressable_shards[0].data.shape,
            len(restored["key"].sharding.device_set),
            bits(restored) == bits(make_state(5)),
        ]))
    """
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": xla_flags(8),
    }
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), tmp_path],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == [[2, 2, 2], 8, True]


def test_another_architecture_is_named(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, make_state(1), None, {})
        other = make_state(1)
        other["params"]["mllm"]["layers"]["up"] = jnp.zeros((2, 8, 6))
        words = r"params/mllm/layers/up is \(2, 8, 6\) float32 here, \(2, 8, 4\) float32 there"
        with pytest.raises(UserError, match=words):
            checkpoints.restore(other)
        other = make_state(1)
        other["params"]["extra"] = jnp.zeros(3)
        with pytest.raises(UserError, match=r"params/extra is \(3,\) float32 here, absent there"):
            checkpoints.restore(other)
        del other["params"]["extra"], other["params"]["sampler"]
        with pytest.raises(UserError, match=r"params/sampler/conv is absent here"):
            checkpoints.restore(other)
        with pytest.raises(UserError, match=r"nothing is .* and 7 more"):
            checkpoints.restore({"nothing": jnp.zeros(1)})


def test_missing_and_damaged_checkpoints_are_named(tmp_path):
    with (
        pytest.raises(UserError, match=r"no checkpoint in .*empty"),
        Checkpoints(tmp_path / "empty") as checkpoints,
    ):
        checkpoints.restore(make_state(0))
    for missing in (lambda: load_params(tmp_path / "no", {}), lambda: load_meta(tmp_path / "no")):
        with pytest.raises(UserError, match=r"no checkpoint in .*no"):
            missing()
    save_params(tmp_path / "params", {"w": jnp.arange(1000.0)}, {"a": 1})
    for file in (tmp_path / "params").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    with pytest.raises(UserError, match="params cannot be read"):
        load_params(tmp_path / "params", {"w": jnp.zeros(1000)})
    with pytest.raises(UserError, match="params cannot be read"):
        load_meta(tmp_path / "params")


def test_parameters_on_their_own_and_out_of_a_run(tmp_path):
    state, meta = make_state(7), {"architecture": "tiny", "sizes": [1, 2]}
    save_params(tmp_path / "params", state["params"], meta)
    like = placed(jax.eval_shape(lambda: make_state(0)["params"]))
    assert bits(load_params(tmp_path / "params", like)) == bits(state["params"])
    assert load_meta(tmp_path / "params") == meta
    with pytest.raises(UserError, match="exists"):
        save_params(tmp_path / "params", state["params"], meta)

    with Checkpoints(tmp_path / "run") as checkpoints:
        checkpoints.save(7, state, None, {"config": 1})
    folder = tmp_path / "run" / "7"
    half = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), like["mllm"])
    half = placed(half)
    read = load_params(folder, half, prefix="params/mllm")["layers"]["up"]
    expected = state["params"]["mllm"]["layers"]["up"].astype(jnp.bfloat16)
    assert read.dtype == jnp.bfloat16
    assert np.array_equal(read, expected)
    assert load_meta(folder) == {"config": 1}
