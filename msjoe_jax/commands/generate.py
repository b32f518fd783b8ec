"""Generates text from a prompt with images and videos, to try a converted checkpoint.

    msjoe generate --checkpoint=DIR --prompt="…" [--image=FILE] [--video=FILE] \\
        --max_new_tokens=64 --temperature=0 [--dtype=float32] [--json]

The prompt is one user turn of the model's chat format: images, then videos, then the text. Images
are resized as the reference processor does; of a video the frames are shown that transformers
samples (`do_sample_frames`) at `--fps` a second within the model's least and most, fused in pairs.
Where a model states nothing of videos, qwen-vl-utils' budgets of frames and pixels hold. How tokens
are drawn is as the model's generation_config.json says where no flag does (greedy without one).
With `--json` the last line of output is an object with `token_ids`, `text`, `logprobs`.
"""

import functools
import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from etils import epath
from flax import nnx
from jaxtyping import Array, Int, UInt8
from PIL import Image, ImageOps

from msjoe_jax.commands.cli import run_app
from msjoe_jax.data.questions import is_unicode
from msjoe_jax.data.sources import as_source, is_folder, opened
from msjoe_jax.data.video import decode
from msjoe_jax.errors import UserError
from msjoe_jax.families import Family, position_rules
from msjoe_jax.models.params import Params
from msjoe_jax.rollout.assemble import Assembler, Frame, Visual, stack_rows
from msjoe_jax.rollout.generate import Completions, Prompts, Sampling, generate
from msjoe_jax.rollout.model_folder import ModelFolder, load_model_folder
from msjoe_jax.rollout.system import DTYPES
from msjoe_jax.rollout.text import end_ids
from msjoe_jax.text.prompts import PromptConfig, plain

STEP = 256, 64  # least steps of the lengths of prompts, and of patches, that are compiled for


class Pixels(NamedTuple):
    """An image or a video as the vision tower takes it.

    Attributes:
      patches: of every temporal step, P = rows · columns of them, each of T frames.
      grid: (rows, columns).
      seconds: of a temporal step; None for an image.
    """

    patches: UInt8[np.ndarray, "F P T p p 3"]
    grid: tuple[int, int]
    seconds: float | None


class Inputs(NamedTuple):
    """A prompt [1, 1, S] and the frames of all its visuals, padded to one number of patches."""

    prompts: Prompts
    patches: UInt8[np.ndarray, "F P T p p 3"]
    grid: Int[np.ndarray, "F 2"]


def cut_pixels(
    frames: Iterable[UInt8[np.ndarray, "H W 3"]],
    family: Family,
    sizes: Any,
    *,
    fps: float | None,
    bounds: tuple[int, int],
) -> Pixels:
    """Cuts up one image (`fps` None: a single frame, shown for a whole step) or a video's frames.

    Frames are resized to one size and fused in steps of the temporal patch; the last one is
    repeated to fill a step.

    Args:
      frames: the image, or the video's.
      family: the MLLM's.
      sizes: the MLLM's, an object of that family.
      fps: how many frames a second of the video has.
      bounds: least and most pixels of a frame.

    Raises:
      ValueError: a frame is too elongated.
    """
    v, images = sizes.vision, family.images
    limits = {"factor": v.patch * v.merge, "min_pixels": bounds[0], "max_pixels": bounds[1]}
    resized = [images.resize(frame, **limits) for frame in frames]
    resized += [resized[-1]] * (-len(resized) % v.temporal_patch)
    height, width = (side // v.patch for side in resized[0].shape[:2])
    patches = np.stack([images.cut(f, v.patch, v.merge, height * width)[0] for f in resized])
    steps = patches.reshape(-1, v.temporal_patch, *patches.shape[1:]).swapaxes(1, 2)
    return Pixels(steps, (height, width), None if fps is None else v.temporal_patch / fps)


def assemble(assembler: Assembler, text: tuple[str, str], visuals: Sequence[Pixels]) -> Inputs:
    """Assembles the prompt (text before the visuals, text after them) and stacks their patches."""
    v = assembler.sizes.vision
    longest = max((len(patches[0]) for patches, _, _ in visuals), default=v.merge**2)
    longest = bucket(longest, STEP[1] * v.merge**2)
    steps = bucket(sum(len(patches) for patches, _, _ in visuals), 1)
    shape = (longest, v.temporal_patch, v.patch, v.patch, 3)
    patches = np.zeros((steps, *shape), np.uint8)
    grid = np.zeros((steps, 2), np.int32)
    parts: list[Visual] = []
    start = 0  # temporal step
    for pixels in visuals:
        F, P = pixels.patches.shape[:2]
        patches[start : start + F, :P], grid[start : start + F] = pixels.patches, pixels.grid
        rows = longest // v.merge**2  # of features, a step
        frames = tuple(Frame((start + i) * rows, pixels.grid) for i in range(F))
        parts.append(Visual(frames, pixels.seconds))
        start += F
    row = assembler.prompt([text[0], *parts, text[1]])
    row = assembler.prompt([text[0], *parts, text[1]], bucket(len(row["tokens"]), STEP[0]))
    return Inputs(stack_rows([[row]]), patches, grid)


def bucket(size: int, step: int) -> int:
    """Returns the next larger of few sizes, for each of which a program is compiled once.

    They are multiples of `step`, or of a sixteenth of the next power of two if that is more.
    """
    octave = 1 << (max(size, 1) - 1).bit_length()  # the next power of two
    step = max(step, octave // 16)
    return max(1, -(-size // step)) * step


def complete(
    family: Family,
    definition: nnx.GraphDef,
    params: Params,
    inputs: Inputs,
    seed: Int[Array, ""],
    *,
    sampling: Sampling,
) -> Completions:
    """Draws one completion of `inputs`; to be jitted, everything but arrays static.

    Args:
      family: the MLLM's.
      definition, params: the MLLM.
      inputs: the prompt and its pictures.
      seed: of the sampling.
      sampling: how tokens are drawn.
    """
    model = nnx.merge(definition, params)
    x = family.images.fused(jnp.moveaxis(inputs.patches, 2, 1))  # [F, P, C]
    features = model.vision(x, inputs.grid)
    features = features.reshape(1, -1, features.shape[-1])
    keys = jax.random.split(jax.random.key(seed), (1, 1, 1))
    return generate(model, inputs.prompts, features, keys, sampling)


# --- the command ----------------------------------------------------------------------------------


def read_image(path: str) -> UInt8[np.ndarray, "H W 3"]:
    """Reads an image file as RGB, turned as its EXIF orientation says.

    As transformers reads a path (`load_image`, then its processor): an alpha channel is dropped,
    and where one colour of a palette stands for nothing there is white.

    Raises:
      UserError: it is missing, is no image, or is suspiciously large.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                shown = ImageOps.exif_transpose(image).convert("RGB")
        if shown.info.get("transparency") is not None:  # of a palette: one colour is no colour
            layer = shown.convert("RGBA")
            white = Image.new("RGBA", layer.size, "white")
            shown = Image.alpha_composite(white, layer).convert("RGB")
        return np.asarray(shown)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        limit = Image.MAX_IMAGE_PIXELS
        raise UserError(f"{path}: more than {limit} pixels; make the image smaller") from None
    except Exception as error:  # Pillow raises many kinds for bad files and bad EXIF data
        reason = getattr(error, "strerror", None) or "not a readable image"
        raise UserError(f"{path}: {reason}") from None


def _image(path: str, picture: np.ndarray, model: ModelFolder, max_pixels: int) -> Pixels:
    assert model.files is not None
    least, most = model.files.image_bounds
    bounds = least, max_pixels or most  # the reference takes a most below the least, too
    try:
        sizes = model.system.mllm_config
        return cut_pixels([picture], model.system.family, sizes, fps=None, bounds=bounds)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None


def _video(path: str, fps: float, model: ModelFolder, max_pixels: int) -> Pixels:
    family, sizes = model.system.family, model.system.mllm_config
    assert model.files is not None
    budget, step = model.files.video, sizes.vision.temporal_patch
    least, most = budget.frame_pixels
    budget = budget._replace(fps=fps or budget.fps, frame_pixels=(least, max_pixels or most))
    source = as_source(path)
    is_folder(source)  # which it must not be
    with opened(source) as file:
        count, rate = decode(file).count()
    numbers = budget.shown(count, rate, step)
    least, most = budget.bounds(len(numbers), step)
    bounds = least, min(most, max_pixels or most)  # the caller's holds, as in qwen-vl-utils
    shown_fps = len(numbers) / count * rate
    try:
        with opened(source) as file:
            frames = decode(file).numbered(numbers)
            return cut_pixels(frames, family, sizes, fps=shown_fps, bounds=bounds)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None


def run(
    checkpoint: str,
    prompt: str,
    images: Sequence[str],
    videos: Sequence[str],
    *,
    system: str,
    fps: float,
    max_pixels: int,
    max_tokens: int,
    drawn: Mapping[str, Any],
    seed: int,
    dtype: str,
    as_json: bool,
    positions: str = "",
) -> None:
    """Reads everything, generates, prints.

    Args:
      checkpoint: a model folder that holds an MLLM.
      prompt: the user's text.
      images, videos: files.
      system: the system turn; empty: none.
      fps: frames read per second of video; 0: the model's own.
      max_pixels: of an image or frame; 0: the model's own.
      max_tokens: where the reply is cut off.
      drawn: how tokens are drawn, by fields of `Sampling`; None: as the model's own settings say.
      seed: of the sampling.
      dtype: type of the computation.
      as_json: whether to end with a line of JSON.
      positions: how those after a video are counted; empty: as the folder says.

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
    # The attention that every machine has, so that a prompt gives the same reply everywhere.
    model = load_model_folder(
        epath.Path(checkpoint), ["mllm"], dtype=dtype, attention="xla", positions=positions
    )
    visuals = [_image(path, picture, model, max_pixels) for path, picture in pictures]
    visuals += [_video(path, fps, model, max_pixels) for path in videos]
    models, tokenizer = model.system, model.tokenizers.mllm
    assert tokenizer is not None  # the folder holds an MLLM
    assert model.files is not None
    own = model.files.generation
    assembler = Assembler(tokenizer, models.family, models.mllm_config, models.position_rule)
    inputs = assemble(assembler, model.files.chat.turns(plain(system), plain(prompt)), visuals)
    settings = Sampling(
        max_tokens=max_tokens,
        end_ids=own.end_ids or end_ids(tokenizer),
        banned_ids=models.banned_ids(),
        **{name: getattr(own, name) if given is None else given for name, given in drawn.items()},
    )
    machine = model.machine
    program = jax.jit(
        functools.partial(complete, models.family, models.mllm_def),
        static_argnames="sampling",
        out_shardings=machine.whole,
    )
    on_devices = jax.device_put((inputs, np.int32(seed)), machine.whole)  # one row: on all alike
    with jax.set_mesh(machine.mesh):
        out = jax.device_get(program(model.params["mllm"], *on_devices, sampling=settings))
    mask = out.mask[0, 0, 0]
    ids = [int(t) for t in out.tokens[0, 0, 0][mask]]
    reply = tokenizer.decode([t for t in ids if t not in settings.end_ids])
    print(reply)
    if as_json:
        logprobs = [float(x) for x in out.log_probs[0, 0, 0][mask]]
        print(json.dumps({"token_ids": ids, "text": reply, "logprobs": logprobs}))


def cli() -> None:
    """Defines the flags here, not above: other commands have flags of the same names."""
    checkpoint = flags.DEFINE_string("checkpoint", "", "Folder that main or convert wrote.")
    prompt = flags.DEFINE_string("prompt", "", "The user's text.")
    image = flags.DEFINE_multi_string("image", [], "Image file; give the flag once for each.")
    video = flags.DEFINE_multi_string("video", [], "Video file; give the flag once for each.")
    system = flags.DEFINE_string("system", PromptConfig().system, "System turn; empty: none.")
    fps = flags.DEFINE_float(
        "fps", 0.0, "Frames shown per second of video; 0: the model's own, else 2.", 0.0
    )
    positions = flags.DEFINE_enum(
        "positions",
        "",
        [*position_rules()],
        "What position the text after a video has, see mllm.positions; empty: the model's own.",
    )
    pixels = flags.DEFINE_integer("max_pixels", 0, "Of an image or frame; 0: the model's own.", 0)
    tokens = flags.DEFINE_integer("max_new_tokens", 64, "Where the reply is cut off.", 1)
    own = "left out: as the model's generation_config.json says"
    temperature = flags.DEFINE_float("temperature", None, f"0 is greedy; {own}, or 0.", 0.0)
    top_k = flags.DEFINE_integer("top_k", None, f"Sample among the likeliest k; 0: all; {own}.", 0)
    top_p = flags.DEFINE_float("top_p", None, f"Sample within this mass; 1: all; {own}.", 0.0, 1.0)
    penalty = flags.DEFINE_float(
        "repetition_penalty", None, f"Of tokens that have occurred; 1: none; {own}.", 0.001
    )
    seed = flags.DEFINE_integer("seed", 0, "Seed of the sampling.", 0, 2**31 - 1)
    dtype = flags.DEFINE_enum("dtype", "bfloat16", [*reversed(DTYPES)], "Type of the computation.")
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
            max_tokens=tokens.value,
            drawn={flag.name: flag.value for flag in (temperature, top_k, top_p, penalty)},
            seed=seed.value,
            dtype=dtype.value,
            as_json=as_json.value,
            positions=positions.value,
        )

    run_app(start)
