"""`msjoe plan`: all programs at real widths for a small slice, its table, and its refusals."""

import dataclasses
import importlib.util
import json
import math

import jax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from msjoe_jax.commands import plan as module
from msjoe_jax.commands.plan import (
    Options,
    Planned,
    as_json,
    format_row,
    plan,
    print_plan,
    print_search,
)
from msjoe_jax.config import read_config
from msjoe_jax.errors import UserError
from msjoe_jax.families import named_model
from msjoe_jax.plan_data import Data
from msjoe_jax.rollout.shapes import abstract_batch
from msjoe_jax.rollout.system import make_system
from msjoe_jax.runtime.chips import GIB, Cost
from msjoe_jax.runtime.program import Program, Use
from msjoe_jax.runtime.topology import Fit, Slice
from msjoe_jax.selectors import SELECTORS
from msjoe_jax.selectors.base import Selector
from msjoe_jax.training.state import abstract_state, make_step, trains_vision
from msjoe_jax.weights.folder import write_json
from tests.support.commands import command
from tests.support.tiny import full_size

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"
)
SLICE = Slice("v4:2x2x1", [0, 1, 2, 3], 1)


@pytest.mark.soak
@needs_libtpu
def test_every_program_compiles_at_real_widths_and_fits(tmp_path):
    """Qwen2.5-VL-7B with two layers of each half, on four chips with as much work for each as on
    16, twice as many questions: the layers are scanned, so that more of them are no other program.
    """
    sizes = named_model("qwen2.5-vl-7b", None)[1].to_hf()
    sizes["num_hidden_layers"] = 2
    sizes["vision_config"] |= {"depth": 2, "fullatt_block_indexes": [1]}
    (tmp_path / "mllm").mkdir()
    write_json(tmp_path / "mllm" / "config.json", sizes)
    done = command(
        "plan",
        "--config=joint_v4",
        "--topology=v4:2x2x1",
        "--config.mllm.size=",
        f"--config.mllm.checkpoint={tmp_path}",
        "--config.mesh.fsdp=4",
        "--config.rollout.questions=8",
        "--config.phases=('joint',)",
        # Other phases and validations use the same programs with other numbers of questions.
        "--only=^(predecode|joint):|best_frames",
        "--effort=-1",
        "--json",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].endswith(
        "mesh data 1 × fsdp 2 × split 2 × tensor 1, taken to be 1 host as it is sold"
    )
    found = json.loads(lines[-1])
    assert found["fits"] and found["hbm_bytes"] == 30.75 * GIB
    assert lines[-2] == f"FITS: all {len(found['programs'])} programs"
    programs = {program["name"]: program for program in found["programs"]}
    steps = {name.partition(": ")[2] for name in programs}
    of_an_episode = {"reason", "embed_queries", "cosine", "masked", "frame_logits", "draw_keys"}
    of_an_episode |= {"choose_frames", "best_frames", "answer"}
    assert steps == of_an_episode | {"embed_frames", "init", "join", "credit", "joint_step"}
    for program in programs.values():
        assert program["argument_bytes"] <= program["peak_bytes"] + 2**20
        assert program["alive_bytes"] == sum(program["alive"].values())
    # Nobody else's work is done but for what is replicated, rematerialised or padded.
    ratios = {name: p["flops"] / (p["min_flops"] or 1) for name, p in programs.items()}
    assert ratios["predecode: embed_frames"] == pytest.approx(1, abs=0.001)
    assert 1 <= ratios["joint: reason"] < 1.02 and 1 <= ratios["joint: answer"] < 1.04
    assert 1.2 < ratios["joint: joint_step"] < 1.4
    assert not any(program["not_counted"] for program in programs.values())
    update = found["price"]["updates"]["joint"]
    assert update["seconds"] == pytest.approx(
        sum(p["seconds"] * p["per_update"] for p in programs.values())
    )
    assert 0 < update["mfu"] < 0.5 and f"{update['seconds']:.1f} s an update" in done.stdout
    # The pixels of a wave are on no chip whole: they alone would take 2.3 GiB as bfloat16.
    answer = programs["joint: answer"]
    parts = programs["joint: join"]
    assert answer["alive"]["state"] > answer["alive"]["CLIP"] > 0
    # The join's arguments are its parts, its results as large, and it moves nothing else.
    assert parts["peak_bytes"] < 3.2 * parts["argument_bytes"]


@pytest.mark.soak
def test_the_step_takes_the_abstract_batch_and_keeps_the_state_at_7b():
    config = full_size()
    config.rollout.questions, config.objective.micro_batches = 8, 2

    def traced(encode_in_step: bool):
        """The batch, the state, and what the step makes of them, as shapes."""
        made = read_config(config)
        run, system = made.training_run("joint"), make_system(made.models)
        assert trains_vision(run, system) == encode_in_step
        batch = abstract_batch(
            system, made.frames, made.prompt, made.rollout, encode_in_step=encode_in_step
        )
        state = abstract_state(run, system)
        return batch, state, jax.eval_shape(make_step(run, system), state, batch)

    batch, state, (new_state, metrics) = traced(False)
    assert new_state == state
    assert metrics["reward"].shape == ()
    # Key frames: 8 rollouts × 32 frames, 1024 patches in blocks of 4, the width of the 7B decoder.
    assert batch.answers.visual.shape == (8, 8 * 32 * 256, 3584)
    parameters = sum(math.prod(x.shape) for x in jax.tree.leaves(state["mllm"]))
    assert parameters == 8_292_166_656  # Qwen2.5-VL-7B-Instruct as published
    config.mllm.trainable = ""  # the tower too: the step encodes the frames itself
    batch, state, (new_state, _) = traced(True)
    assert batch.answers.visual.pixels.shape == (8, 8 * 32, 1024, 14, 14, 3)
    assert new_state == state


# --- the table ------------------------------------------------------------------------------------


def use_of(program: Program, numbers: int, beside: int = 0) -> Use:
    mesh = Mesh(jax.devices()[:1], ("fsdp",))
    whole = NamedSharding(mesh, PartitionSpec())

    def shape(n: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((n,), "int8", sharding=whole)

    return Use("joint", program, (shape(numbers),), {}, {"state": shape(beside)})


def test_what_is_used_twice_with_the_same_arguments_is_compiled_once(monkeypatch):
    compiled = []

    def compile_use(use, effort, slice_, cache):
        compiled.append((use.program.name, use.argument_bytes, effort))
        return Fit(use.argument_bytes, 2 * use.argument_bytes, 1.0)

    monkeypatch.setattr(module, "compile_use", compile_use)
    one, other = Program("one", len), Program("other", len)
    # The phases are alike, so their names tell the programs apart.
    uses = [use_of(one, 5), use_of(one, 5, 7), use_of(one, 6), use_of(other, 5)]
    known = {}
    planned = list(plan(uses, Options(-1.0), known))
    assert compiled == [("one", 5, -1.0), ("one", 6, -1.0), ("other", 5, -1.0)]
    assert [p.alive for p in planned] == [0, 7, 0, 0]
    assert [p.fit.peak for p in planned] == [10, 10, 12, 10]
    # Another list of the same run has other objects of the same names.
    again = [use_of(Program("one", len), 5), use_of(Program("one", len), 9)]
    assert [p.fit.peak for p in plan(again, Options(-1.0), known)] == [10, 18]
    assert len(compiled) == 4


def test_rows_say_by_how_much_it_does_not_fit():
    use = use_of(Program("step", len), GIB)

    def row(peak, alive, refusal=""):
        return format_row(Planned(use, Fit(GIB, peak, 1.0, refusal), alive), SLICE.hbm)

    memory = ["joint:", "step", "1.00", "2.00", "1.00", "27.75"]
    assert row(2 * GIB, GIB).split() == [*memory, *"––––", "FITS"]
    cost = Cost(3e12, 1e9, {"all-gather": 4e9, "all-to-all": 1e9}, 0.25, 0.1)
    priced = Planned(use, Fit(GIB, 2 * GIB, 1.0, cost=cost), GIB, 2e12)
    found = format_row(priced, SLICE.hbm).split()
    assert found == [*memory, "3.00", "1.50", "5.00", "0.250", "FITS"]
    # 30.75 GiB, of which 3 % stay free: 29.83.
    assert row(29 * GIB, GIB).endswith("–  DOES NOT FIT: 0.17 GiB too much (3% stay free)")
    assert row(30 * GIB, 2 * GIB).endswith("DOES NOT FIT: 2.17 GiB too much (3% stay free)")
    assert row(None, 0, "needs (39G)").endswith("–  DOES NOT FIT: needs (39G)")


def test_json_says_the_same():
    use = use_of(Program("step", len), 5, 7)
    use = dataclasses.replace(use, per_update=2, times=8)
    cost = Cost(3.0, 4.0, {"all-reduce": 5.0}, 7.0, 6.0, ("kernel",))
    good = Planned(use, Fit(5, 10, 1.0, cost=cost), 7, 2.0)
    bad = Planned(use, Fit(5, None, 1.0, "why"), 7)
    found = as_json([good, bad], SLICE)
    assert found["fits"] is False and found["hbm_bytes"] == SLICE.hbm and found["hosts"] == 1
    assert found["programs"][0] == {
        "name": "joint: step",
        "argument_bytes": 5,
        "peak_bytes": 10,
        "alive_bytes": 7,
        "alive": {"state": 7},
        "fits": True,
        "refusal": "",
        "flops": 3.0,
        "min_flops": 2.0,
        "hbm_traffic_bytes": 4.0,
        "collective_bytes": {"all-reduce": 5.0},
        "collective_seconds": 6.0,
        "seconds": 7.0,
        "not_counted": ["kernel"],
        "per_update": 2,
        "times": 8,
    }
    assert found["programs"][1]["peak_bytes"] is None and found["programs"][1]["seconds"] is None
    assert not found["programs"][1]["fits"]
    assert as_json([good], SLICE)["fits"] is True


@pytest.fixture
def priced(monkeypatch):
    """Every program takes a second, or one for each token of the answer prompts in it."""
    compiled = []

    def compile_use(use, effort, slice_, cache):
        compiled.append((use.name, effort))
        tokens = {x.shape[-1] for x in jax.tree.leaves(use.arguments) if x.ndim == 3}
        long = max(tokens & {8704, 4850}, default=1)
        return Fit(use.argument_bytes, GIB, 1.0, cost=Cost(1e12, 1e9, {}, float(long), 0.0))

    monkeypatch.setattr(module, "compile_use", compile_use)
    return compiled


def on_one_device():
    given = full_size()
    given.phases, given.joint.steps = ("joint",), 10
    return given, Options(-1.0, Slice("v4:2x2x1", jax.devices()[:1], 1))


def test_a_second_length_compiles_only_what_it_changes(priced, capsys):
    given, options = on_one_device()
    found, prices = print_plan(read_config(given), options, "^joint: ", Data(tokens=4850))
    again = [name for name, _ in priced[len(found) :]]
    assert again == ["joint: answer", "joint: credit", "joint: joint_step"]
    out = capsys.readouterr().out
    assert "joint, answer prompts of 8704 tokens: " in out
    assert "joint, answer prompts of 4850 tokens: " in out
    long, short = (prices[k]["updates"]["joint"] for k in ("price", "price_of_data"))
    assert prices["price_of_data"]["tokens"] == 4850
    # The answers and the step of one wave; credit is logged with every update.
    assert long["seconds"] - short["seconds"] == pytest.approx(3 * (8704 - 4850))


def test_budgets_of_the_evaluation_are_planned_and_what_is_left_out_is_said(
    priced, capsys, monkeypatch
):
    given, options = on_one_device()
    given.phases, given.evaluate.arms = ("evaluate",), ("uniform", "cacheflow_like", "theirs")
    given.prompt.length_step = 256
    monkeypatch.setitem(SELECTORS, "theirs", Selector(lambda *_: None, queries="question"))
    config = read_config(given)
    found, _ = print_plan(config, options, "evaluate", Data(budgets=(8, 32, 64)))
    names = [one.use.name for one in found]
    assert [name for name in names if "answer" in name] == [
        "evaluate: answer, 8 frames",
        "evaluate: answer",  # of 32, the config's, and of blocks for 8
        "evaluate: answer, 64 frames",
        "evaluate: answer, 128 frames",
        "evaluate: answer, 256 frames",
    ]
    assert "evaluate: cacheflow_like neighbour_cosines (1 × 64 frames)" in names
    out = capsys.readouterr().out
    assert "the selector theirs may run programs of its own, which are not planned" in out
    assert "at every 256 tokens that occur" in out


@pytest.mark.slow
def test_a_search_prints_the_table_and_what_compiling_the_best_finds(priced, capsys):
    given, options = on_one_device()
    best = print_search(given, options, 4850, [0])
    assert len(best) == 3 and {one["tokens"] for one in best} <= {8704, 4850}
    assert all(one["fsdp"] == one["tensor"] == 1 and one["rank"] == 0 for one in best)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:2] == ["mesh", "micro"]
    (first, *_) = [line for line in lines if line.startswith("joint: ") and " s an update" in line]
    assert f"{best[0]['updates']['joint']['seconds']:.1f} s an update" in first
    assert {effort for _, effort in priced} == {-1.0}


def test_ranks_are_numbers():
    assert module._rank("16") == 16
    with pytest.raises(UserError, match="--ranks: 'x' is not a number"):
        module._rank("x")


# --- the command ----------------------------------------------------------------------------------


@pytest.mark.soak
@needs_libtpu
def test_what_does_not_fit_ends_with_status_1():
    done = command(
        "plan", "--config=joint_v4", "--topology=v5e:2x2", "--only=predecode", "--json",
        "--config.mesh.fsdp=4", "--config.mesh.tensor=1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr  # CLIP alone has room on a chip of 15.75 GiB
    done = command(
        "plan", "--config=joint_v4", "--topology=v5e:2x2", "--only=joint: init", "--effort=-1",
        "--config.mesh.fsdp=4", "--config.mesh.tensor=1",
    )  # fmt: skip
    assert done.returncode == 1, done.stderr  # weights and moments of 22 GiB a chip
    assert "DOES NOT FIT" in done.stdout.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (
            ["--topology=v9:1x1"],
            "--topology=v9:1x1: the generation is one of v4, v5e, v5p, v6e, tpu7x",
        ),
        pytest.param(
            ["--topology=v4:2x2x1"],
            "config.mesh data=1, fsdp=16, tensor=1 does not fit 4 devices: the product must be ",
            marks=needs_libtpu,
        ),
        pytest.param(
            ["--config.rollout.questions=24"],
            "config.rollout.questions=24 in 2 waves does not divide into the 16 parts of the "
            "mesh's data and fsdp axes",
            marks=needs_libtpu,
        ),
        pytest.param(
            ["--frame_size=448"], "--frame_size=448 is not WIDTHxHEIGHT", marks=needs_libtpu
        ),
        pytest.param(
            ["--search", "--frame_size=448x252"],
            "--search does not take --frame_size=448x252",
            marks=needs_libtpu,
        ),
        pytest.param(["--only=("], "--only=( is no regular expression: ", marks=needs_libtpu),
        pytest.param(
            ["--only=reasons"],
            "--only=reasons is the name of no program; there are: predecode: embed_frames, ",
            marks=needs_libtpu,
        ),
    ],
)
def test_what_main_would_refuse_ends_with_status_2_and_a_line(flags, line):
    done = command("plan", "--config=joint_v4", *flags)
    assert (done.returncode, done.stdout) == (2, "")
    (found,) = [text for text in done.stderr.splitlines() if text.startswith("error: ")]
    assert found.removeprefix("error: ").startswith(line)
