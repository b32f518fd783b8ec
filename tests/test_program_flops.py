"""The least FLOPs of a use: 6 a parameter and token of what trains, whatever a program repeats."""

import dataclasses

import jax
import pytest

from msjoe_jax.config import read_config
from msjoe_jax.program_flops import minimum_flops
from msjoe_jax.program_list import program_list
from msjoe_jax.rollout.system import load_tokenizers, make_system
from msjoe_jax.runtime.jaxpr_flops import traced_flops
from msjoe_jax.runtime.machine import make_machine
from tests.support.system import changed
from tests.support.tiny import tiny_config


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("flops")


def listed(home, **fields):
    """The uses of the joint training by name, the system, the training and the config."""
    c = tiny_config(home)
    c.phases, c.joint.steps, c.rollout.questions = ("joint",), 3, 4
    config = read_config(changed(c, **fields))
    system = make_system(config.models, load_tokenizers(config.models))
    uses = program_list(config, system, make_machine(config.mesh, jax.devices()[:1]))
    run = config.training_run("joint")
    return {use.name: use for use in uses}, system, run, config


def least(home, name, **fields):
    uses, system, run, _ = listed(home, **fields)
    return minimum_flops(uses[f"joint: {name}"], system, run)


def by_hand(home):
    """FLOPs of a forward pass of all completions: matrices, attention; and the sampler's."""
    uses, system, run, config = listed(home)
    flops, prompt, rollout = system.family.flops(system.mllm_config), config.prompt, run.rollout
    B, I, J = rollout.questions, rollout.query_rollouts, rollout.frame_draws
    matrices = attention = 0.0
    for prompts, S, n, C in (
        (B, prompt.query_prompt_tokens, I, prompt.query_tokens),
        (B * I * J, prompt.answer_prompt_tokens, 1, prompt.answer_tokens),
    ):
        matrices += prompts * (flops.token * (S + n * C) + flops.logit * n * C)
        attention += prompts * flops.pair * (S * S / 2 + n * C * (S + C / 2))
    logits = uses["joint: frame_logits"]
    return matrices, attention, minimum_flops(logits, system, run)


def test_the_joint_step_is_three_forward_passes_of_what_trains(home):
    matrices, attention, sampler = by_hand(home)
    assert least(home, "joint_step") == pytest.approx(3 * (matrices + attention + sampler))
    alone = {"joint.train_mllm": False}
    assert least(home, "joint_step", **alone) == pytest.approx(3 * sampler)
    # Adapters: no gradient of the matrices that they stand beside.
    adapted = least(home, "joint_step", **{"mllm.lora_rank": 2, "joint.train_sampler": False})
    assert adapted == pytest.approx(2 * matrices + 3 * attention, rel=0.01)
    # Whatever is computed again counts no more.
    again = {"mllm.remat": True, "mllm.prompts_one_by_one": False, "objective.micro_batches": 2}
    assert least(home, "joint_step", **again) == least(home, "joint_step")


@pytest.mark.parametrize("name", ["mlp", "tspo", "evidential"])
def test_other_networks_are_counted_too(home, name):
    fields = {"sampler.network": name, "rollout.selector": name, "joint.train_mllm": False}
    forward = least(home, "frame_logits", **fields)
    assert least(home, "joint_step", **fields) == pytest.approx(3 * forward) and forward > 0


def test_scoring_is_one_forward_pass(home):
    matrices, attention, _ = by_hand(home)
    found = least(home, "scoring", **{"rollout.updates": 2})
    assert found == pytest.approx(matrices + attention)


def test_a_tower_that_trains_is_part_of_the_step(home):
    uses, system, run, _ = listed(home, **{"mllm.trainable": ""})
    step = uses["joint: joint_step"]
    flops, pixels = system.family.flops(system.mllm_config), step.arguments[1].answers.visual.pixels
    shown = step.arguments[1].queries.visual.pixels
    frames = sum(x.shape[0] * x.shape[1] * sum(flops.frame(x.shape[2])) for x in (pixels, shown))
    matrices, attention, sampler = by_hand(home)
    expected = 3 * (matrices + attention + sampler + frames)
    assert minimum_flops(step, system, run) == pytest.approx(expected)


def test_replies_are_decoded_after_one_pass_over_frames_and_prompt(home):
    uses, system, run, config = listed(home)
    use = uses["joint: answer"]
    flops, patches = system.family.flops(system.mllm_config), use.arguments[2].pixels
    B, G, S = use.arguments[1].tokens.shape
    C = config.prompt.answer_tokens
    expected = B * patches.shape[1] * sum(flops.frame(patches.shape[2]))
    expected += B * G * (sum(flops.prompt(S)) + sum(flops.completion(S, C)))
    assert minimum_flops(use, system, run) == pytest.approx(expected)
    more = dataclasses.replace(use, choices={**use.choices, "samples": 3})
    extra = 2 * B * G * sum(flops.completion(S, C))
    assert minimum_flops(more, system, run) == pytest.approx(expected + extra)


def test_other_programs_are_counted_as_traced(home):
    uses, system, run, _ = listed(home)
    use = uses["joint: embed_queries"]
    found = minimum_flops(use, system, run)
    assert found == traced_flops(use.program.function, *use.arguments) > 0
    assert minimum_flops(uses["joint: credit"], system, run) == 0
