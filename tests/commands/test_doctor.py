"""`msjoe doctor`: one block that a user pastes, and what it finds wrong."""

import json

import jax
import pytest

from msjoe_jax.commands import doctor
from msjoe_jax.commands.doctor import Block, read_plan, row_of
from msjoe_jax.config import base, read_config
from msjoe_jax.errors import UserError
from msjoe_jax.models.attention_check import Parity
from msjoe_jax.program_trial import Trial
from msjoe_jax.runtime.facts import own_facts
from msjoe_jax.runtime.machine import make_machine
from msjoe_jax.runtime.memory import GIB
from msjoe_jax.runtime.program import Program, Use
from tests.support.commands import command
from tests.support.system import changed
from tests.support.tiny import tiny_config

CONFIG = """
import pathlib
from tests.support.tiny import tiny_config

def get_config():
    c = tiny_config(pathlib.Path({folder!r}))
    c.phases = ("joint",)
    c.joint.steps, c.validate_every = 2, 0
    c.rollout.questions, c.rollout.waves = 2, 2
    c.rollout.query_rollouts = c.rollout.frame_draws = 2
    return c
"""


@pytest.fixture
def config(tmp_path):
    """The flag of a config without data and weights."""
    file = tmp_path / "small.py"
    file.write_text(CONFIG.format(folder=str(tmp_path)))
    return f"--config={file}"


@pytest.mark.soak
def test_every_program_of_an_update_runs_and_the_block_is_whole(config, tmp_path):
    planned = {"name": "joint: reason", "peak_bytes": 3 * GIB, "alive_bytes": GIB}
    (tmp_path / "plan").write_text("a table\n" + json.dumps({"programs": [planned]}) + "\n")
    done = command(
        "doctor",
        config,
        f"--workdir={tmp_path}",
        f"--plan={tmp_path / 'plan'}",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("--- msjoe doctor: small.py, config ")
    assert lines[-1] == "--- all is well ---"
    heads = [line.split()[0] for line in lines[1:-1] if not line.startswith(" ")]
    assert heads == ["versions", "machine", "disks", "hosts", "attention", "programs"]
    rows = {" ".join(line.split()[:1]): line for line in lines}
    assert jax.__version__ in rows["jax"] and str(tmp_path) in rows["workdir"]
    steps = ["init", "reason", "embed_queries", "cosine", "masked", "frame_logits", "draw_keys"]
    steps += ["choose_frames", "answer", "join", "credit", "joint_step"]
    ran = [line.split()[0] for line in lines if line.endswith("finite")]
    assert ran == steps
    assert rows["reason"].split()[-4:] == ["–", "3.00", "1.00", "finite"]  # a CPU tells no peak
    assert rows["init"].split()[-4:] == ["–", "–", "–", "finite"]
    assert "s on the devices (2 questions, waves: 2)" in rows["an"]
    assert not any(tmp_path.glob("*/*"))  # it writes nothing


@pytest.mark.slow
def test_a_mesh_that_does_not_fit_is_refused_in_a_line(config):
    done = command("doctor", config, "--config.mesh.tensor=2")
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: config.mesh data=1, fsdp=-1, tensor=2 does not fit 1 devices")


# --- parts of it ----------------------------------------------------------------------------------


def facts_of(**changed):
    return {**own_facts({"a": 1}, "."), **changed}


def test_where_hosts_disagree_nothing_is_computed(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Program, "__call__", lambda *_, **__: pytest.fail("a program was run"))
    config, disks = read_config(changed(tiny_config(tmp_path), phases=("joint",))), {}
    facts = [facts_of(disks=disks), facts_of(disks=disks, code="0")]
    (problem,) = doctor.examine(config, facts, {}, "tiny", quick=False)
    lines = capsys.readouterr().out.splitlines()
    assert f"PROBLEM {problem}" in lines and lines[-1] == "--- 1 PROBLEM ---"
    assert "kernels and programs: only where all hosts agree" in lines


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (Parity("splash", 0.5, 0.001, 0.03), "is not what plain attention is"),
        (RuntimeError("Mosaic  failed"), "RuntimeError: Mosaic failed; set config.mllm.attention"),
    ],
)
def test_a_kernel_that_is_wrong_or_fails_is_a_problem(tmp_path, capsys, monkeypatch, found, words):
    def compare(*sizes, causal, **choices):
        if causal and isinstance(found, Exception):
            raise found
        return found if causal else Parity("splash", 0.01, 0.02, 0.03)

    monkeypatch.setattr(doctor, "compare", compare)
    config = read_config(changed(tiny_config(tmp_path), phases=("evaluate",)))
    (problem,) = doctor.examine(config, [facts_of(disks={})], {}, "tiny", quick=True)
    assert problem.startswith("attention=auto, decoder, heads of 32") and words in problem
    lines = capsys.readouterr().out.splitlines()
    (row,) = [line for line in lines if line.startswith("  vision tower, heads of 16")]
    assert row.endswith("auto is splash, float32: forward 1.0e-02, gradient 2.0e-02, at most 3e-02")


def test_tiny_models_need_no_tokenizer():
    c = base()
    c.mllm.size = c.clip.size = "tiny"
    assert doctor.system_of(read_config(c)).mllm_config.vocab >= 256
    c.mllm.size = "qwen2.5-vl-3b"
    assert doctor.system_of(read_config(c)).mllm_config.vocab > 150_000


def test_a_full_disk_is_a_problem_and_object_storage_is_none(capsys):
    disks = {"workdir": ("gs://bucket/run", None), "temporary files": ("/tmp", 5 * GIB)}
    full = {**disks, "temporary files": ("/tmp", 1000)}
    block = Block()
    doctor._tell_disks(block, [facts_of(disks=disks)], 10**15)
    assert block.problems == []
    doctor._tell_disks(block, [facts_of(disks=disks), facts_of(disks=full)], 10**15)
    (line,) = block.problems
    assert line.startswith("/tmp (host 1): 1.0 kB are free and a run needs ")
    assert f"PROBLEM {line}" in capsys.readouterr().out.splitlines()
    own = {"workdir": ("/runs", 100 * GIB)}
    doctor._tell_disks(block, [facts_of(disks=own)], 49 * GIB)
    doctor._tell_disks(block, [facts_of(disks=own)], 51 * GIB)  # two checkpoints have no room
    assert len(block.problems) == 2


def test_memory_that_another_process_holds_is_a_problem():
    block, machine = Block(), make_machine(devices=jax.devices()[:1])
    doctor._tell_machine(block, [facts_of(limits=[100], held=[5])], machine)
    assert block.problems == []
    doctor._tell_machine(block, [facts_of(limits=[100, 100], held=[0, 6])], machine)
    assert len(block.problems) == 1


def test_a_row_says_what_was_planned():
    use = Use("joint", Program("step", len), (), {}, {})
    plan = {"joint: step": (2 * GIB, GIB)}
    row = row_of(Trial(use, 61.0, 1.5, 2.25), plan)
    assert row.split() == ["61.00", "1.500", "2.25", "2.00", "1.00", "finite"]
    assert row_of(Trial(use, 61.0, 1.5, None, finite=False), {}).split()[2:] == [
        "–", "NOT", "FINITE",
    ]  # fmt: skip


@pytest.mark.parametrize("text", [None, "", "FITS: all 3 programs", "[]", '{"programs": [{}]}'])
def test_a_file_that_is_no_plan_is_refused(tmp_path, text):
    if text is not None:
        (tmp_path / "plan").write_text(text)
    with pytest.raises(UserError, match="not the output of msjoe plan --json"):
        read_plan(str(tmp_path / "plan"))


# --- what is tried --------------------------------------------------------------------------------


def programs_of(tmp_path, capsys, **fields) -> tuple[str, list[str], str]:
    """The head, the programs that ran and made finite numbers, and what they took."""
    config, block = read_config(changed(tiny_config(tmp_path), **fields)), Block()
    system, machine = doctor.system_of(config), make_machine(devices=jax.devices()[:1])
    with jax.set_mesh(machine.mesh):
        doctor._try_programs(block, config, system, machine, {})
    assert block.problems == []
    lines = capsys.readouterr().out.splitlines()
    ran = [" ".join(line.split()[:-4]) for line in lines if line.endswith("finite")]
    return lines[0], ran, lines[-1]


def test_a_training_on_evidence_is_tried(tmp_path, capsys):
    head, ran, took = programs_of(
        tmp_path,
        capsys,
        **{"phases": ("evidence", "joint", "evaluate"), "joint.steps": 0, "evidence.steps": 3},
        **{"sampler.network": "evidential", "rollout.selector": "evidential"},
        **{"rollout.queries": "question", "evidence.questions": 2},
    )
    assert head.startswith("programs of evidence, run twice each")
    assert ran == ["evidence_init", "embed_queries", "cosine", "masked", "evidence_step"]
    assert "s on the devices (2 questions)" in took


@pytest.mark.soak
def test_where_nothing_is_trained_an_evaluation_is_tried(tmp_path, capsys):
    head, ran, took = programs_of(
        tmp_path,
        capsys,
        **{"phases": ("evaluate",), "evaluate.arms": ("dafs", "cacheflow_like")},
        **{"evaluate.batch": 2},
    )
    assert head.startswith("programs of evaluate, run twice each")
    assert [name for name in ran if name.startswith(("dafs", "cacheflow"))] == [
        "dafs option_attention (1 × 16 frames)",
        "cacheflow_like neighbour_cosines (1 × 16 frames)",
        "cacheflow_like mean_keys_and_queries (8 × 16 frames)",
        "cacheflow_like mean_keys_and_queries (1 × 1 frames)",
    ]
    assert {"answer", "answer, 16 frames"} & set(ran) and took.split()[:2] == ["each", "once"]


def test_which_phase_is_tried(tmp_path):
    def tried(*phases, **steps):
        fields = {f"{name}.steps": number for name, number in steps.items()}
        config = changed(tiny_config(tmp_path), phases=phases, **fields)
        return doctor.tried_phase(read_config(config))

    whole = ("difficulty", "evidence", "pretrain", "joint", "evaluate")
    assert tried(*whole, evidence=1, pretrain=1, joint=1) == "joint"
    assert tried(*whole, evidence=1, pretrain=1, joint=0) == "pretrain"
    assert tried(*whole, evidence=1, pretrain=0, joint=0) == "evidence"
    assert tried("difficulty", "evaluate") == "evaluate"
    assert tried("difficulty") == ""
