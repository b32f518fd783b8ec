"""Selectors' own prompts: numbered frames, pooled frames, blocks, each against prompts by hand."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from msjoe_jax.errors import UserError
from msjoe_jax.models.qwen2_5_vl.rotary import mrope_cos_sin
from msjoe_jax.rollout.assemble import Frame, Visual
from msjoe_jax.rollout.candidates import BatchCandidates
from msjoe_jax.rollout.frames import to_patches
from msjoe_jax.rollout.generate import prefill
from msjoe_jax.rollout.programs import Patches, frame_features, pool_features
from msjoe_jax.rollout.selector_prompts import rounded_up
from msjoe_jax.selectors import SELECTORS, cacheflow
from msjoe_jax.selectors.base import Ask, Block, Selection
from msjoe_jax.selectors.replies import numbered
from msjoe_jax.text import prompts
from tests.support.system import changed, colour_questions, noise_videos, tiny_run, with_damage
from tests.support.tiny import tiny_config

B, K, P = 3, 4, 4
COUNTS = {"v0": 3, "v1": 9, "v2": 20}  # the last is thinned to 16 candidates
QUERIES = [[("red cup",)], [("blue",)], [("the cup",)]]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("asking")
    reader = noise_videos(folder / "records", COUNTS)
    run = tiny_run(tiny_config(folder), reader, colour_questions(reader.ids, B))
    louder = {"layers": 4.0, "vision": 2.0}
    run.params["mllm"] = jax.tree_util.tree_map_with_path(
        lambda path, x: x * next((f for n, f in louder.items() if n in str(path)), 1.0),
        run.params["mllm"],
    )
    return run


def candidates_of(run, config=None, weight=None):
    episodes = run.episodes(config)
    (batch,) = episodes.batches(B)
    weight = np.ones(B, np.float32) if weight is None else weight
    settings = {"update": 0, "draws": 1, "sample": False, "weight": weight}
    return BatchCandidates(episodes, run.params, batch, QUERIES, **settings), batch, episodes


def features_of(run, batch, b, frames, budget=16):
    """Features [n, P, D] of candidate frames, each encoded by itself."""
    stored = run.reader.frames(f"v{b}", batch["frame_index"][b][list(frames)])
    pixels, grids = to_patches(stored, run.system, budget)

    @jax.jit
    def encode(params, patches):
        return frame_features(run.system, run.system.mllm(params), patches)

    return np.asarray(encode(run.params["mllm"], Patches(pixels[:, None], grids[:, None])))


def prefilled(run, row, features):
    """Attention [layers, heads, S, S], and unrotated keys and queries, of one prompt by hand.

    Of all its tokens but the last, with a dense softmax in float64.
    """
    language = run.system.mllm(run.params["mllm"]).language
    n = int(row["segments"].sum())
    index = row["feature_index"][:n]
    flat = features.reshape(-1, features.shape[-1])
    embeds = np.asarray(language.embed(jnp.asarray(row["tokens"][:n])))
    h = jnp.asarray(np.where((index >= 0)[:, None], flat[index], embeds)[None], jnp.float32)
    cos, sin = mrope_cos_sin(jnp.asarray(row["positions"][None, :, :n]), language.config)
    graphdef, layers = nnx.split(language.layers)
    attention, keys, queries = [], [], []
    for y in range(language.config.layers):
        block = nnx.merge(graphdef, jax.tree.map(lambda x, y=y: x[y], layers))
        plain = block.qkv(h, jnp.ones_like(cos), jnp.zeros_like(sin))
        queries.append(np.asarray(plain[0])[0])
        keys.append(np.asarray(plain[1])[0])
        q, k, v = (np.asarray(x)[0].astype(np.float64) for x in block.qkv(h, cos, sin))
        out, weights = np.zeros_like(q), []
        for head in range(q.shape[1]):
            group = head * k.shape[1] // q.shape[1]
            scores = q[:, head] @ k[:, group].T / np.sqrt(q.shape[-1])
            scores = np.where(np.tri(n, dtype=bool), scores, -np.inf)
            p = np.exp(scores - scores.max(-1, keepdims=True))
            p /= p.sum(-1, keepdims=True)
            out[:, head] = p @ v[:, group]
            weights.append(p)
        h = block.finish(h, jnp.asarray(out[None], jnp.float32))
        attention.append(np.array(weights))
    return np.array(attention), keys, queries


# --- numbered frames ------------------------------------------------------------------------------


def test_labels_stand_before_their_frames(made, monkeypatch):
    candidates, _, episodes = candidates_of(made)
    seen = []
    complete = episodes.complete
    monkeypatch.setattr(
        episodes, "complete", lambda *a, **k: seen.append((a, k)) or complete(*a, **k)
    )
    asks = [[Ask("what ?", (2, 0), numbered(2)), Ask("the cup")]] * B
    replies = candidates.ask(asks)
    assert [len(row) for row in replies] == [2] * B
    ((_, _, rows, _, _), how) = seen[0]
    tokens = rows[1][0]["tokens"][: rows[1][0]["segments"].sum()].tolist()
    text = episodes.text.tokenizer.decode(tokens)
    picture = " ".join(["<|vision_start|>", *["<|image_pad|>"] * 4, "<|vision_end|>"])
    label = [episodes.text.tokenizer.encode(f"[{i}]") for i in range(2)]
    assert text.count(picture) == 2
    first = tokens.index(made.system.mllm_config.vision_start_token_id)
    assert tokens[first - 3 : first] == label[0]
    second = tokens.index(made.system.mllm_config.vision_start_token_id, first + 1)
    assert tokens[second - 4 : second] == episodes.text.tokenizer.encode("\n[1]")
    assert how["sampling"].max_tokens == made.config.prompt.query_tokens
    # Rows are as long as the longest of them needs, rounded up.
    assert {len(row["tokens"]) for own in rows for row in own} == {64}


def test_an_ask_has_lengths_of_its_own(made, monkeypatch):
    longer = {"prompt.selector_prompt_tokens": 300, "prompt.selector_tokens": 3}
    candidates, _, episodes = candidates_of(made, changed(made.config, **longer))
    asks = [[Ask("cup " * 150, tuple(range(3)), numbered(3), 1)]] * B
    (reply,), *_ = candidates.ask(asks)
    assert len(episodes.text.tokenizer.encode(reply)) <= 3 and not episodes.failures


@pytest.mark.soak
def test_room_is_what_the_longest_text_leaves(made):
    """Exactly: so many frames can be shown, and one more cannot."""
    candidates, _, _ = candidates_of(made)
    texts = ["what ?", "what colour is the cup ? " * 3, "red"]
    for label, tokens in (("", 0), (numbered(12)[-1], 0), ("[0]", 1)):
        room = candidates.room(texts, label, tokens)
        for more in (0, 1):
            weight = np.ones(B, np.float32)
            own, _, _ = candidates_of(made, weight=weight)
            labels = (label,) * (room + more) if label else ()
            frames = (0,) * (room + more)
            own.ask([[Ask(text, frames, labels, tokens)] for text in texts])
            assert weight.tolist() == [1, 1 - more, 1]
    assert candidates.room(["cup " * 500] * B) == 1
    few = changed(made.config, **{"prompt.numbered_frames": 2})
    assert candidates_of(made, few)[0].room(texts, "[0]") == 2
    assert candidates_of(made, few)[0].room(texts) > 2


@pytest.mark.parametrize(
    ("what", "use"),
    [
        ("numbers its frames", lambda c: c.ask([[Ask("what ?", (0,), ("[0]",))]] * B)),
        ("pools frames", lambda c: c.option_attention([[0]] * B, 0, 1)),
        ("drops visual tokens", lambda c: c.neighbour_cosines()),
    ],
)
def test_some_selectors_need_images(made, what, use):
    config = changed(made.config, **{"frames.mode": "video"})
    candidates, _, _ = candidates_of(made, config)
    with pytest.raises(UserError, match=rf"{what} needs config\.frames\.mode=image"):
        use(candidates)


@pytest.mark.parametrize(("tokens", "want"), [(1, 64), (64, 64), (65, 96), (97, 128), (129, 192)])
def test_lengths_are_few(tokens, want):
    assert rounded_up(tokens) == want
    sizes = {rounded_up(n) for n in range(1, 33_000, 7)}
    assert len(sizes) <= 20 and all(rounded_up(n) < 1.5 * n + 64 for n in range(1, 9000, 11))


# --- attention ------------------------------------------------------------------------------------


def test_pooling_averages_squares_and_the_rest_of_the_edges():
    rng = np.random.default_rng(0)
    grids = np.array([[[4, 6], [6, 4]], [[2, 12], [0, 0]]], np.int32)  # 2×3, 3×2, 1×6, unused
    features = rng.normal(size=(2, 2 * 6, 5)).astype(np.float32)
    got = np.asarray(pool_features(jnp.asarray(features), jnp.asarray(grids), 2, 2))
    for b, u in ((0, 0), (0, 1), (1, 0)):
        height, width = grids[b, u] // 2
        own = features[b, 6 * u : 6 * u + 6].reshape(height, width, 5)
        want = [
            own[y : y + 2, x : x + 2].mean((0, 1))
            for y in range(0, height, 2)
            for x in range(0, width, 2)
        ]
        np.testing.assert_allclose(got[b, 6 * u : 6 * u + len(want)], want, atol=1e-6)
    assert pool_features(jnp.asarray(features), jnp.asarray(grids), 2, 1).tolist() == (
        features.tolist()
    )


@pytest.mark.parametrize(("tokens", "side"), [(1, 2), (4, 1)])
@pytest.mark.parametrize("layer", [0, 2])
def test_option_attention_is_the_softmax_over_the_prompt(made, tokens, side, layer):
    """Four visual tokens a frame, or one: the mean of the four."""
    candidates, batch, episodes = candidates_of(made)
    frames = [[0, 2], [8, 1, 3], [15, 0, 4]]
    got = candidates.option_attention(frames, layer, tokens)
    encode = episodes.text.tokenizer.encode
    for b, (own, question) in enumerate(zip(frames, made.questions, strict=True)):
        text = prompts.question_text(question.question, question.options)
        head, _, options = text.partition("\n")
        before, after = prompts.turns("", prompts.plain(text))
        tail = after[len(text) :]
        features = features_of(made, batch, b, own)
        grid = (4, 4)
        if side == 2:
            features, grid = features.mean(1, keepdims=True), (2, 2)
        n = features.shape[1]
        parts = [before, *(Visual((Frame(i * n, grid),)) for i in range(len(own)))]
        row = episodes.assembler.prompt([*parts, f"{head}\n", options, tail])
        attention = prefilled(made, row, features)[0][layer].mean(0)
        end = len(row["tokens"]) + 1 - len(encode(tail))
        begin = end - len(encode(options))
        assert row["tokens"][begin:end].tolist() == encode(options)
        shown = row["feature_index"]
        want = np.stack(
            [attention[begin:end][:, (shown >= 0) & (shown // n == i)].sum(-1)
             for i in range(len(own))], -1
        )  # fmt: skip
        assert got[b].shape == want.shape
        np.testing.assert_allclose(got[b], want, atol=1e-5)
        assert want.std() > 1e-3


def test_dafs_on_a_real_batch(made):
    candidates, batch, _ = candidates_of(made)
    selection = SELECTORS["dafs"].select(candidates, K)
    for b in range(B):
        scores = selection.logits[b, 0]
        count = int(batch["frame_mask"][b].sum())
        assert np.isneginf(scores[count:]).all() and (scores[np.isfinite(scores)] <= 1).all()
        chosen = selection.frames[b, 0, 0]
        assert (chosen >= 0).sum() == min(K, np.isfinite(scores).sum())
        assert scores[chosen[chosen >= 0]].min() >= np.sort(scores)[::-1][: (chosen >= 0).sum()][-1]


def test_a_video_that_cannot_be_read_drops_its_question_alone(made, tmp_path):
    reader = with_damage(made.reader, tmp_path / "records", {"v1": 6})
    run = dataclasses.replace(made, reader=reader)
    for select in ("dafs", "cacheflow_like", "gens_like", "provca_like"):
        weight = np.ones(B, np.float32)
        candidates, _, episodes = candidates_of(run, weight=weight)
        selection = SELECTORS[select].select(candidates, K)
        if weight[1]:  # its sixth frame may not have been looked at
            assert select == "provca_like"
            continue
        assert weight.tolist() == [1, 0, 1] and len(episodes.failures) == 1
        assert episodes.failures[0]["error"].startswith("frames unreadable")
        other, _, _ = candidates_of(made)
        want = SELECTORS[select].select(other, K).frames
        np.testing.assert_array_equal(selection.frames[[0, 2]], want[[0, 2]])


# --- features, keys and queries -------------------------------------------------------------------


def test_cosines_are_those_of_the_frame_before(made, monkeypatch):
    """Whether all frames are encoded at once or in parts."""
    candidates, batch, _ = candidates_of(made)
    whole = candidates.neighbour_cosines()
    for b, got in enumerate(whole):
        count = int(batch["frame_mask"][b].sum())
        features = features_of(made, batch, b, range(count)).astype(np.float64)
        features /= np.linalg.norm(features, axis=-1, keepdims=True)
        want = (features[1:] * features[:-1]).sum(-1)
        assert got.shape == (count, P) and (got[0] == -1).all()
        np.testing.assert_allclose(got[1:], want, atol=1e-5)
    monkeypatch.setattr("msjoe_jax.rollout.selector_prompts.FRAMES_AT_ONCE", 5)
    for got, want in zip(candidates_of(made)[0].neighbour_cosines(), whole, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-6)


def test_keys_are_the_means_of_blocks_prefilled_alone(made, monkeypatch):
    monkeypatch.setattr("msjoe_jax.rollout.selector_prompts.BLOCKS_AT_ONCE", 2)
    monkeypatch.setattr("msjoe_jax.rollout.selector_prompts.FRAMES_AT_ONCE", 6)
    candidates, batch, episodes = candidates_of(made)
    yes, no = True, False
    some = [
        Block((0, 1), ((yes, yes, yes, yes), (no, yes, no, yes))),
        Block((2,), ((no, no, yes, no),)),
        Block((0, 2), ((yes, no, no, no), (yes, yes, no, no))),
    ]
    blocks = [some[:1], some, some[1:]]
    got = candidates.block_keys(blocks)
    for b, own in enumerate(blocks):
        assert len(got[b]) == len(own)
        for block, keys in zip(own, got[b], strict=True):
            features = features_of(made, batch, b, block.frames)
            frames = [Visual((Frame(i * P, (4, 4), keep),)) for i, keep in enumerate(block.keep)]
            row = episodes.assembler.prompt(frames)
            _, by_hand, _ = prefilled(made, row, features)
            shown = row["feature_index"] >= 0
            assert shown.sum() == sum(map(sum, block.keep))
            for place, layer in enumerate((0, -1)):
                want = by_hand[layer][shown].mean(0).reshape(-1)
                np.testing.assert_allclose(keys[place], want, atol=1e-5)


def test_queries_are_the_means_of_the_questions_tokens(made):
    candidates, _, episodes = candidates_of(made)
    got = candidates.question_queries()
    for b, question in enumerate(made.questions):
        text = prompts.question_text(question.question, question.options)
        row = episodes.assembler.prompt(prompts.turns("", prompts.plain(text)))
        _, _, queries = prefilled(made, row, np.zeros((1, 1, 64)))
        for place, layer in enumerate((0, -1)):
            want = queries[layer].mean(0)  # as many heads as key heads
            np.testing.assert_allclose(got[b, place], want.reshape(-1), atol=1e-5)


def test_with_nothing_dropped_it_is_the_plain_prefill(made):
    """The prompts of answer, and their keys and values, of videos of at most K frames."""
    candidates, batch, episodes = candidates_of(made)
    only = functools.partial(cacheflow.select, k=20, threshold=2.0)
    selection = only(candidates)
    counts = batch["frame_mask"].sum(-1)
    assert (selection.frames >= 0).sum((1, 2, 3)).tolist() == counts.tolist()
    plain = Selection(np.where(np.arange(80) < counts[:, None], np.arange(80), -1)[:, None, None])
    longer = changed(made.config, **{"prompt.answer_prompt_tokens": 160})
    caches = []
    for one in (selection, plain):
        episodes = made.episodes(longer)
        rows, patches = episodes.answer_prompts(batch, one, np.ones(B, np.float32))
        assert not episodes.failures

        @jax.jit
        def run(params, prompt, patches):
            model = made.system.mllm(params)
            return prefill(model, prompt, frame_features(made.system, model, patches))[0]

        caches.append(run(made.params["mllm"], episodes.stack(rows), episodes.put(patches)))
    for kept, want in zip(*(jax.tree.leaves(cache) for cache in caches), strict=True):
        assert np.abs(np.asarray(want)).max() > 0.1
        np.testing.assert_allclose(kept, want, atol=1e-5)
