"""Rows of the log: a draw is repeated from its row alone."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msjoe_jax.commands import replay
from msjoe_jax.draws import DRAWS
from msjoe_jax.errors import UserError
from msjoe_jax.rollout.log import RolloutRecord, log_row, logits_of, redraw, similarity_of
from msjoe_jax.text.prompts import QueryReply
from tests.support.system import changed, colour_questions, noise_videos, tiny_run
from tests.support.tiny import tiny_config

B, I, J, K = 4, 2, 2, 4
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("log")
    reader = noise_videos(folder / "records", {f"v{v}": 3 + 3 * v for v in range(6)})
    config = tiny_config(folder)
    config.rollout.questions, config.rollout.query_rollouts = B, I
    config.rollout.frame_draws = J
    return tiny_run(config, reader, colour_questions(reader.ids, 12))


@pytest.mark.parametrize("law", DRAWS)
def test_a_draw_is_replayed_from_the_log(made, tmp_path, law):
    config = changed(made.config, **{"objective.likelihood": law})
    rollout = made.collector(config).batch(made.params, 5)
    log = tmp_path / "rollouts.jsonl"
    rows = [
        log_row(record, update=5, seed=0, selector="msjoe", law=law) for record in rollout.records
    ]
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for record in rollout.records:
        row = replay.find_row(log, 5, record.question.id)
        np.testing.assert_array_equal(redraw(row), record.draws)
        np.testing.assert_array_equal(row["selected"], record.frames)
        if law == "cb":  # sets come in time order
            assert all((np.diff(d[d >= 0]) > 0).all() for d in record.draws.reshape(-1, K))
        valid = record.frame_mask
        stored = similarity_of(row)  # halves: 11 bits of numbers up to 1
        np.testing.assert_allclose(stored, record.similarity[..., valid], atol=2**-12)
        np.testing.assert_array_equal(logits_of(row), record.logits[:, valid].astype(np.float32))
        assert (row["frames"], row["candidates"]) == (valid.sum(), len(valid))
        assert (row["correct"], row["answers"]) == (record.correct.tolist(), record.answers)
        assert row["queries"] == [list(reply.queries) for reply in record.replies]
    assert len({record.draws.shape for record in rollout.records}) == 1
    free = next(row for row in rows if row["frames"] > 2 * K)
    for other in ({**free, "step": 6}, {**free, "seed": 1}, {**free, "id": "another"}):
        assert (redraw(other) != np.array(free["draws"])).any()


@given(st.integers(0, 2**31 - 1), st.integers(1, 12), st.data())
def test_a_row_holds_what_is_valid(seed, valid, data):
    """Logits come back to the bit, rows of S to half precision, whatever is masked."""
    rng, T = np.random.default_rng(seed), 12
    mask = np.arange(T) < valid
    record = RolloutRecord(
        question=colour_questions(["v"], 1)[0],
        replies=[QueryReply(("red cup",), 1, True)] * I,
        similarity=np.where(mask, rng.normal(size=(I, 2, T)), np.nan).astype(np.float32),
        logits=np.where(mask, rng.normal(size=(I, T)), -np.inf).astype(np.float32),
        frames=np.full((I, J, K), -1),
        draws=np.full((I, J, K), -1),
        frame_mask=mask,
        frame_index=np.arange(T),
        timestamps=np.arange(T) / 2,
        answers=[""] * (I * J),
        correct=np.zeros((I, J), np.float32),
        weight=1.0,
    )
    law = data.draw(st.sampled_from(sorted(DRAWS)))
    row = log_row(record, update=3, seed=seed, selector="msjoe", law=law)
    row = json.loads(json.dumps(row))
    again = similarity_of(row)
    np.testing.assert_array_equal(again, record.similarity[..., mask].astype(np.float16))
    drawn = redraw(row)
    assert drawn.shape == (I, J, K) and (drawn < valid).all()
    for one in drawn.reshape(-1, K):
        kept = one[one >= 0].tolist()
        assert len(set(kept)) == len(kept) == min(valid, K)


def test_a_missing_row_is_named(tmp_path):
    log = tmp_path / "rollouts.jsonl"
    with pytest.raises(UserError, match=r"rollouts\.jsonl: cannot be read \(No such file"):
        replay.find_row(log, 1, "q")
    log.write_text('{"step": 1, "id": "q"}\n{"step"')
    assert replay.find_row(log, 1, "q")
    with pytest.raises(UserError, match=r"rollouts\.jsonl:2: not JSON"):
        replay.find_row(log, 2, "q")
    log.write_text('{"step": 1, "id": "q"}\n')
    with pytest.raises(UserError, match="no row of step 2 and question 'q'"):
        replay.find_row(log, 2, "q")
    for selector in ("topk", "unheard-of"):
        with pytest.raises(UserError, match=f"selector '{selector}' draws nothing"):
            redraw({"selector": selector})
