"""The rehearsal's own steps, each in a process: make, supervise, compare (benchmarks/rehearsal.py).

python -m benchmarks.rehearsal_parts --workdir=DIR --part=make
"""

import json
import pathlib
import sys
from typing import Any

import jax
import numpy as np
from absl import app, flags, logging
from flax import nnx

from benchmarks.rehearsal import BROKEN, FIELDS, TOLERANCE, VIDEOS, sizes
from benchmarks.rehearsal_models import (
    Schedule,
    copy_tokenizer,
    make_lesson,
    make_questions,
    supervise,
    write_clip_tokenizer,
    write_lines,
    write_published,
)
from msjoe_jax.config import base
from msjoe_jax.config_check import check
from msjoe_jax.data.records import RecordReader
from msjoe_jax.families import FAMILIES
from msjoe_jax.models.clip.model import CLIP
from msjoe_jax.models.params import abstract
from msjoe_jax.rollout.assemble import Assembler, Frame, Visual, stack_rows
from msjoe_jax.rollout.frames import to_patches
from msjoe_jax.rollout.model_folder import load_model_folder, save_model_folder
from msjoe_jax.rollout.programs import Patches, frame_features
from msjoe_jax.rollout.stored_models import StoredModel
from msjoe_jax.rollout.system import load_tokenizers, make_system
from msjoe_jax.rollout.text import make_text
from msjoe_jax.runtime.machine import make_machine
from msjoe_jax.text.prompts import answer_prompt
from msjoe_jax.weights.clip import HUGGING_FACE
from msjoe_jax.weights.safetensors import read_folder
from tests.support.material import BROKEN_VIDEOS, QWEN
from tests.support.material import VIDEOS as VIDEO_FOLDER
from tests.support.torch_stubs import declare_torchvision_ops

SEED = 0
TRAIN, HELDOUT = 16, 8  # questions
SHOWN = 4  # frames of each video in the lessons' pool


def make(work: pathlib.Path) -> None:
    """Writes the published folders, the list of videos and the questions."""
    mllm, clip = sizes()
    family = FAMILIES["qwen2_5_vl"]
    table, shapes = family.weight_table(mllm), family.abstract_params(mllm)
    copy_tokenizer(QWEN, work / "hf" / "qwen")
    write_published(work / "hf" / "qwen", mllm.to_hf(), table, shapes, SEED)
    write_clip_tokenizer(work / "hf" / "clip")
    shapes = abstract(lambda: CLIP(clip, rngs=nnx.Rngs(0)))[1]
    write_published(work / "hf" / "clip", clip.to_hf(), HUGGING_FACE, shapes, SEED)
    listed = [{"id": name, "video": str(VIDEO_FOLDER / name)} for name in VIDEOS]
    broken = {"id": BROKEN, "video": str(BROKEN_VIDEOS / BROKEN)}
    write_lines(work / "videos.jsonl", [*listed, broken])
    write_lines(work / "train.jsonl", make_questions(VIDEOS, TRAIN))
    write_lines(work / "heldout.jsonl", make_questions(VIDEOS, HELDOUT, TRAIN))


def config_of(work: pathlib.Path) -> Any:
    """Returns the run's config, from the random model, in float32."""
    values = base()
    for name, value in FIELDS.items():
        group, _, field = name.rpartition(".")
        (values[group] if group else values)[field] = value
    values.mllm.dtype = "float32"
    values.phases = ("difficulty",)
    values.mesh.fsdp, values.mesh.tensor = 1, 1
    values.mllm.checkpoint = str(work / "models" / "random")
    values.clip.checkpoint = str(work / "models" / "clip")
    values.data.train_records = str(work / "records")
    values.data.train_questions = str(work / "train.jsonl")
    return check(values)


def pool_of(system: Any, config: Any, work: pathlib.Path) -> tuple[Patches, list[Frame]]:
    """Reads a few frames of every video; returns their patches and their places in prompts."""
    reader = RecordReader(work / "records")
    pixels = []
    for name in VIDEOS:
        places = np.linspace(0, reader.info(name).num_frames - 1, SHOWN).round().astype(int)
        pixels += list(reader.frames(name, places.tolist()))
    patches, grids = to_patches(pixels, system, config.frames.key_patches)
    rows = patches.shape[1] // system.mllm_config.vision.merge**2
    frames = [Frame(i * rows, (int(h), int(w))) for i, (h, w) in enumerate(grids)]
    return Patches(patches[None], grids[None]), frames


def supervise_policy(work: pathlib.Path) -> None:
    """Teaches the random MLLM both formats and writes the model folder."""
    config = config_of(work)
    tokenizers = load_tokenizers(config.models)
    system = make_system(config.models, tokenizers)
    text = make_text(system, tokenizers, config.prompt)
    machine = make_machine(config.mesh)
    questions = [json.loads(line) for line in (work / "train.jsonl").open()]
    with jax.set_mesh(machine.mesh):
        params = {
            name: StoredModel(name, folder, name).load(system, machine)
            for name, folder in (
                ("mllm", work / "models" / "random" / "params"),
                ("clip", work / "models" / "clip" / "params"),
            )
        }
        params["sampler"] = StoredModel("sampler", None, seed=SEED).load(system, machine)
        patches, places = pool_of(system, config, work)
        features = jax.jit(lambda p: frame_features(system, system.mllm(p), patches))(
            params["mllm"]
        )
        assembler = Assembler(text.tokenizer, system.family, system.mllm_config)
        schedule = Schedule()
        rngs = [np.random.default_rng([SEED, i]) for i in range(schedule.steps)]
        params["mllm"], _ = supervise(
            system,
            params["mllm"],
            features,
            lambda i: make_lesson(
                assembler, text, questions, places, config.frames, rngs[i], schedule
            ),
            schedule,
        )
        save_model_folder(
            work / "supervised",
            settings=config.models,
            parts=config.parts("frames", "prompt"),
            system=system,
            tokenizers=tokenizers,
            params=params,
        )


def compare(work: pathlib.Path) -> None:
    """Compares the logits of the export in transformers with ours, on a prompt with frames.

    Raises:
      SystemExit: they differ by more than TOLERANCE of the largest, or a tensor that did not train
        is not the published one byte by byte.
    """
    changed = untrained_changes(work / "hf" / "policy", work / "hf" / "final")
    if changed:
        sys.exit(f"error: did not train and is another: {', '.join(changed)}")
    ours, inputs = our_logits(work)
    theirs = their_logits(work / "hf" / "final", inputs)
    gap = np.abs(theirs - ours).max() / np.abs(theirs).max()
    alike = (theirs.argmax(-1) == ours.argmax(-1)).mean()
    print(
        f"logits differ by {gap:.4f} of the largest at most; "
        f"the likeliest token is the same at {alike:.0%} of {len(ours)} places"
    )
    if not gap <= TOLERANCE:
        sys.exit(f"error: that is more than {TOLERANCE}")


def untrained_changes(before: pathlib.Path, after: pathlib.Path) -> list[str]:
    """Returns the vision tower's tensors whose bytes differ between two published folders."""
    old, new = read_folder(before), read_folder(after)
    tower = [name for name in old if name.startswith("visual.")]
    assert tower
    return [n for n in tower if n not in new or old[n].read().tobytes() != new[n].read().tobytes()]


def our_logits(work: pathlib.Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Computes our logits [S, V] of an answer's prompt, and what transformers takes of it."""
    loaded = load_model_folder(work / "run" / "final", dtype="bfloat16")
    system, config = loaded.system, config_of(work)
    assert loaded.text is not None
    row = json.loads((work / "heldout.jsonl").read_text().splitlines()[0])
    written = answer_prompt(config.prompt, row["question"], row["options"])
    patches, places = pool_of(system, config, work)
    patches = Patches(patches.pixels[:, : config.frames.key], patches.grid[:, : config.frames.key])
    shown = [Visual((place,)) for place in places[: config.frames.key]]
    assembler = Assembler(loaded.text.tokenizer, system.family, system.mllm_config)
    prompts = stack_rows([[assembler.prompt([written[0], *shown, written[1]])]])

    @jax.jit
    def logits(params: Any) -> jax.Array:
        model = system.mllm(params)
        features = frame_features(system, model, patches)
        x = model.prompt_embeds(prompts.tokens, prompts.feature_index, features)
        h, _ = model.language.prefill(x[:, 0], prompts.positions[:, 0], prompts.segments[:, 0])
        return model.language.logits(h)

    with jax.set_mesh(loaded.machine.mesh):
        found = np.asarray(logits(loaded.params["mllm"]), np.float32)[0]
    vision, images = system.mllm_config.vision, system.family.images
    flat = np.asarray(images.inputs(patches.pixels[0], vision.temporal_patch), np.float32)
    grids = np.asarray(patches.grid[0])
    tokens = np.asarray(prompts.tokens[0])
    return found, {
        "input_ids": tokens.astype(np.int64),
        "attention_mask": np.ones_like(tokens, np.int64),
        "mm_token_type_ids": (tokens == system.mllm_config.image_token_id).astype(np.int32),
        "pixel_values": np.concatenate([x[: h * w] for x, (h, w) in zip(flat, grids, strict=True)]),
        "image_grid_thw": np.pad(grids, ((0, 0), (1, 0)), constant_values=1).astype(np.int64),
    }


def their_logits(folder: pathlib.Path, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Computes the logits [S, V] of an exported folder in transformers, in bfloat16."""
    declare_torchvision_ops()
    import torch
    import transformers

    model = transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(
        folder, dtype=torch.bfloat16
    ).eval()
    given = {name: torch.from_numpy(x) for name, x in inputs.items()}
    given["pixel_values"] = given["pixel_values"].to(torch.bfloat16)
    with torch.inference_mode():
        return model(**given).logits[0].float().numpy()


PARTS = {"make": make, "supervise": supervise_policy, "compare": compare}


def main() -> None:
    """Defines the flags and does one part."""
    workdir = flags.DEFINE_string("workdir", "runs/rehearsal", "The rehearsal's folder.")
    part = flags.DEFINE_enum("part", "make", list(PARTS), "Which part.")

    def start(_: Any) -> None:
        PARTS[part.value](pathlib.Path(workdir.value))

    logging.set_verbosity(logging.ERROR)  # Orbax reports every file it touches
    app.run(start)


if __name__ == "__main__":
    main()
