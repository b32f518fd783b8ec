"""Rollout batches: independence of order and threads, replay, refill, options of the objective."""

import dataclasses
import json
import types

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msjoe_jax.commands import replay
from msjoe_jax.data.pipeline import make_pipeline
from msjoe_jax.data.questions import Question
from msjoe_jax.data.records import RecordReader, RecordWriter
from msjoe_jax.errors import UserError
from msjoe_jax.models.lora import merge_lora
from msjoe_jax.rollout import collect as roll_out
from msjoe_jax.rollout.episode import Episodes
from msjoe_jax.rollout.frames import preview_fn
from msjoe_jax.rollout.model_folder import load_bundle
from msjoe_jax.rollout.programs import Programs
from msjoe_jax.runtime.compile_counter import CompileCounter
from msjoe_jax.training import train
from msjoe_jax.training.state import init_state, make_scoring, make_step
from msjoe_jax.training.train import logged
from tests.support.embeddings import write_embeddings
from tests.support.tiny import tiny_bundle, tiny_config

VIDEOS, B, I, J, K = 6, 4, 2, 2, 4
COLOURS = ("red", "blue", "green", "white")
pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(config, programs, params, reader, questions) of an untrained tiny system."""
    folder = tmp_path_factory.mktemp("roll_out")
    rng = np.random.default_rng(0)
    counts = {f"v{v}": 3 + 3 * v for v in range(VIDEOS)}  # the first has fewer frames than K
    with RecordWriter(folder / "records") as writer:
        for video, count in counts.items():
            writer.add(video, enumerate(rng.integers(0, 256, (count, 56, 56, 3), np.uint8)))
    ids = RecordReader(folder / "records").ids
    write_embeddings(
        folder / "records", "random", ((v, rng.normal(size=(counts[v], 32))) for v in ids)
    )
    questions = [
        Question(f"q{i}", f"v{i % VIDEOS}", "what colour is the cup ?", COLOURS, i % 4, i / 12)
        for i in range(2 * VIDEOS)
    ]
    config = tiny_config(folder)
    config.rollout.questions, config.rollout.query_rollouts = B, I
    config.rollout.frame_draws = J
    _, system, params = load_bundle(tiny_bundle(folder))
    return config, Programs(system, 3), params, RecordReader(folder / "records"), questions


def batches_of(made, config):
    _, programs, _, reader, questions = made
    return iter(
        make_pipeline(
            questions,
            reader,
            batch_size=config.rollout.questions,
            num_candidates=config.frames.candidates,
            num_preview=config.frames.preview,
            preview_fn=preview_fn(config, programs.system.qwen.vision),
        )
    )


def collector(made, config, stream=None):
    _, programs, _, reader, questions = made
    episodes = Episodes(config, programs, reader, questions)
    importance = np.ones(len(questions))
    stream = batches_of(made, config) if stream is None else stream
    return roll_out.Collector(config, episodes, stream, importance, False)


def changed(config, **fields):
    out = config.copy_and_resolve_references()
    out.update_from_flattened_dict(fields)
    return out


@pytest.fixture(scope="module")
def plain(made):
    """One rollout batch and the pipeline's batch it came from."""
    batch = next(batches_of(made, made[0]))
    return batch, collector(made, made[0], iter([batch])).batch(made[2], 5)


def by_question(rollout):
    """What was drawn, by question id."""
    arrays = jax.device_get(rollout.arrays)
    out = {}
    for b, note in enumerate(rollout.notes):
        queries, answers = (
            (part.tokens[b], part.mask[b], part.log_probs[b])
            for part in (arrays.queries, arrays.answers)
        )
        out[note.question.id] = (note.draws, note.answers, note.correct, queries, answers)
    return out


def same_rollouts(one, other):
    """Equal draws and tokens; log-probs but for the order of additions in other batch shapes."""
    one, other = by_question(one), by_question(other)
    assert one.keys() == other.keys()
    for key, (draws, answers, correct, *parts) in one.items():
        draws_2, answers_2, correct_2, *parts_2 = other[key]
        np.testing.assert_array_equal(draws, draws_2)
        np.testing.assert_array_equal(correct, correct_2)
        assert answers == answers_2
        for (tokens, mask, log_probs), (tokens_2, mask_2, log_probs_2) in zip(
            parts, parts_2, strict=True
        ):
            np.testing.assert_array_equal(tokens, tokens_2)
            np.testing.assert_array_equal(mask, mask_2)
            np.testing.assert_allclose(log_probs, log_probs_2, atol=1e-5)


# --- one seed, the step, the question -------------------------------------------------------------


def test_the_order_of_the_batch_does_not_matter(made, plain):
    batch, before = plain
    order = [2, 0, 3, 1]
    shuffled = jax.tree.map(lambda x: x[order], batch)
    after = collector(made, made[0], iter([shuffled])).batch(made[2], 5)
    assert [n.question.id for n in after.notes] == [before.notes[b].question.id for b in order]
    same_rollouts(after, before)


def test_another_step_or_seed_draws_anew(made, plain):
    batch, before = plain
    for config, step in ((made[0], 6), (changed(made[0], seed=1), 5)):
        other = collector(made, config, iter([batch])).batch(made[2], step)
        pairs = zip(before.notes, other.notes, strict=True)
        assert any((a.draws != b.draws).any() for a, b in pairs)


def test_parts_in_threads_are_the_batch(made, plain):
    batch, before = plain
    config = changed(made[0], **{"rollout.waves": 2})
    after = collector(made, config, iter([batch])).batch(made[2], 5)
    assert [n.question.id for n in after.notes] == [n.question.id for n in before.notes]
    same_rollouts(after, before)
    assert (after.query_tokens, after.answer_tokens) == (before.query_tokens, before.answer_tokens)


@pytest.mark.parametrize("likelihood", ["plackett_luce", "cb"])
def test_a_draw_is_replayed_from_the_log(made, plain, tmp_path, likelihood, monkeypatch, capsys):
    batch, _ = plain
    config = changed(made[0], **{"objective.likelihood": likelihood})
    rollout = collector(made, config, iter([batch])).batch(made[2], 5)
    log = tmp_path / "rollouts.jsonl"
    rows = [json.loads(json.dumps(logged(config, 5, note))) for note in rollout.notes]
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for note in rollout.notes:
        row = replay.find_row(log, 5, note.question.id)
        np.testing.assert_array_equal(replay.redraw(row), note.draws)
        if likelihood == "cb":  # sets come in time order
            assert all((np.diff(d[d >= 0]) > 0).all() for d in note.draws.reshape(-1, K))
    assert len({n.draws.shape for n in rollout.notes}) == 1
    free = next(row for row in rows if row["frames"] > 2 * K)
    other = replay.redraw({**free, "step": 6})
    assert (other != np.array(free["draws"])).any()


def test_a_missing_row_is_named(tmp_path):
    log = tmp_path / "rollouts.jsonl"
    with pytest.raises(UserError, match=r"rollouts\.jsonl: No such file"):
        replay.find_row(log, 1, "q")
    log.write_text('{"step": 1, "id": "q"}\n{"step"')
    assert replay.find_row(log, 1, "q")
    with pytest.raises(UserError, match="line 2: not JSON"):
        replay.find_row(log, 2, "q")
    log.write_text('{"step": 1, "id": "q"}\n')
    with pytest.raises(UserError, match="no row of step 2 and question 'q'"):
        replay.find_row(log, 2, "q")
    with pytest.raises(UserError, match="selector 'topk' draws nothing"):
        replay.redraw({"selector": "topk"})


# --- options of a batch ---------------------------------------------------------------------------


def test_the_counterfactual_shows_uniform_frames(made, plain):
    batch, before = plain
    config = changed(made[0], **{"rollout.counterfactual": True})
    work, shown = collector(made, config, iter([batch])), []
    answer = work.episodes.answer
    work.episodes.answer = lambda *args, **how: shown.append(args[2]) or answer(*args, **how)
    after = work.batch(made[2], 5)
    (frames,) = shown
    assert frames.shape == (B, I * J + 1, K)
    for b, note in enumerate(after.notes):
        count = int(note.frame_mask.sum())
        uniform = frames[b, -1][frames[b, -1] >= 0]
        assert len(uniform) == min(K, count) and (np.diff(uniform) > 0).all()
        if count >= K:
            bins = uniform * K // count
            assert bins.tolist() == list(range(K))
    assert after.arrays.measures["counterfactual"].shape == (B, 1, 1)
    same_rollouts(after, before)  # the other sets do not notice


def test_the_question_searches(made, plain):
    batch, _ = plain
    config = changed(made[0], **{"rollout.queries": "question"})
    after = collector(made, config, iter([batch])).batch(made[2], 5)
    similarity, mask = jax.device_get((after.arrays.similarity, after.arrays.query_mask))
    assert mask.tolist() == [[[True, False]] * I] * B  # one query: the question
    np.testing.assert_array_equal(similarity[:, 0], similarity[:, 1])  # of all rollouts alike
    assert np.abs(similarity[:, 0, 0]).max() > 0
    assert not np.asarray(after.arrays.queries.mask).any()  # replies without a part teach nothing


def note_of(number, correct, weight=1.0):
    question = types.SimpleNamespace(id=number)
    return types.SimpleNamespace(question=question, correct=np.array(correct), weight=weight)


def refilled(made, refill):
    """`collect` on batches of the notes `made`; the arrays are the questions' ids."""
    stub = object.__new__(roll_out.Collector)
    stub.config = types.SimpleNamespace(rollout=types.SimpleNamespace(refill=refill))
    supply = iter(made)
    arrays = lambda notes: np.array([n.question.id for n in notes])  # noqa: E731
    stub.batch = lambda *_: (lambda notes: roll_out.Rollout(arrays(notes), notes, 1, 1))(
        next(supply)
    )
    return stub.collect({}, 0)


@settings(deadline=None, max_examples=100)
@given(
    st.lists(
        st.lists(st.sampled_from(["mixed", "right", "wrong", "dropped"]), min_size=3, max_size=3),
        min_size=5,
        max_size=5,
    ),
    st.integers(0, 4),
)
def test_refill_replaces_what_teaches_nothing(kinds, refill):
    """Against a queue: teaching questions of later batches take silent places, in order."""
    value = {"mixed": [0, 1], "right": [1, 1], "wrong": [0, 0], "dropped": [0, 1]}
    made = [
        [note_of(3 * i + j, value[kind], float(kind != "dropped")) for j, kind in enumerate(row)]
        for i, row in enumerate(kinds)
    ]
    out, drawn = refilled(made, refill)

    teaches = lambda n: n.weight > 0 and n.correct.min() != n.correct.max()  # noqa: E731
    want, used = list(made[0]), 0
    while used < refill and not all(map(teaches, want)):
        used += 1
        fresh = [n for n in made[used] if teaches(n)]
        for b in [b for b, n in enumerate(want) if not teaches(n)]:
            if fresh:
                want[b] = fresh.pop(0)
    assert [n.question.id for n in out.notes] == [n.question.id for n in want]
    assert np.asarray(out.arrays).tolist() == [n.question.id for n in want] and drawn == used


def test_refill_takes_a_question_once():
    """A question that is drawn again with the same keys brings the same tokens."""
    first = [note_of(0, [0, 1]), *(note_of(i, [0, 0]) for i in (1, 2, 3))]
    later = [
        [note_of(i, [0, 1]) for i in (0, 4, 4, 0)],  # 0 is there, and 4 comes twice
        [note_of(i, [0, 1]) for i in (4, 0, 5, 5)],
    ]
    out, drawn = refilled([first, *later], 2)
    assert [n.question.id for n in out.notes] == [0, 4, 5, 3] and drawn == 2
    assert np.asarray(out.arrays).tolist() == [0, 4, 5, 3]


# --- damaged frames -------------------------------------------------------------------------------


def test_damaged_frames_drop_their_questions_alone(made, plain, tmp_path):
    """A frame that both draws must take, of the first question; a preview of the second."""
    config, programs, params, reader, questions = made
    with RecordWriter(tmp_path / "records") as writer:
        for v in range(B):
            jpegs = reader.frame_bytes(f"v{v}", range(3 + 3 * v))
            if v < 2:  # three frames, of which 0 and 2 are previews; six, of which 1 and 4 are
                jpegs[1] = jpegs[1][: len(jpegs[1]) // 2]
            writer.add(f"v{v}", enumerate(jpegs))
    write_embeddings(
        tmp_path / "records", "random", ((f"v{v}", reader.embeddings(f"v{v}")) for v in range(B))
    )
    made = config, programs, params, RecordReader(tmp_path / "records"), questions[:B]
    work = collector(made, config)
    rollout = work.batch(params, 5)
    weight = {note.question.id: note.weight for note in rollout.notes}
    assert weight == {"q0": 0, "q1": 0, "q2": 1, "q3": 1}
    assert rollout.arrays.weight.tolist() == [note.weight for note in rollout.notes]
    said = {failure["question"]: failure["error"] for failure in work.episodes.failures}
    assert said.keys() == {"q0", "q1"} and len(work.episodes.failures) == 2
    assert said["q0"].startswith("frames unreadable:") and "v0 is a damaged" in said["q0"]
    assert said["q1"].startswith("previews unreadable:") and "v1 is a damaged" in said["q1"]

    shown = {"texts": [], "images": []}
    writer = types.SimpleNamespace(
        texts=lambda step, texts: shown["texts"].append(texts["rollout"]),
        images=lambda step, images: shown["images"].append(images["key_frames"]),
    )
    notes = sorted(rollout.notes, key=lambda note: note.question.id)
    train._show(writer, 1, work.episodes, notes)  # what was dropped comes first
    assert len(shown["texts"]) == len(shown["images"]) == 1
    kept = notes[2].question
    assert f"right: {kept.letter}" in shown["texts"][0]
    train._show(writer, 1, work.episodes, notes[:2])  # nothing was kept
    assert len(shown["texts"]) == len(shown["images"]) == 1
    train._show(writer, 1, work.episodes, [notes[0]._replace(weight=1.0)])  # damaged since
    assert len(shown["texts"]) == 2 and len(shown["images"]) == 1


# --- the update -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stepping(made):
    """(config, jitted joint step, starting state): one compilation serves most tests here."""
    config = changed(
        made[0],
        **{"joint.steps": 10, "optimizer.mllm_lr": 1e-1, "optimizer.warmup_steps": 0},
        **{"optimizer.mllm_decay": 0.0, "optimizer.sampler_decay": 0.0},
        **{"objective.frame_entropy": 0.0},
    )
    _, programs, params, *_ = made
    state = init_state(config, "joint", params["mllm"], params["sampler"])
    return config, jax.jit(make_step(config, "joint", programs.system)), state


def updated(stepping, rollout, count=1):
    """(state before, state after, metrics of the last of `count` updates)."""
    _, step, before = stepping
    state = before
    for _ in range(count):
        state, metrics = step(state, rollout.arrays)
    return before, jax.device_get(state), jax.device_get(metrics)


def names(tree):
    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(p, simple=True, separator="/"): np.asarray(x) for p, x in flat}


@pytest.fixture(scope="module")
def rewarded(plain):
    """The batch as if some answers had been right: an untrained model gets none."""
    correct = np.random.default_rng(1).integers(0, 2, (B, I, J)).astype(np.float32)
    arrays = plain[1].arrays
    measures = arrays.measures | {"correct": correct}
    return plain[1]._replace(arrays=arrays._replace(measures=measures))


@pytest.fixture(scope="module")
def trained(stepping, rewarded):
    return updated(stepping, rewarded)


def test_rollout_and_training_log_probs_agree(trained):
    _, _, metrics = trained
    assert 0 < metrics["sampling/sampling_logp_difference/max"] < 1e-5


def test_what_is_not_trainable_stays(trained):
    before, after, _ = trained
    before, after = names(before["mllm"]), names(after["mllm"])
    moved = {name for name in before if (before[name] != after[name]).any()}
    assert moved and all(name.startswith("language/") for name in moved)


def test_nothing_compiles_after_warm_up(made, stepping):
    _, step, state = stepping
    config, _, params, *_ = made
    work = collector(made, config)
    counter = CompileCounter()
    counts = []
    for index in range(1, 5):
        now = {**params, "mllm": state["mllm"], "sampler": state["sampler"]}
        rollout, _ = work.collect(now, index)
        state, metrics = step(state, rollout.arrays)
        jax.block_until_ready(metrics)
        counts.append(counter.count)
    counter.close()
    assert counts[1:] == [counts[1]] * 3


def test_a_second_update_on_a_batch_has_a_ratio(made, stepping, rewarded):
    """Scoring gives the log-probs that the rollout reported; then the policy moves away."""
    rollout = rewarded
    scoring = jax.jit(make_scoring(stepping[0], made[1].system))
    query, answer = scoring(made[2]["mllm"], rollout.arrays)
    for log_probs, part in ((query, rollout.arrays.queries), (answer, rollout.arrays.answers)):
        gap = np.where(part.mask, np.abs(log_probs - part.log_probs), 0)
        assert gap.max() < 1e-5
    old = rollout._replace(
        arrays=rollout.arrays._replace(
            queries=rollout.arrays.queries._replace(old_log_probs=query),
            answers=rollout.arrays.answers._replace(old_log_probs=answer),
        )
    )
    assert updated(stepping, old)[2]["clip_ratio/region_mean"] == 0
    assert updated(stepping, old, count=2)[2]["clip_ratio/region_mean"] > 0


def test_adapters_alone_train_and_merge_to_the_same_model(made, stepping, rewarded):
    config = changed(stepping[0], **{"mllm.lora_rank": 2})
    _, programs, params, *_ = made
    system = dataclasses.replace(programs.system, lora_scale=2.0)
    step = jax.jit(make_step(config, "joint", system))
    state = init_state(config, "joint", params["mllm"], params["sampler"])
    for _ in range(2):
        state, _ = step(state, rewarded.arrays)
    after, before = names(state["mllm"]), names(params["mllm"])
    assert all((after[name] == before[name]).all() for name in before)
    assert all((after[name] != 0).any() for name in after if name.startswith("lora/"))
    scoring = jax.jit(make_scoring(config, system))
    adapted = scoring(state["mllm"], rewarded.arrays)
    merged = merge_lora(state["mllm"], system.lora_scale)
    assert (np.asarray(merged["language"]["layers"]["q"]) != before["language/layers/q"]).any()
    for with_adapters, without in zip(adapted, scoring(merged, rewarded.arrays), strict=True):
        np.testing.assert_allclose(with_adapters, without, atol=1e-5)


def test_length_buckets_change_shapes_only(made, plain):
    batch, before = plain
    config = changed(made[0], **{"prompt.length_buckets": 4})
    after = collector(made, config, iter([batch])).batch(made[2], 5)
    short, long = (x.arrays.queries.prompts.tokens.shape[-1] for x in (after, before))
    assert short < long and short % (long // 4) == 0
    same_rollouts(after, before)


def test_parts_of_different_length_join(made, plain):
    """Waves, and a refill: some prompts cut to a bucket, others of full length."""
    config, programs, params, reader, questions = made
    batch, _ = plain
    longer = list(questions)
    for i in batch["index"][1::2]:
        longer[i] = dataclasses.replace(longer[i], question="what colour is the cup ? " * 7)
    longer = config, programs, params, reader, longer
    cut = changed(config, **{"prompt.length_buckets": 4})
    before = collector(longer, config, iter([batch])).batch(params, 5)
    waves = collector(longer, changed(cut, **{"rollout.waves": 2}), iter([batch])).batch(params, 5)
    short = collector(made, cut, iter([batch])).batch(params, 5)
    extra = collector(longer, cut, iter([batch])).batch(params, 5)
    for stage in ("queries", "answers"):
        lengths = [getattr(x.arrays, stage).prompts.tokens.shape[-1] for x in (short, extra)]
        assert lengths[0] < lengths[1] == 96
    for after in (waves, roll_out.join([short, extra], [0, 5, 2, 7])):
        same_rollouts(after, before)
        for stage in ("queries", "answers"):
            left, right = (getattr(x.arrays, stage).prompts for x in (after, before))
            jax.tree.map(np.testing.assert_array_equal, left, right)


def test_an_importance_of_zero_teaches_nothing(stepping, rewarded):
    arrays = rewarded.arrays._replace(importance=np.zeros(B, np.float32))
    before, after, metrics = updated(stepping, rewarded._replace(arrays=arrays))
    assert metrics["grad_norm/mllm"] == 0 and metrics["grad_norm/sampler"] == 0
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(before["mllm"]), after["mllm"])
