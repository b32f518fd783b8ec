"""Intervals, the fixed selectors, oracle frames and the table."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from msjoe_jax.config import base
from msjoe_jax.data.questions import Question, save_questions
from msjoe_jax.data.records import RecordWriter
from msjoe_jax.errors import UserError
from msjoe_jax.evaluation import evaluate
from msjoe_jax.rollout.episode import Episodes
from msjoe_jax.rollout.programs import Programs

# --- intervals ------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson(pair):
    """Tolerance: 1.96 stands for the normal quantile 1.959964."""
    right, count = pair
    want = stats.binomtest(right, count).proportion_ci(method="wilson")
    np.testing.assert_allclose(evaluate.wilson(right, count), [want.low, want.high], atol=1e-5)


def test_wilson_without_questions_says_nothing():
    assert evaluate.wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize("seed", range(5))
def test_paired_difference(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 2, (2, 50 + seed)).astype(float)
    want = stats.norm.interval(0.95, (a - b).mean(), stats.sem(a - b))
    mean, low, high = evaluate.paired_difference(a, b)
    assert mean == pytest.approx(a.mean() - b.mean())
    np.testing.assert_allclose([low, high], want, atol=1e-5)
    # Pairing matters: what the arms share is not noise.
    assert evaluate.paired_difference(a, a) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("count", [0, 1])
def test_paired_difference_of_too_few_is_wide(count):
    mean, low, high = evaluate.paired_difference(np.ones(count), np.zeros(count))
    assert mean == count and (low, high) == (mean - 1, mean + 1)


# --- selectors ------------------------------------------------------------------------------------

B, I, Q, T, E, K, SMOOTH = 3, 2, 2, 13, 4, 4, 5
VALID = (13, 6, 3)


class Clip:
    """Text i is embedded as row i of the parameters."""

    def __init__(self, table):
        self.encode_text = lambda tokens: table[tokens[:, 0]]


SYSTEM = types.SimpleNamespace(
    clip_model=Clip,
    sampler=lambda scale: (
        lambda s, q, f: jnp.where(f, scale * jnp.where(q[..., None], s, -1.0).max(1), -jnp.inf)
    ),
)
RNG = np.random.default_rng(0)
TABLE = RNG.normal(size=(B * I * Q, E)).astype(np.float32)
EMBEDDINGS = RNG.normal(size=(B, T, E)).astype(np.float32)
FRAME_MASK = np.arange(T) < np.array(VALID)[:, None]
QUERY_MASK = np.array([[[1, 1], [1, 0]]] * B, bool)
TOKENS = np.arange(B * I * Q, dtype=np.int32).reshape(B, I, Q, 1)
PROGRAMS = Programs(SYSTEM, SMOOTH)


def select(selector, rows=slice(None), embeddings=EMBEDDINGS, draws=1):
    out = PROGRAMS.select(
        jnp.asarray(TABLE),
        jnp.float32(3.0),
        TOKENS[rows],
        QUERY_MASK[rows],
        embeddings[rows],
        FRAME_MASK[rows],
        np.int32(0),
        np.int32(1),
        np.arange(B, dtype=np.int32)[rows],
        selector=selector,
        draws=draws,
        k=K,
    )
    return jax.tree.map(np.asarray, out)


def cosines(b, i):
    """[queries that count, valid frames] in float64."""
    text = TABLE[TOKENS[b, i, QUERY_MASK[b, i], 0]].astype(float)
    seen = EMBEDDINGS[b, : VALID[b]].astype(float)
    norm = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)  # noqa: E731
    return norm(text) @ norm(seen).T


def smoothed(row):
    half = SMOOTH // 2
    return [row[max(0, t - half) : t + half + 1].mean() for t in range(len(row))]


@pytest.mark.parametrize("selector", ["topk", "topk_smooth", "sampler"])
def test_top_k_selectors(selector):
    bad = np.where(FRAME_MASK[..., None], EMBEDDINGS, np.nan)  # padding may hold anything
    out = select(selector, embeddings=bad)
    for b, i in np.ndindex(B, I):
        rows = cosines(b, i)
        np.testing.assert_allclose(
            out.similarity[b, i][QUERY_MASK[b, i]][:, : VALID[b]], rows, atol=1e-6
        )
        if selector == "topk_smooth":
            rows = np.array([smoothed(row) for row in rows])
        order = np.argsort(-rows.max(0))[:K]
        valid = out.draw.valid[b, i, 0]
        assert valid.sum() == min(K, VALID[b])
        np.testing.assert_array_equal(out.draw.indices[b, i, 0][valid], order)


def test_uniform_takes_the_middles_of_equal_parts():
    out = select("uniform")
    for b, i in np.ndindex(B, I):
        n = VALID[b]
        want = sorted({int((k + 0.5) * n / K) for k in range(K)})
        valid = out.draw.valid[b, i, 0]
        assert sorted(out.draw.indices[b, i, 0][valid]) == want
        assert len(want) == min(K, n)


def test_draws_depend_on_the_question_not_on_its_place():
    out = select("sample", draws=8)
    for b in range(B):
        picked = [d[v] for d, v in zip(out.draw.indices[b, 0], out.draw.valid[b, 0], strict=True)]
        assert all(len(set(p)) == len(p) == min(K, VALID[b]) for p in picked)
        assert all((p < VALID[b]).all() for p in picked)
    assert len({tuple(d) for d in out.draw.indices[0].reshape(-1, K)}) > 8
    turned = select("sample", slice(None, None, -1), draws=8)
    np.testing.assert_array_equal(turned.draw.indices, out.draw.indices[::-1])


# --- oracle frames, table, names ------------------------------------------------------------------


def question(piles):
    return Question("q1", "v", "?", ("a", "b"), 0, extra={"oracle_frames": piles})


@settings(deadline=None)
@given(st.data(), st.integers(1, 40), st.integers(1, 8))
def test_oracle_frames_come_first_and_the_rest_is_filled(data, count, k):
    frames = st.lists(st.integers(0, count - 1), min_size=1, max_size=5, unique=True)
    piles = data.draw(st.lists(frames, min_size=1, max_size=3))
    asked = question([list(p) for p in piles])
    chosen = evaluate._oracle_frames(asked, k, range(count))
    shown = {t for pile in piles for t in pile}
    assert chosen == sorted(set(chosen)) and all(0 <= t < count for t in chosen)
    assert len(chosen) == min(k, count)
    assert len(shown & set(chosen)) == min(k, len(shown))
    if k >= len(piles):
        assert all(set(pile) & set(chosen) for pile in piles)  # every target is there
    assert asked.extra["oracle_frames"] == piles


def test_a_question_without_oracle_frames_is_named():
    with pytest.raises(UserError, match=r"question q1: .*oracle_frames"):
        evaluate._oracle_frames(question([]), 4, range(10))


def test_previews_of_another_video():
    videos = ["a", "a", "b", "c", "c"]
    asked = [Question(str(i), v, "?", ("x", "y"), 0) for i, v in enumerate(videos)]
    mark = np.arange(5)
    moved = ("preview_mask", "preview_times", "duration")
    batch = {"preview": (mark * 10, mark * 100), "embeddings": mark, **dict.fromkeys(moved, mark)}
    swapped = evaluate._other_previews(batch, asked)
    order = [2, 2, 3, 0, 0]
    assert all(swapped[key].tolist() == order for key in moved)
    assert [list(x) for x in swapped["preview"]] == [list(mark[order] * s) for s in (10, 100)]
    assert swapped["embeddings"] is mark and batch["preview_mask"] is mark
    with pytest.raises(UserError, match="one video only"):
        evaluate._other_previews(batch, asked[:2])


def test_table():
    table = {
        "joint": {"accuracy": 0.75, "ci95": [0.5, 0.9]},
        "uniform": {
            "accuracy": 0.25,
            "ci95": [0.1, 0.5],
            "joint_minus": {"difference": 0.5, "ci95": [0.2, 0.8]},
        },
    }
    head, joint, uniform = evaluate.format_table(table).splitlines()
    assert "accuracy" in head and "0.750" in joint and "[0.500, 0.900]" in joint
    assert uniform.startswith("uniform") and "+0.500 [+0.200, +0.800]" in uniform


@pytest.mark.parametrize(
    "selectors, words",
    [
        (("uniform", "best"), "config.evaluate.selectors: 'best' is not one of blind, uniform"),
        (("uniform", "joint"), "selector joint needs the stage 'joint'"),
    ],
)
def test_unknown_or_unavailable_selectors_are_named(tmp_path, selectors, words):
    config = base()
    config.evaluate.selectors = selectors
    with pytest.raises(UserError, match=words):
        evaluate.evaluate(config, tmp_path, PROGRAMS, {"base": {}})


@pytest.mark.parametrize(
    "selector, extra, words",
    [
        ("uniform", {}, None),
        ("oracle", {"oracle_frames": [[0, 1], []]}, None),
        ("oracle_queries", {"oracle_queries": ["cup"]}, None),
        ("oracle", {}, r"question q: extra\.oracle_frames must be lists of frame numbers; leave"),
        ("oracle", {"oracle_frames": [0, 1]}, "must be lists"),
        ("oracle_queries", {}, r"extra\.oracle_queries must be 1 to config\.prompt\.max_queries t"),
        ("oracle_queries", {"oracle_queries": ["cup"] * 9}, "must be 1 to"),
    ],
)
def test_heldout_data_are_checked_before_training(tmp_path, selector, extra, words):
    with RecordWriter(tmp_path / "records") as writer:
        writer.add("v", [(0.0, np.zeros((8, 8, 3), np.uint8))])
    config = base()
    config.evaluate.selectors = (selector,)
    config.data.heldout_records = str(tmp_path / "records")
    config.data.heldout_questions = file = str(tmp_path / "questions.jsonl")
    save_questions(file, [Question("q", "v", "?", ("a", "b"), 0, extra=extra)])
    if words:
        with pytest.raises(UserError, match=words):
            evaluate.load_heldout(config, embedded=False)
        return
    questions, reader = evaluate.load_heldout(config, embedded=False)
    assert (len(questions), reader.ids) == (1, ["v"])
    with pytest.raises(UserError, match="no CLIP embeddings"):
        evaluate.load_heldout(config)
    save_questions(file, [Question("q", "elsewhere", "?", ("a", "b"), 0, extra=extra)])
    with pytest.raises(UserError, match="video 'elsewhere' is not in"):
        evaluate.load_heldout(config, embedded=False)


def test_a_searched_text_cannot_hold_special_tokens():
    seen = []
    system = types.SimpleNamespace(
        tokenizer=object(),
        clip_tokenizer=types.SimpleNamespace(encode=lambda text: seen.append(text) or [5, 6]),
        clip=types.SimpleNamespace(context=6),
        clip_start_end=lambda: (1, 2),
        qwen=types.SimpleNamespace(vision=None),
    )
    episodes = Episodes(base(), types.SimpleNamespace(system=system), None, [])
    tokens, mask = episodes.query_tokens([[("cup <|endoftext|> dog",)]])
    assert seen == ["cup < |endoftext|> dog"]
    assert tokens[0, 0, :2].tolist() == [[1, 5, 6, 2, 0, 0], [1, 2, 0, 0, 0, 0]]
    assert mask[0, 0].tolist() == [True, False, False, False]
