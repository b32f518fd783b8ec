"""The RL loop around a stubbed step: what stops it, warns, is written and is saved."""

import gc
import json
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from msjoe_jax.config import base, read_config
from msjoe_jax.errors import UserError
from msjoe_jax.rollout.clock import DeviceClock
from msjoe_jax.rollout.collect import Rollout
from msjoe_jax.runtime.checkpoint import Checkpoints as saved
from msjoe_jax.training import loop as module
from msjoe_jax.training.loop import Loop, run_loop


class Checkpoints:
    def __init__(self):
        self.saved = []

    def save(self, step, *_):
        self.saved.append(step)


def run(
    folder, metrics, steps=6, saves=2, shown=None, drop=None, validation=None, show=None, size=1,
    checkpoints=None, **fields
):  # fmt: skip
    """`run_loop` where update n reports `metrics(n)` and drops `drop(n)`; the updates saved."""
    config = base()
    config.joint.steps, config.checkpoint_every = steps, saves
    config.media_every = config.rollouts_every = 100
    config.update_from_flattened_dict(fields)
    clock, checkpoints, cut = DeviceClock(), checkpoints or Checkpoints(), set()
    failures: list[dict[str, str]] = []

    def collect(params, step):
        cut.update(range(step - 1))
        for place in ("reason", "answer"):
            with clock(place):
                pass
        failures.extend(drop(step) if drop else [])
        records: Any = [types.SimpleNamespace(weight=1.0, question=types.SimpleNamespace(id="q"))]
        return Rollout(None, records, query_tokens=3, answer_tokens=2), 0

    def step(state, _):
        index = int(state["step"]) + 1
        known = {"reward": 0.5, "rewards/accuracy": 0.5, "rewards/answer_format": 1.0} | {
            **metrics(index)
        }
        return {**state, "step": jnp.int32(index)}, jax.tree.map(jnp.float32, known)

    stub: Any = types.SimpleNamespace
    loop = Loop(
        run=read_config(config).training_run("joint"),
        folder=folder,
        meta={},
        episodes=stub(clock=clock, failures=failures, cut_queries=cut),
        collector=stub(collect=collect),
        stream=stub(get_state=lambda: b""),
        joint_step=step,
        scoring=lambda *_: pytest.fail("nothing is to be scored"),
        draw_scoring=lambda *_: pytest.fail("nothing is to be scored"),
        credit=lambda arrays: (stub(query=0, draw=0, answer=0), stub()),
        merged=lambda state: state,
        scorers={},
        reference={},
        validation=validation,
    )
    weights = jnp.asarray(np.random.default_rng(0).normal(size=size))  # not to be compressed
    state = {"step": jnp.int32(0), "mllm": {"w": weights}, "sampler": {"w": jnp.ones(1)}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            module,
            "show_rollout",
            show or (lambda writer, update, *_: shown is None or shown.append(update)),
        )
        run_loop(loop, state, checkpoints, 0)
    return getattr(checkpoints, "saved", None)


def test_too_many_skipped_updates_stop_the_run(tmp_path):
    """One update later at most, since metrics are fetched behind the next dispatch."""

    def metrics(n):
        return {"skipped_updates": max(n - 3, 0)}

    assert run(tmp_path / "a", metrics, **{"optimizer.max_skipped": 3}) == [2, 6]
    with pytest.raises(UserError, match="joint update 5: 2 updates had a gradient that is not"):
        run(tmp_path / "b", metrics, **{"optimizer.max_skipped": 1})


@pytest.mark.parametrize(
    "skips, saved",
    [
        ((), [3, 6, 9, 10]),
        ((3,), [4, 6, 9, 10]),
        ((3, 4, 5, 6, 10), [7, 9, 10]),
        ((2, 5), [3, 6, 9, 10]),
    ],
)
def test_a_state_after_a_gradient_that_is_not_finite_is_not_saved(tmp_path, skips, saved):
    """The checkpoint waits for an update that works; the last one is saved as it is."""

    def metrics(n):
        return {"skipped_updates": sum(skip <= n for skip in skips)}

    assert run(tmp_path, metrics, steps=10, saves=3) == saved


@pytest.mark.parametrize(
    ("likelihood", "warnings"), [("marginal", 1), ("plackett_luce", 0)], ids=str
)
def test_spread_logits_are_warned_of_once_under_the_marginal_form(
    tmp_path, capsys, likelihood, warnings
):
    def metrics(n):
        return {"sampler/logit_std": 0.9 * n}

    run(tmp_path, metrics, **{"objective.likelihood": likelihood})
    out = capsys.readouterr()
    assert (out.out + out.err).count("std is above 2.0") == warnings
    assert warnings == 0 or "joint update 3" in out.out + out.err


def test_every_update_has_one_row_whatever_is_saved_when(tmp_path):
    shown = []
    saved = run(tmp_path, lambda n: {"n": n}, steps=7, saves=3, shown=shown, media_every=2)
    assert saved == [3, 6, 7] and shown == [2, 4, 6, 7]
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row["n"]) for row in rows] == [(n, n) for n in range(1, 8)]
    assert all(row["num_tokens"] == 5 and row["refills"] == 0 for row in rows)
    assert [row["queries/cut"] for row in rows] == [*range(7)]  # those of the update alone
    assert (tmp_path / "rollouts.jsonl").read_text() == ""


def test_dropped_questions_are_counted_logged_and_said(tmp_path, capsys):
    def drop(update):
        return [{"question": f"q{update}", "video": "v", "error": "gone"}] if update < 3 else []

    run(tmp_path, lambda n: {}, steps=4, drop=drop)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["dropped_questions"] for row in rows] == [1, 2, 2, 2]
    log = [json.loads(line) for line in (tmp_path / "dropped.jsonl").read_text().splitlines()]
    assert [(row["step"], row["id"]) for row in log] == [(1, "q1"), (2, "q2")]
    said = capsys.readouterr().err
    assert "joint update 2: question q2 of video v dropped: gone\n" in said
    assert "joint: 2 questions dropped: 2 gone (dropped.jsonl)\n" in said


def test_rows_are_thinned_as_asked(tmp_path):
    run(tmp_path, lambda n: {}, steps=6, saves=4, **{"log_every": 3})
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [3, 6]


# --- log-probs beside the step's own --------------------------------------------------------------


class Part:
    """Stands for the rollouts of one kind of token, or for all of a batch."""

    def __init__(self, **values):
        self.values = values
        self.__dict__ |= values

    def _replace(self, **values):
        return Part(**{**self.values, **values})


@pytest.mark.parametrize(
    ("fields", "reference", "old"),
    [
        ({}, {}, ()),
        ({"rollout.updates": 2}, {}, ("mllm", "sampler")),
        ({"rollout.updates": 2, "joint.train_mllm": False}, {}, ("sampler",)),
        (
            {"rollout.updates": 3, "joint.train_sampler": False, "objective.kl_coef": 0.1},
            {"mllm": "base"},
            ("mllm",),
        ),
        ({"objective.log_kl": True}, {"mllm": "base", "sampler": "start"}, ()),
        (
            {"rollout.updates": 2, "objective.frame_kl_coef": 0.1},
            {"sampler": "start"},
            ("mllm", "sampler"),
        ),
    ],
)
def test_log_probs_are_added_where_the_objective_needs_them(fields, reference, old):
    """At the parameters that sampled for further updates on a batch, at the reference for a KL."""
    config = base()
    config.update_from_flattened_dict(fields)
    loop: Any = types.SimpleNamespace(
        run=read_config(config).training_run("joint"),
        reference=reference,
        scoring=lambda params, _: (f"query {params}", f"answer {params}"),
        draw_scoring=lambda params, _: f"draw {params}",
    )
    arrays: Any = Part(queries=Part(), answers=Part())
    state = {"mllm": "now", "sampler": "then"}
    out: Any = Loop.with_log_probs(loop, state, Rollout(arrays, [], 0, 0)).arrays
    want_tokens = {"old": "now" if "mllm" in old else None, "ref": reference.get("mllm")}
    want_draws = {"old": "then" if "sampler" in old else None, "ref": reference.get("sampler")}
    for name, part in (("query", out.queries), ("answer", out.answers)):
        want = {f"{k}_log_probs": f"{name} {v}" for k, v in want_tokens.items() if v}
        assert part.values == want
    draws = {k: v for k, v in out.values.items() if k not in ("queries", "answers")}
    assert draws == {f"{k}_draw_log_probs": f"draw {v}" for k, v in want_draws.items() if v}


def test_every_update_of_a_batch_is_in_the_row():
    """The plain names are the last one's; what the batch decides stands once."""
    config = base()
    config.rollout.updates = 3
    numbers = iter(range(1, 4))

    def step(state, _):
        n = next(numbers)
        return state + 1, {"reward": 0.5, "frac_silent": 0.1, "loss/mllm": n, "kl": 10 * n}

    loop: Any = types.SimpleNamespace(
        run=read_config(config).training_run("joint"), joint_step=step
    )
    state, metrics = Loop.update(loop, 0, Rollout(None, [], 0, 0))
    assert state == 3
    assert metrics == {
        "reward": 0.5,
        "frac_silent": 0.1,
        **{"loss/mllm": 3, "kl": 30},
        **{f"update_{n}/loss/mllm": n for n in (1, 2, 3)},
        **{f"update_{n}/kl": 10 * n for n in (1, 2, 3)},
    }


# --- validation -----------------------------------------------------------------------------------


def curve(folder):
    rows = [json.loads(line) for line in (folder / "validation.jsonl").read_text().splitlines()]
    return [(row["step"], row["joint"]) for row in rows]


def test_validations_come_when_they_are_due_and_are_saved(tmp_path):
    scores = iter([0.1, 0.3, 0.5, 0.4])
    saved = run(
        tmp_path,
        lambda n: {},
        steps=5,
        saves=100,
        validation=lambda params, label: ({"joint": next(scores)}, {"joint": 1.0}, {}),
        validate_every=2,
    )
    assert curve(tmp_path) == [(0, 0.1), (2, 0.3), (4, 0.5), (5, 0.4)]
    assert saved == [2, 4, 5]
    best = sorted(path.name for path in (tmp_path / "best").iterdir())
    assert best == ["2", "4"]  # where a run may resume, the best until then is there


def test_a_training_may_end_early(tmp_path, capsys):
    scores = iter([0.9, 0.3, 0.5, 0.4, 0.5, 0.6])
    saved = run(
        tmp_path,
        lambda n: {},
        steps=8,
        saves=100,
        validation=lambda params, label: ({"joint": next(scores)}, {"joint": 1.0}, {}),
        validate_every=1,
        patience=2,
    )
    assert saved == [1, 2, 3, 4]  # equal to the best is no new best
    assert "joint ends at update 4 of 8: 2 validations without" in capsys.readouterr().err


@pytest.mark.parametrize("every", [0, 2])
def test_without_a_split_nothing_is_validated(tmp_path, every):
    assert run(tmp_path, lambda n: {}, steps=4, saves=2, validate_every=every) == [2, 4]
    assert (tmp_path / "validation.jsonl").read_text() == ""


@pytest.mark.soak
def test_a_disk_that_is_full_at_any_moment_is_one_error(mount, tmp_path, capfd, caplog):
    def train(folder):
        def show(writer, update, *_):
            writer.texts(update, {"rollout": "x" * 3000})
            writer.images(update, {"key_frames": pixels})

        pixels = np.random.default_rng(0).integers(0, 256, (100, 100, 3), np.uint8)
        scores = iter(range(20))
        with saved(folder / "checkpoints", keep=2) as checkpoints:
            run(
                folder,
                lambda n: {},
                steps=4,
                saves=1,
                checkpoints=checkpoints,
                show=show,
                size=20_000,
                drop=lambda n: [{"question": f"q{n}", "video": "v", "error": "long"}],
                validation=lambda params, label: ({"joint": next(scores)}, {"joint": 1.0}, {}),
                validate_every=1,
                media_every=1,
            )

    train(tmp_path / "whole")
    sizes = (path.stat().st_size for path in (tmp_path / "whole").rglob("*") if path.is_file())
    whole = sum(sizes) // 1000
    for size in range(20, whole, whole // 40):
        folder = mount(f"size={size}k")
        with pytest.raises(UserError) as error:
            train(folder)
        (line,) = error.value.lines
        assert "the disk is full: " in line, (size, line)
    gc.collect()  # what nobody waits for any more speaks when it is collected
    printed = capfd.readouterr()
    assert "Traceback" not in printed.out + printed.err + caplog.text, printed
