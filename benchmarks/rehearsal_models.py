"""Random published models, questions, and lessons in the formats, for benchmarks/rehearsal.py.

Random weights write no tags: all their rewards are equal and every gradient is zero. A few steps of
supervision on the formats make a policy whose replies are mostly valid and whose letters vary.
"""

import functools
import gzip
import importlib.util
import json
import math
import pathlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
from etils import epath
from jaxtyping import Array, Float
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from msjoe_jax.models.clip.config import VOCAB
from msjoe_jax.models.params import Params
from msjoe_jax.models.protocols import Cache
from msjoe_jax.rollout.assemble import Assembler, Frame, stack_rows
from msjoe_jax.rollout.frames import FrameConfig
from msjoe_jax.rollout.generate import Prompts, banned_mask, prefill
from msjoe_jax.rollout.system import System
from msjoe_jax.rollout.text import Text
from msjoe_jax.text.prompts import LETTERS, PromptConfig, answer_prompt, query_prompt
from msjoe_jax.text.tokenizer import Tokenizer as Vocabulary
from msjoe_jax.weights.folder import copy_side_files, write_json
from msjoe_jax.weights.safetensors import SINGLE, write_file
from msjoe_jax.weights.tables import Table, slots

STD = 0.02  # of the random matrices, as in the published initialisation
# Of the decoder's branches: so small that a token outweighs them, and few steps teach what follows
# it. At STD the mean over a prompt would drown it.
BRANCH_STD = 0.004
BLOCK = 1 << 24  # values drawn at a time
CLIP_SCALE = math.log(1 / 0.07)  # the temperature from which CLIP's training starts
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)

# --- random published models ----------------------------------------------------------------------


def random_tensor(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Draws one tensor in bfloat16, a block at a time: norms scale by 1, CLIP's scale is its first.

    Args:
      name: as published; with the seed it decides the values.
      shape: of the tensor.
      seed: of the model.
    """
    if name == "logit_scale":
        return np.array(CLIP_SCALE, BFLOAT16)
    if "norm" in name.rsplit(".", 2)[-2] or ".ln_" in name:
        return np.full(shape, 1.0 if name.endswith("weight") else 0.0, BFLOAT16)
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    std = BRANCH_STD if name.startswith("model.layers.") else STD
    values = np.empty(math.prod(shape), BFLOAT16)
    for start in range(0, values.size, BLOCK):
        part = values[start : start + BLOCK]
        part[:] = std * rng.standard_normal(part.size, np.float32)
    return values.reshape(shape)


def write_published(
    folder: pathlib.Path, config: Mapping[str, Any], table: Table, shapes: Params, seed: int
) -> None:
    """Writes a folder as published ones are, with random weights, a tensor at a time.

    Args:
      folder: gets config.json and one safetensors file.
      config: the content of config.json.
      table: the names of the model's tensors.
      shapes: its abstract parameters.
      seed: of the weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    targets = slots(table, shapes)
    tensors = {name: (BFLOAT16, slot.shape) for name, slot in targets.items()}
    write_json(epath.Path(folder / "config.json"), {**config, "torch_dtype": "bfloat16"})
    write_file(
        folder / SINGLE[0], tensors, lambda name: random_tensor(name, targets[name].shape, seed)
    )


def copy_tokenizer(source: pathlib.Path, folder: pathlib.Path) -> None:
    """Copies the tokenizer and the settings that lie beside published weights."""
    folder.mkdir(parents=True, exist_ok=True)
    copy_side_files(epath.Path(source), epath.Path(folder))


def write_clip_tokenizer(folder: pathlib.Path) -> None:
    """Writes CLIP's own tokenizer.json, from the merges that open_clip carries."""
    found = importlib.util.find_spec("open_clip")
    assert found is not None and found.origin is not None
    merges_file = pathlib.Path(found.origin).parent / "bpe_simple_vocab_16e6.txt.gz"
    lines = gzip.decompress(merges_file.read_bytes()).decode().split("\n")
    pairs = [tuple(line.split()) for line in lines[1 : VOCAB - 2 * 256 - 2 + 1]]
    bytes_ = _byte_characters()
    words = [*bytes_, *(c + "</w>" for c in bytes_), *("".join(pair) for pair in pairs)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: i for i, word in enumerate(words)}
    merges = [(left, right) for left, right in pairs]
    model = models.BPE(vocabulary, merges, end_of_word_suffix="</w>", unk_token="<|endoftext|>")
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    pieces = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pieces), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(words[-2:])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))


def _byte_characters() -> list[str]:
    """Lists the characters that stand for the 256 bytes, in the order of CLIP's vocabulary."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1)]
    shown += range(ord("®"), ord("ÿ") + 1)
    return [chr(b) for b in shown] + [chr(256 + n) for n in range(256 - len(shown))]


# --- questions ------------------------------------------------------------------------------------

OPTIONS = ("a hand", "a road", "a table", "a face", "a dog", "a pan", "a door", "a tree")
ASKED = ("What is shown?", "What comes first?", "What moves?", "What is in the middle?")
RIGHT = 2  # the first so many letters are right, and taught, and so many queries


def make_questions(videos: Sequence[str], number: int, first: int = 0) -> list[dict[str, Any]]:
    """Makes rows of a question file about videos in turn; whose right letter is A or B."""
    rows = []
    for i in range(first, first + number):
        options = [OPTIONS[(i + 3 * j) % len(OPTIONS)] for j in range(4)]
        rows.append(
            {
                "id": f"q{i}",
                "video": videos[i % len(videos)],
                "question": ASKED[i // len(videos) % len(ASKED)],
                "options": options,
                "answer": LETTERS[(i + i // len(videos)) % RIGHT],
            }
        )
    return rows


def write_lines(file: pathlib.Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes a file of JSON lines."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


# --- lessons in the formats -----------------------------------------------------------------------


class Lesson(NamedTuple):
    """G prompts about frames of one pool, n replies to each, and which of their tokens count."""

    prompts: Prompts
    replies: np.ndarray  # [1, G, n, C]
    mask: np.ndarray  # [1, G, n, C]


class Schedule(NamedTuple):
    """The supervision: steps at most, prompts of each, Adam's first rate, the end.

    enough: mean negative log-prob of a reply beyond what its free choice costs, where it ends.
    """

    steps: int = 120
    prompts: int = 2
    rate: float = 2e-4
    enough: float = 0.15


def make_lesson(
    assembler: Assembler,
    text: Text,
    questions: Sequence[Mapping[str, Any]],
    pool: Sequence[Frame],
    frames: FrameConfig,
    rng: np.random.Generator,
    schedule: Schedule,
) -> Lesson:
    """Makes prompts of reason and answer in turn, to each a reply of every option or letter.

    Args:
      assembler: of the prompts.
      text: wording, lengths and tokenizer.
      questions: rows of `make_questions`.
      pool: the frames that prompts may show.
      frames: how many of them each shows.
      rng: chooses questions and frames.
      schedule: how many prompts.
    """
    style: PromptConfig = text.prompt
    length = max(style.query_prompt_tokens, style.answer_prompt_tokens)
    reply_tokens = max(style.query_tokens, style.answer_tokens)
    rows, replies, masks = [], [], []
    for i in range(schedule.prompts):
        row = questions[int(rng.integers(len(questions)))]
        ask = row["question"], row["options"]
        if i % 2:
            written, tag, shown = answer_prompt(style, *ask), "answer", frames.key
            choices: Sequence[str] = LETTERS[:RIGHT]
        else:
            written, tag = query_prompt(style, *ask, style.max_queries), "query"
            choices, shown = OPTIONS[:RIGHT], frames.preview
        places = sorted(rng.permutation(len(pool))[:shown].tolist())
        rows.append(assembler.row(written, [pool[j] for j in places], length))
        ids = [reply_ids(text.tokenizer, tag, choice) for choice in choices]
        assert max(map(len, ids)) <= (style.answer_tokens if i % 2 else style.query_tokens), ids
        replies.append([np.pad(x, (0, reply_tokens - len(x))) for x in ids])
        masks.append([np.arange(reply_tokens) < len(x) for x in ids])
    return Lesson(
        stack_rows([rows]),
        np.array([replies], np.int32),
        np.array([masks], np.float32),
    )


def reply_ids(tokenizer: Vocabulary, tag: str, choice: str) -> list[int]:
    """Spells a reply so that each token but the choice follows from the one before and the tag.

    Where a tag is several tokens, the closing one's name is two: after the same name as in the
    opening one the model would have to look further back, which takes many more lessons.
    """
    if len(tokenizer.encode(f"</{tag}>")) == 1:
        parts = [f"<{tag}>{choice}</{tag}>"]
    else:
        parts = [f"<{tag}>{choice}", "</", tag[: len(tag) // 2], tag[len(tag) // 2 :], ">"]
    return [i for part in (*parts, "<|im_end|>") for i in tokenizer.encode(part)]


def supervise(
    system: System,
    params: Params,
    features: Float[Array, "1 U D"],
    lesson: Callable[[int], Lesson],
    schedule: Schedule,
    say: Callable[[str], None] = print,
) -> tuple[Params, int]:
    """Trains the decoder's layers on lessons until both formats are learnt; the rest stays.

    No gradient goes through the prompts: the replies' own tokens learn to read what is there.

    Args:
      system: of the model.
      params: the MLLM's; donated.
      features: of the pool's frames.
      lesson: makes that of a step.
      schedule: when it ends.
      say: is told a line now and then.

    Returns:
      The parameters and the steps taken.

    Raises:
      SystemExit: the formats are not learnt by then.
    """
    rate = optax.warmup_exponential_decay_schedule(0.0, schedule.rate, 5, schedule.steps // 3, 0.1)
    optimizer = optax.adam(rate, b2=0.98)
    banned = banned_mask(system.mllm_config.vocab, system.banned_ids())

    def costs(trained: Params, rest: Params, batch: Lesson) -> tuple[Array, Array]:
        whole = {**rest, "language": {**rest["language"], **trained}}
        model, fixed = system.mllm(whole), system.mllm(jax.lax.stop_gradient(whole))
        prompts = jax.tree.map(jnp.asarray, batch.prompts)
        cache, segments, start = prefill(fixed, prompts, features)
        replies = jnp.asarray(batch.replies)[0]  # [G, n, C]
        first = jnp.broadcast_to(prompts.first_token.reshape(-1, 1, 1), (*replies.shape[:2], 1))
        inputs = jnp.concatenate([first, replies[..., :-1]], -1)

        def read(own: Cache, place: tuple[Array, Array]) -> tuple[Cache, Array]:
            x = model.language.embed(place[1])
            h, own = model.language.decode_step(x, place[0], start, cache, segments, own)
            return own, h

        own = model.language.empty_cache(*replies.shape)
        places = jnp.arange(replies.shape[-1]), jnp.moveaxis(inputs, -1, 0)
        h = jnp.moveaxis(jax.lax.scan(read, own, places)[1], 0, 2)
        log_p, _ = model.language.log_probs(h, replies, banned=banned)
        each = -(log_p * batch.mask[0]).sum(-1)  # [G, n]
        kinds = jnp.stack([each[0::2].mean(), each[1::2].mean()])
        return kinds.sum(), kinds

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(trained: Params, moments: Any, rest: Params, batch: Lesson) -> tuple:
        grads, kinds = jax.grad(costs, has_aux=True)(trained, rest, batch)
        updates, moments = optimizer.update(grads, moments, trained)
        return optax.apply_updates(trained, updates), moments, kinds

    language = params["language"]
    trained = {name: language[name] for name in ("layers", "norm")}
    rest = {**params, "language": {k: v for k, v in language.items() if k not in trained}}
    moments = optimizer.init(trained)
    excess, recent = np.inf, np.zeros((0, 2))
    for number in range(schedule.steps):
        trained, moments, kinds = step(trained, moments, rest, lesson(number))
        recent = np.concatenate([recent, np.asarray(kinds)[None]])[-5:]
        excess = float((recent.mean(0) - math.log(RIGHT)).max()) if len(recent) == 5 else np.inf
        if number % 5 == 0 or excess < schedule.enough:
            query, answer = np.asarray(kinds)
            say(f"step {number + 1}: query {query:.2f}, answer {answer:.2f} nats a reply")
        if excess < schedule.enough:
            whole = {**rest, "language": {**rest["language"], **trained}}
            return whole, number + 1
    raise SystemExit(
        f"error: after {schedule.steps} steps a reply still costs {excess:.2f} nats too many"
    )
