"""Text from a prompt with images and videos: lets anyone try a converted checkpoint.

    msjoe generate --checkpoint=DIR --prompt="…" [--image=FILE] [--video=FILE] \\
        --max_new_tokens=64 --temperature=0 [--dtype=float32] [--json]

The prompt is one user turn of the model's chat format: images, then videos, then the text. Images
are resized as the reference processor does; of a video, `--fps` frames a second are read and fused
in pairs. With `--json` the last line of output is an object with `token_ids`, `text`, `logprobs`.
"""

import functools
import json
import pathlib
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from flax import nnx
from jaxtyping import Array, Float, Int, UInt8
from PIL import Image, ImageOps

from msjoe_jax.commands.cli import run_app
from msjoe_jax.data.questions import is_unicode
from msjoe_jax.data.video import decode
from msjoe_jax.errors import UserError
from msjoe_jax.models.params import Params
from msjoe_jax.models.qwen2_5_vl.config import QwenConfig
from msjoe_jax.models.qwen2_5_vl.images import (
    frame_to_patches,
    fused_patches_to_inputs,
    resize_frame,
)
from msjoe_jax.models.qwen2_5_vl.positions import mrope_positions
from msjoe_jax.rollout.generate import Completions, Prompts, Sampling, generate
from msjoe_jax.rollout.model_folder import Mllm, load_mllm
from msjoe_jax.text.prompts import PromptConfig, plain
from msjoe_jax.text.tokenizer import Tokenizer

FACTOR = 28 * 28  # pixels of a visual token, in which the reference states its budgets
# The reference's bounds (qwen-vl-utils): of a frame's pixels, of all temporal steps' of a video
# together, and of a video's frames.
MIN_FRAME_PIXELS, MAX_FRAME_PIXELS = 128 * FACTOR, 768 * FACTOR
MAX_VIDEO_PIXELS = 24576 * FACTOR
MIN_FRAMES, MAX_FRAMES = 4, 768
STYLE = PromptConfig()


class Visual(NamedTuple):
    """An image or a video as the vision tower reads it.

    patches [F, h·w, T, p, p, 3], one entry per temporal step; grid (h, w) in patches; seconds of a
    temporal step, None for an image.
    """

    patches: UInt8[np.ndarray, "F P T p p 3"]
    grid: tuple[int, int]
    seconds: float | None


def visual(
    frames: Sequence[UInt8[np.ndarray, "H W 3"]],
    config: QwenConfig,
    *,
    fps: float | None,
    min_pixels: int,
    max_pixels: int,
) -> Visual:
    """One image (`fps` None: a single frame, shown for a whole step) or the frames of a video.

    Frames are resized to one size within the budget and fused in steps of the temporal patch; the
    last one is repeated to fill a step.

    Raises:
      ValueError: a frame is too elongated.
    """
    v = config.vision
    factor = v.patch * v.merge
    resized = [
        resize_frame(f, factor=factor, min_pixels=min_pixels, max_pixels=max_pixels) for f in frames
    ]
    resized += [resized[-1]] * (-len(resized) % v.temporal_patch)
    height, width = (side // v.patch for side in resized[0].shape[:2])
    cut = np.stack([frame_to_patches(f, v.patch, v.merge, height * width)[0] for f in resized])
    steps = cut.reshape(-1, v.temporal_patch, *cut.shape[1:]).swapaxes(1, 2)
    return Visual(steps, (height, width), None if fps is None else v.temporal_patch / fps)


class Inputs(NamedTuple):
    """Prompts [1, 1, S] and the frames of all their visuals, padded to one number of patches."""

    prompts: Prompts
    patches: UInt8[np.ndarray, "F P T p p 3"]
    grid: Int[np.ndarray, "F 2"]


def assemble(
    tokenizer: Tokenizer, config: QwenConfig, text: tuple[str, str], visuals: Sequence[Visual]
) -> Inputs:
    """The prompt (text before the visuals, text after them) with its placeholders expanded."""
    merge = config.vision.merge
    ids = tokenizer.encode(text[0])
    index = [-1] * len(ids)
    longest = max((v.patches.shape[1] for v in visuals), default=merge**2)
    shape = (longest, config.vision.temporal_patch, config.vision.patch, config.vision.patch, 3)
    steps = sum(len(v.patches) for v in visuals)
    patches = np.zeros((max(steps, 1), *shape), np.uint8)
    grid = np.zeros((max(steps, 1), 2), np.int32)
    first = 0  # temporal step
    for v in visuals:
        F, P = v.patches.shape[:2]
        patches[first : first + F, :P], grid[first : first + F] = v.patches, v.grid
        rows = (first + np.arange(F))[:, None] * (longest // merge**2) + np.arange(P // merge**2)
        token = config.image_token_id if v.seconds is None else config.video_token_id
        ids += [config.vision_start_token_id, *[token] * rows.size, config.vision_end_token_id]
        index += [-1, *rows.ravel().tolist(), -1]
        first += F
    tail = tokenizer.encode(text[1])
    tokens = np.array(ids + tail, np.int32)
    positions = mrope_positions(
        tokens,
        [(len(v.patches), *v.grid) for v in visuals],
        image_token_id=config.image_token_id,
        video_token_id=config.video_token_id,
        merge=merge,
        tokens_per_second=config.tokens_per_second,
        second_per_grid=[v.seconds for v in visuals if v.seconds is not None],
    ).astype(np.int32)
    fields: Any = {
        "tokens": tokens[None, None, :-1],
        "feature_index": np.array([[index + [-1] * (len(tail) - 1)]], np.int32),
        "positions": positions[None, None, :, :-1],
        "segments": np.ones((1, 1, len(tokens) - 1), np.int32),
        "first_token": tokens[None, None, -1],
        "start": positions[None, None, 0, -1],
    }
    return Inputs(Prompts(**fields), patches, grid)


def complete(
    definition: nnx.GraphDef,
    params: Params,
    inputs: Inputs,
    seed: Int[Array, ""],
    *,
    sampling: Sampling,
) -> Completions:
    """One completion of `inputs`; to be jitted with `definition` and `sampling` static."""
    model = nnx.merge(definition, params)
    x: Float[Array, "F P C"] = fused_patches_to_inputs(jnp.moveaxis(inputs.patches, 2, 1))
    features = model.vision(x, inputs.grid)
    features = features.reshape(1, -1, features.shape[-1])
    keys = jax.random.split(jax.random.key(seed), (1, 1, 1))
    return generate(model, inputs.prompts, features, keys, sampling)


# --- the command ----------------------------------------------------------------------------------


def read_image(path: str) -> UInt8[np.ndarray, "H W 3"]:
    """An image file as RGB, turned as its EXIF orientation says.

    Raises:
      UserError: it is missing, is no image, or has too many pixels to be meant.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        limit = Image.MAX_IMAGE_PIXELS
        raise UserError(f"{path}: more than {limit} pixels; make the image smaller") from None
    except Exception as error:  # Pillow raises many kinds for bad files and bad EXIF data
        reason = getattr(error, "strerror", None) or "not a readable image"
        raise UserError(f"{path}: {reason}") from None


def read_video(
    path: str, fps: float, resize: Callable[[np.ndarray], np.ndarray]
) -> tuple[list[UInt8[np.ndarray, "H W 3"]], float]:
    """Frames of a video, each resized as it is read, and how many of them a second has.

    At least 4 (or as many as a short video has), and at most 768: of a longer one, evenly chosen.

    Raises:
      UserError: no frame can be decoded.
    """
    # Halving while reading bounds the memory, whatever the length.
    frames, stride = [], 1
    for count, (_, frame) in enumerate(decode(path, fps)):
        if count % stride == 0:
            frames.append(resize(frame))
        if len(frames) > MAX_FRAMES:
            frames, stride = frames[::2], stride * 2
    if stride == 1 and len(frames) < MIN_FRAMES and fps < 32:
        return read_video(path, 2 * fps, resize)
    return frames, fps / stride


def _budget(settings: dict[str, Any], name: str, default: int) -> int:
    """`min_pixels` or `max_pixels` of the preprocessor's settings, in old and new spelling."""
    size = settings.get("size") or {}
    edge = {"min_pixels": "shortest_edge", "max_pixels": "longest_edge"}[name]
    return int(settings.get(name) or size.get(edge) or default)


def end_ids(mllm: Mllm) -> tuple[int, ...]:
    """Ids that end a reply: those of generation_config.json, else the chat format's own."""
    stored = mllm.settings.get("generation_config", {}).get("eos_token_id")
    if stored is None:
        names = ("<|im_end|>", "<|endoftext|>")
        return tuple(mllm.tokenizer.token_id(name) for name in names)
    return tuple(stored) if isinstance(stored, list) else (stored,)


def run(
    checkpoint: str,
    prompt: str,
    images: Sequence[str],
    videos: Sequence[str],
    *,
    system: str,
    fps: float,
    max_pixels: int,
    sampling: dict[str, Any],
    seed: int,
    dtype: str,
    as_json: bool,
) -> None:
    """Reads everything, generates, prints.

    Raises:
      UserError: a flag is wrong, or a file cannot be used.
    """
    if not checkpoint:
        raise UserError("--checkpoint is missing: a folder that main or convert wrote")
    if not prompt.strip():
        raise UserError("--prompt is missing or empty")
    if not is_unicode([prompt, system]):
        raise UserError("--prompt and --system must be UTF-8 text")
    pictures = [(path, read_image(path)) for path in images]
    mllm = load_mllm(pathlib.Path(checkpoint), dtype)
    visuals = [_image(path, picture, mllm, max_pixels) for path, picture in pictures]
    visuals += [_video(path, fps, mllm, max_pixels) for path in videos]
    head = f"<|im_start|>system\n{plain(system)}<|im_end|>\n" if system else ""
    text = head + "<|im_start|>user\n", f"{plain(prompt)}<|im_end|>\n<|im_start|>assistant\n"
    inputs = assemble(mllm.tokenizer, mllm.config, text, visuals)
    banned = (mllm.config.image_token_id, mllm.config.video_token_id)
    how = Sampling(end_ids=end_ids(mllm), banned_ids=banned, **sampling)
    program = jax.jit(functools.partial(complete, mllm.definition), static_argnames="sampling")
    out = jax.device_get(program(mllm.params, inputs, np.int32(seed), sampling=how))
    mask = out.mask[0, 0, 0]
    ids = [int(t) for t in out.tokens[0, 0, 0][mask]]
    shown = mllm.tokenizer.decode([t for t in ids if t not in how.end_ids])
    print(shown)
    if as_json:
        logprobs = [float(x) for x in out.log_probs[0, 0, 0][mask]]
        print(json.dumps({"token_ids": ids, "text": shown, "logprobs": logprobs}))


def _image(path: str, picture: np.ndarray, mllm: Mllm, max_pixels: int) -> Visual:
    stored = mllm.settings.get("preprocessor_config", {})
    most = max_pixels or _budget(stored, "max_pixels", 16384 * FACTOR)
    least = min(most, _budget(stored, "min_pixels", 4 * FACTOR))
    try:
        return visual([picture], mllm.config, fps=None, min_pixels=least, max_pixels=most)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None


def _video(path: str, fps: float, mllm: Mllm, max_pixels: int) -> Visual:
    most = max_pixels or MAX_FRAME_PIXELS
    least = min(most, MIN_FRAME_PIXELS)
    factor = mllm.config.vision.patch * mllm.config.vision.merge
    try:
        frames, rate = read_video(
            path,
            fps,
            functools.partial(resize_frame, factor=factor, min_pixels=least, max_pixels=most),
        )
        most = min(most, max(2 * MAX_VIDEO_PIXELS // len(frames), MIN_FRAME_PIXELS))
        return visual(frames, mllm.config, fps=rate, min_pixels=least, max_pixels=most)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None


def cli() -> None:
    """Defines the flags here, not above: other commands have flags of the same names."""
    checkpoint = flags.DEFINE_string("checkpoint", "", "Folder that main or convert wrote.")
    prompt = flags.DEFINE_string("prompt", "", "The user's text.")
    image = flags.DEFINE_multi_string("image", [], "Image file; give the flag once for each.")
    video = flags.DEFINE_multi_string("video", [], "Video file; give the flag once for each.")
    system = flags.DEFINE_string("system", STYLE.system, "System turn; empty: none.")
    fps = flags.DEFINE_float("fps", 2.0, "Frames read of a second of video.", 0.001)
    pixels = flags.DEFINE_integer("max_pixels", 0, "Of an image or frame; 0: the model's own.", 0)
    tokens = flags.DEFINE_integer("max_new_tokens", 64, "Where the reply is cut off.", 1)
    heat = flags.DEFINE_float("temperature", 0.0, "0 is greedy.", 0.0)
    top_k = flags.DEFINE_integer("top_k", 0, "Sample among the likeliest k; 0: all.", 0)
    top_p = flags.DEFINE_float("top_p", 1.0, "Sample within this mass; 1: all.", 0.0, 1.0)
    seed = flags.DEFINE_integer("seed", 0, "Of the sampling.", 0, 2**31 - 1)
    dtype = flags.DEFINE_enum("dtype", "bfloat16", ["bfloat16", "float32"], "Of the computation.")
    as_json = flags.DEFINE_bool("json", False, "End with a line of JSON.")

    def start() -> None:
        run(
            checkpoint.value,
            prompt.value,
            image.value,
            video.value,
            system=system.value,
            fps=fps.value,
            max_pixels=pixels.value,
            sampling={
                "max_tokens": tokens.value,
                "temperature": heat.value,
                "top_k": top_k.value,
                "top_p": top_p.value,
            },
            seed=seed.value,
            dtype=dtype.value,
            as_json=as_json.value,
        )

    run_app(start)
