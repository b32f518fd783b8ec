"""A trial of programs: twice each, state handed on, and what fails or is not finite is told."""

import jax
import jax.numpy as jnp
import pytest

from msjoe_jax.program_trial import Trial, seconds_per_update, try_uses
from msjoe_jax.rollout.system import load_tokenizers, make_system
from msjoe_jax.runtime.machine import make_machine
from msjoe_jax.runtime.program import Program, Use
from tests.support.tiny import tiny_settings


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A system and a machine of one device."""
    settings = tiny_settings(tmp_path_factory.mktemp("trial"))
    system = make_system(settings, load_tokenizers(settings))
    return system, make_machine(devices=jax.devices()[:1])


def shape(machine, *size):
    return jax.ShapeDtypeStruct(size, jnp.float32, sharding=machine.whole)


def test_the_state_goes_from_init_to_the_step_and_back(place):
    system, machine = place
    seen = []

    def init(weights):
        return {"count": jnp.zeros_like(weights) + 7}

    def step(state, x):
        jax.debug.callback(lambda count: seen.append(float(count[0])), state["count"])
        return {"count": state["count"] + 1}, {"sum": x.sum()}

    def read(count):
        jax.debug.callback(lambda count: seen.append(float(count[0])), count)
        return count

    state, other = {"count": shape(machine, 3)}, shape(machine, 3)
    uses = [
        Use("joint", Program("init", init, donate=(0,)), (other,), {}, {}),
        Use("joint", Program("read", read), (state["count"],), {}, {}),
        Use("joint", Program("joint_step", step, donate=(0,)), (state, other), {}, {}),
    ]
    with jax.set_mesh(machine.mesh):
        trials = list(try_uses(uses, system, machine))
    jax.effects_barrier()
    assert seen == [7, 7, 7, 8]
    assert [trial.use.name for trial in trials] == [
        "joint: init",
        "joint: read",
        "joint: joint_step",
    ]
    assert all(trial.first > 0 and trial.second > 0 and trial.finite for trial in trials)
    assert all(trial.peak is None and not trial.problem for trial in trials)


def test_what_is_not_finite_is_told_and_what_fails_ends_the_trial(place):
    system, machine = place

    def fails(x):
        raise RuntimeError("no  such\nkernel")

    arguments = (shape(machine, 3), None)
    uses = [
        Use("joint", Program("bad", lambda x, _: (x / 0, x)), arguments, {}, {}),
        Use("joint", Program("good", lambda x, _: x), arguments, {}, {}),
        Use("joint", Program("fails", lambda x, _: fails(x)), arguments, {}, {}),
        Use("joint", Program("never", lambda x, _: x), arguments, {}, {}),
    ]
    trials = list(try_uses(uses, system, machine))
    assert [(t.use.program.name, t.finite) for t in trials] == [
        ("bad", False), ("good", True), ("fails", True),
    ]  # fmt: skip
    assert [t.problem for t in trials] == ["", "", "RuntimeError: no such kernel"]


def test_an_update_runs_its_programs_once_a_wave_or_once_a_batch():
    def trial(name, second, often):
        use = Use("joint", Program(name, len), (), {}, {}, per_update=often)
        return Trial(use, 100.0, second)

    trials = [trial("init", 1000.0, 0), trial("complete", 1.0, 2), trial("join", 10.0, 1)]
    trials += [trial("joint_step", 20.0, 3)]
    assert seconds_per_update(trials) == 2 * 1 + 10 + 3 * 20
