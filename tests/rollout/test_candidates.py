"""What selectors see of a batch: rows of S, replies and attention of the MLLM, all on demand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from msjoe_jax.models.qwen2_5_vl.rotary import mrope_cos_sin
from msjoe_jax.rollout.assemble import Frame
from msjoe_jax.rollout.candidates import BatchCandidates
from msjoe_jax.rollout.frames import to_patches
from msjoe_jax.rollout.generate import generate
from msjoe_jax.rollout.programs import Patches, frame_features
from msjoe_jax.rollout.selector_prompts import SelectorPrompts
from msjoe_jax.selectors import SELECTORS
from msjoe_jax.selectors.base import Ask, Selection, Selector
from msjoe_jax.signals import SIGNALS
from msjoe_jax.signals.base import Signal
from msjoe_jax.text import prompts
from tests.support.system import (
    changed,
    colour_questions,
    noise_videos,
    tiny_run,
    with_damage,
)
from tests.support.tiny import tiny_config

B, I, Q, T, K = 3, 2, 2, 16, 4
COUNTS = {"v0": 3, "v1": 9, "v2": 20}  # the last is thinned to T candidates
QUERIES = [
    [("red cup", "dog"), ("kitchen",)],
    [("blue",), ("green", "white")],
    [("what colour",), ("the cup",)],
]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("candidates")
    reader = noise_videos(folder / "records", COUNTS)
    run = tiny_run(tiny_config(folder), reader, colour_questions(reader.ids, B))
    # Layers loud enough that replies and attention depend on what is shown.
    louder = {"layers": 4.0, "vision": 2.0}
    run.params["mllm"] = jax.tree_util.tree_map_with_path(
        lambda path, x: x * next((f for n, f in louder.items() if n in str(path)), 1.0),
        run.params["mllm"],
    )
    return run


def candidates_of(run, config=None, **how):
    episodes = run.episodes(config)
    (batch,) = episodes.batches(B)
    settings = {"update": 0, "draws": 1, "sample": False, "weight": np.ones(B, np.float32)} | how
    return BatchCandidates(episodes, run.params, batch, QUERIES, **settings), batch


# --- the rows of S --------------------------------------------------------------------------------


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def cosines(run, candidates, batch):
    """By hand, 0 where masked; and which queries there are."""
    tokens, mask = run.episodes().text.clip_rows(QUERIES)
    model = run.system.clip_model(run.params["clip"])
    text = np.asarray(model.encode_text(jnp.asarray(tokens.reshape(-1, tokens.shape[-1]))))
    text = unit(text.reshape(B, I, Q, -1).astype(np.float64))
    with np.errstate(invalid="ignore"):
        rows = np.einsum("biqe,bte->biqt", text, unit(batch["embeddings"].astype(np.float64)))
    shown = mask[..., None] & batch["frame_mask"][:, None, None]
    return np.where(shown, rows, 0), mask


def test_rows_of_one_signal(made):
    candidates, batch = candidates_of(made)
    want, mask = cosines(made, candidates, batch)
    np.testing.assert_allclose(candidates.similarity, want, atol=1e-5)
    np.testing.assert_array_equal(candidates.query_mask, mask)
    assert mask.tolist() == [[[True, len(q) > 1] for q in row] for row in QUERIES]


def test_queries_that_clip_cuts_are_counted_once_where_the_question_counts(made):
    """Five long questions that begin alike are one text to CLIP, and five cut queries."""
    context = made.episodes().text.clip_context
    longest = " ".join(["red"] * (context - 2))
    long = [f"{longest} {word}" for word in ("blue", "green", "white", "dog", "cup")]
    queries = [[(longest, long[0]), (long[0], long[1])], [(long[2],), (long[3],)], [(long[4],)] * 2]
    episodes = made.episodes()
    (batch,) = episodes.batches(B)
    for weight, cut in (([1, 1, 0], long[:4]), ([1, 1, 1], long)):
        for _ in range(2):
            candidates = BatchCandidates(
                episodes, made.params, batch, queries,
                update=0, draws=1, sample=False, weight=np.array(weight, np.float32),
            )  # fmt: skip
            assert candidates.similarity.shape == (B, I, Q, T)
        assert sorted(text for _, text in episodes.cut_queries) == sorted(cut)
    assert {name for name, _ in episodes.cut_queries} == {"q0", "q1", "q2"}


def test_rows_of_two_signals(made, monkeypatch):
    """The second's stand behind the first's, masked alike, and it sees the queries' own mask."""
    seen = {}

    def rows(inputs):
        seen["mask"], seen["queries"] = np.asarray(inputs.query_mask), inputs.queries
        length = np.array(
            [[[len(q) for q in (*list_, "")[:Q]] for list_ in row] for row in QUERIES]
        )
        later = np.where(inputs.frame_mask, inputs.timestamps, np.nan)  # masked: not read
        return jnp.asarray(length[..., None] * later[:, None, None], jnp.float32)

    monkeypatch.setitem(SIGNALS, "toy", Signal(rows))
    config = changed(made.config, **{"sampler.signals": ("clip", "toy")})
    candidates, batch = candidates_of(made, config)
    want, mask = cosines(made, candidates, batch)
    similarity = np.asarray(candidates.similarity)
    assert similarity.shape == (B, I, 2 * Q, T)
    np.testing.assert_allclose(similarity[:, :, :Q], want, atol=1e-5)
    np.testing.assert_array_equal(candidates.query_mask, np.concatenate([mask, mask], -1))
    np.testing.assert_array_equal(seen["mask"], mask)
    assert seen["queries"] is QUERIES
    for b, i, q in np.ndindex(B, I, Q):
        number = len(QUERIES[b][i][q]) if q < len(QUERIES[b][i]) else 0
        times = np.where(batch["frame_mask"][b], batch["timestamps"][b], 0)
        np.testing.assert_allclose(similarity[b, i, Q + q], number * times, rtol=1e-6)


# --- what the MLLM says ---------------------------------------------------------------------------


def replies(run, candidates, batch, asks):
    """Greedy replies of `generate` to prompts put together here, one at a time."""
    episodes = run.episodes()
    system, c = run.system, episodes.text.prompt
    merge, budget = system.mllm_config.vision.merge, episodes.config.frames.key_patches

    @jax.jit
    def reply(params, prompt, patches):
        model = system.mllm(params)
        features = frame_features(system, model, patches)
        keys = jax.random.split(jax.random.key(9), (1, 1, 1))
        return generate(model, prompt, features, keys, episodes.text.sampling(c.query_tokens, 0.0))

    most = max(len(ask.frames) for row in asks for ask in row)
    out = []
    for b, row in enumerate(asks):
        for ask in row:
            pixels = np.zeros((1, most, budget, 14, 14, 3), np.uint8)
            grids = np.zeros((1, most, 2), np.int32)
            if ask.frames:
                stored = run.reader.frames(f"v{b}", batch["frame_index"][b][list(ask.frames)])
                cut, grid = to_patches(stored, system, budget)
                pixels[0, : len(cut)], grids[0, : len(cut)] = cut, grid
            frames = [
                Frame(i * budget // merge**2, tuple(int(n) for n in grids[0, i]))
                for i in range(len(ask.frames))
            ]
            text = prompts.turns(c.system, prompts.plain(ask.text))
            prompt = episodes.assembler.row(text, frames, c.answer_prompt_tokens)
            done = reply(run.params["mllm"], episodes.stack([[prompt]]), Patches(pixels, grids))
            out.append(episodes.text.decode(*(np.asarray(x)[0, 0, 0] for x in done[::2])))
    return np.array(out).reshape(len(asks), -1).tolist()


def test_an_ask_is_answered_as_generate_would(made):
    """With frames in the order given, repeated, more than K of them, or none."""
    candidates, batch = candidates_of(made)
    asks = [
        [Ask("what is the dog ?", (0, 2)), Ask("red <|im_end|> cup"), Ask("find", (1,))],
        [Ask("what is the dog ?", (2, 0)), Ask("the cup", (5, 5, 1)), Ask("the", (8, 3))],
        [Ask("kitchen", (15, 0)), Ask("kitchen", (0, 15)), Ask("white", (9, 1, 2, 3, 4, 5, 6))],
    ]
    got = candidates.ask(asks)
    assert got == replies(made, candidates, batch, asks)
    assert all(text for row in got for text in row)
    assert len({text for row in got for text in row}) > 5
    assert got[2][0] != got[2][1] and got[0][0] != got[1][0]  # it sees the order, and the frames


def test_an_ask_that_cannot_be_shown_drops_its_question(made, tmp_path):
    """Reported once, by a selector that asks and one that does not look at the replies."""
    reader = with_damage(made.reader, tmp_path / "records", {"v1": 6})
    run = dataclasses.replace(made, reader=reader)
    weight = np.ones(B, np.float32)
    candidates, _ = candidates_of(run, weight=weight)
    asks = [[Ask("what ?", (b + 1,)), Ask("what ?", (3 * b,))] for b in range(B)]
    asks[1][0] = Ask("what ?", (6,))
    asks[2][1] = Ask("cup " * 96)
    asks[0][1] = Ask("what ?", (2,))
    out = candidates.ask(asks)
    assert weight.tolist() == [1, 0, 0] and [len(row) for row in out] == [2] * B
    failures = candidates._episodes.failures
    assert [failure["question"] for failure in failures] == ["q1", "q2"]
    assert failures[0]["error"].startswith("frames unreadable")
    assert failures[1]["error"].startswith("prompt too long")


# --- what the MLLM attends to ---------------------------------------------------------------------


def attention_by_hand(run, row, patches, layer):
    """Weights of the last token of one whole prompt over its tokens, a dense softmax a head."""
    system = run.system
    model = system.mllm(run.params["mllm"])
    n = int(row["segments"].sum())
    features = frame_features(system, model, patches)
    index = np.append(row["feature_index"][:n], -1)
    tokens = np.append(row["tokens"][:n], row["first_token"])
    embeds = np.asarray(model.language.embed(jnp.asarray(tokens)))
    h = np.where((index >= 0)[:, None], np.asarray(features)[0][index], embeds)[None]
    h = jnp.asarray(h)
    positions = np.concatenate([row["positions"][:, :n], np.full((3, 1), row["start"])], 1)
    cos, sin = mrope_cos_sin(jnp.asarray(positions)[None], model.language.config)
    graphdef, layers = nnx.split(model.language.layers)
    weights = []
    for y in range(model.language.config.layers):
        block = nnx.merge(graphdef, jax.tree.map(lambda x, y=y: x[y], layers))
        q, k, v = (np.asarray(x)[0].astype(np.float64) for x in block.qkv(h, cos, sin))
        heads, groups = q.shape[1], k.shape[1]
        out = np.zeros_like(q)
        last = []
        for head in range(heads):
            group = head * groups // heads
            scores = q[:, head] @ k[:, group].T / np.sqrt(q.shape[-1])
            scores = np.where(np.tri(n + 1, dtype=bool), scores, -np.inf)
            p = np.exp(scores - scores.max(-1, keepdims=True))
            p /= p.sum(-1, keepdims=True)
            out[:, head] = p @ v[:, group]
            last.append(p[-1])
        h = block.finish(h, jnp.asarray(out[None], jnp.float32))
        weights.append(np.mean(last, 0)[:n])
    return weights[layer], index[:n]


@pytest.mark.parametrize("layer", [0, -1])
def test_attention_is_the_softmax_over_the_prompt(made, layer):
    """By frame, 0 at those that are no previews; what the text gets is missing to 1."""
    candidates, batch = candidates_of(made)
    paid = candidates.attention(layer)
    assert paid.shape == (B, T) and (paid >= 0).all()
    assert (paid.sum(-1) <= 1).all() and (paid.sum(-1) > 1e-3).all()
    rows, patches = candidates._episodes.preview_prompts(batch, np.ones(B))
    per_frame = patches.pixels.shape[-4] // 4
    for b in range(B):
        one = Patches(patches.pixels[b : b + 1], patches.grid[b : b + 1])
        weights, index = attention_by_hand(made, rows[b][0], one, layer)
        want = np.zeros(T)
        for preview, frame in enumerate(batch["preview_index"][b][batch["preview_mask"][b]]):
            shown = (index >= 0) & (index // per_frame == preview)
            assert shown.sum() == 4
            # The candidates of the last video are not all its frames.
            nearest = np.abs(batch["frame_index"][b][batch["frame_mask"][b]] - frame).argmin()
            want[nearest] += weights[shown].sum()
        np.testing.assert_allclose(paid[b], want, atol=1e-5)
        assert (want > 0).sum() == 2


def test_attention_in_video_mode_is_shared_by_a_pair(made):
    """Three previews are two steps: the first is shared by two frames, the last is its own."""
    config = changed(made.config, **{"frames.mode": "video", "frames.preview": 3})
    candidates, batch = candidates_of(made, config)
    paid = candidates.attention(-1)
    assert (paid >= 0).all() and (paid.sum(-1) <= 1).all()
    for b in range(B):
        places = np.flatnonzero(paid[b])
        shown = batch["preview_index"][b]
        assert len(places) == len(shown) == 3
        assert paid[b, places[0]] == paid[b, places[1]] != paid[b, places[2]]


# --- on demand ------------------------------------------------------------------------------------


@pytest.fixture
def calls(made, monkeypatch):
    """Names of the compiled programs that were called."""
    out = []
    for name in ("complete", "embed_queries", "frame_logits", "attention"):
        program = getattr(made.programs, name)
        monkeypatch.setattr(
            made.programs,
            name,
            lambda *args, name=name, program=program, **how: (
                out.append(name) or program(*args, **how)
            ),
        )
    return out


def test_who_asks_for_nothing_computes_nothing(made, calls):
    candidates, batch = candidates_of(made)
    assert candidates.keys is None and candidates.smooth == 5 and candidates.num_draws == 1
    assert [question.id for question in candidates.questions] == ["q0", "q1", "q2"]
    np.testing.assert_array_equal(candidates.frames(1, [3, 0]), made.reader.frames("v1", [3, 0]))
    thinned = batch["frame_index"][2][[9, 15]]
    assert (thinned != [9, 15]).all()
    np.testing.assert_array_equal(candidates.frames(2, [9, 15]), made.reader.frames("v2", thinned))
    assert not calls


def test_what_was_computed_is_kept(made, calls):
    candidates, _ = candidates_of(made, draws=3, sample=True)
    assert candidates.keys.shape == (B, I, 3)
    first = candidates.similarity
    assert candidates.similarity is first and candidates.query_mask.shape == (B, I, Q)
    candidates.choose(candidates.network_logits(), K)
    assert calls == ["embed_queries", "frame_logits"]


def test_a_network_that_reads_embeddings_gets_those_of_frames_and_queries(made, calls, monkeypatch):
    """The text tower runs once for S and for the network."""
    network = SELECTORS["msjoe"].network._replace(needs_embeddings=True)
    monkeypatch.setitem(SELECTORS, "msjoe", SELECTORS["msjoe"]._replace(network=network))
    candidates, batch = candidates_of(made)
    similarity, row_mask, frame_mask, frames, texts = candidates.network_inputs()
    np.testing.assert_array_equal(frames, batch["embeddings"])
    assert similarity is candidates.on_devices.similarity and row_mask.shape == (B, I, Q)
    shown = row_mask[..., None] & frame_mask[:, None, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        cosines = np.einsum("biqe,bte->biqt", unit(np.asarray(texts)), unit(np.asarray(frames)))
    np.testing.assert_allclose(np.where(shown, cosines, 0), similarity, atol=1e-5)
    assert candidates.network_logits().shape == (B, I, T)
    assert calls == ["embed_queries", "frame_logits"]


def test_a_selection_alone_has_its_rows_and_no_more(made, calls, monkeypatch):
    """`select` itself wants the rows of S, for logs and the step."""

    def first(candidates, k):
        return Selection(np.broadcast_to(np.arange(k), (B, I, candidates.num_draws, k)))

    monkeypatch.setitem(SELECTORS, "toy", Selector(first))
    episodes = made.episodes()
    (batch,) = episodes.batches(B)
    selected = episodes.select(made.params, batch, QUERIES, 0, selector="toy", draws=2)
    assert calls == ["embed_queries"]
    assert selected.draw.indices.shape == (B, I, 2, K) and selected.draw.valid.all()


def test_the_network_chooses_by_its_logits(made):
    """The top K without keys; with keys a draw of the configured law, different for every list."""
    candidates, batch = candidates_of(made)
    logits = np.asarray(candidates.network_logits())
    masked = np.broadcast_to(~batch["frame_mask"][:, None], logits.shape)
    assert np.isneginf(logits[masked]).all() and np.isfinite(logits[~masked]).all()
    best = candidates.choose(candidates.network_logits(), K)
    for b, i in np.ndindex(B, I):
        count = min(K, int(batch["frame_mask"][b].sum()))
        want = np.sort(np.argsort(-logits[b, i], kind="stable")[:count])
        assert best.frames[b, i, 0, :count].tolist() == want.tolist()
        assert (best.frames[b, i, 0, count:] == -1).all()
    drawing, _ = candidates_of(made, draws=3, sample=True)
    drawn = drawing.choose(drawing.network_logits(), K)
    assert drawn.frames.shape == (B, I, 3, K)
    assert len({drawn.frames[2, i, j].tobytes() for i, j in np.ndindex(I, 3)}) > 1
    np.testing.assert_array_equal(drawn.logits, best.logits)


# --- the same candidates for several selections ---------------------------------------------------


def test_what_one_selection_computed_another_does_not(made, monkeypatch):
    """Replies and attention too: they are computed once, drop the same, and cost the same again."""
    first, _ = candidates_of(made)
    calls = []
    for owner, name in ((SelectorPrompts, "ask"), (BatchCandidates, "_attention")):
        plain = getattr(owner, name)

        def counted(self, argument, name=name, plain=plain):
            calls.append(name)
            if name == "ask":
                self._weight[1] = 0.0  # as if its prompt were too long
            return plain(self, argument)

        monkeypatch.setattr(owner, name, counted)
    weights = [np.ones(B, np.float32) for _ in range(2)]
    one, two = (first.again(weight) for weight in weights)
    asked = [[Ask("which ?", (0, 1))] for _ in range(B)]
    assert one.ask(asked) == two.ask(asked)
    np.testing.assert_array_equal(one.attention(-1), two.attention(-1))
    assert calls == ["ask", "_attention"]
    assert [weight.tolist() for weight in weights] == [[1, 0, 1]] * 2
    assert one.remembered == 0 < two.remembered
    assert one.on_devices.similarity is two.on_devices.similarity
    assert two.on_devices.reads == 2


def test_draws_and_keys_are_each_selections_own(made):
    first, _ = candidates_of(made)
    plain = first.again(np.ones(B, np.float32))
    drawn = first.again(np.ones(B, np.float32), draws=3, sample=True)
    assert plain.keys is None and drawn.keys.shape == (B, I, 3)
    assert SELECTORS["msjoe"].select(drawn, K).frames.shape == (B, I, 3, K)
    assert SELECTORS["msjoe"].select(plain, K).frames.shape == (B, I, 1, K)


def test_the_rows_of_one_signal_alone(made, monkeypatch):
    """Of two signals each has half of the rows; what is masked chooses nothing."""
    backwards = Signal(lambda inputs: -SIGNALS["clip"].rows(inputs))
    monkeypatch.setitem(SIGNALS, "other", backwards)
    config = changed(made.config, **{"sampler.signals": ("clip", "other")})
    monkeypatch.setattr("msjoe_jax.config.SIGNALS", SIGNALS, raising=False)
    first, _ = candidates_of(made, config)
    own, _ = candidates_of(made)
    weight = np.ones(B, np.float32)
    halves = [np.asarray(first.again(weight, signal=s).query_mask) for s in ("clip", "other")]
    whole = np.asarray(first.query_mask)
    np.testing.assert_array_equal(halves[0] | halves[1], whole)
    assert not (halves[0] & halves[1]).any()
    chosen = SELECTORS["topk"].select(first.again(weight, signal="clip"), K).frames
    np.testing.assert_array_equal(chosen, SELECTORS["topk"].select(own, K).frames)
