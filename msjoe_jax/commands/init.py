"""Prepares a training on your own videos: OUT/own.py and what it names (docs/own_videos.md).

    msjoe init --videos=DIR --questions=FILE.jsonl --model=DIR --clip=DIR [--out=own]

Converts published models, decodes the videos that questions ask about, embeds their frames and
splits the questions by video into those to train on and those to judge by. The same command goes
on where it was killed, and takes in videos and questions that were added since; an own.py that is
there already stays as it is. A folder as `msjoe convert` writes it, or the one of a trained model,
is used where it lies.
"""

import json
import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
from absl import flags
from etils import epath

from msjoe_jax.commands.cli import run_app
from msjoe_jax.commands.convert import convert
from msjoe_jax.commands.convert import prepare as prepare_conversion
from msjoe_jax.commands.convert_tensors import OPEN_CLIP_CONFIG
from msjoe_jax.commands.predecode import FAILURES, embedder_of, predecode
from msjoe_jax.config_files import config_file
from msjoe_jax.data.embed import embed_records
from msjoe_jax.data.manifest import Entry, entry_row, load_entries, with_segments
from msjoe_jax.data.predecode import DecodeSettings
from msjoe_jax.data.questions import (
    Question,
    check_answers,
    is_unicode,
    load_questions,
    save_questions,
)
from msjoe_jax.data.records import RecordReader
from msjoe_jax.data.segments import whole_id
from msjoe_jax.data.sources import shown
from msjoe_jax.data.splits import hold_out
from msjoe_jax.data.video import ENDINGS
from msjoe_jax.errors import UserError
from msjoe_jax.families import read_model
from msjoe_jax.models.params import count_params
from msjoe_jax.rollout.model_folder import check_folder
from msjoe_jax.runtime.files import lock, on_disk, read_json, write_whole
from msjoe_jax.weights.folder import CONFIG

PUBLISHED = (CONFIG, OPEN_CLIP_CONFIG)  # a folder of either is a published model
CONFIG_FILE, SOURCES = "own.py", "sources.json"  # of OUT: the latter says what it was begun with
RECORDS, MANIFEST, TRAIN, HELDOUT = "records", "videos.jsonl", "train.jsonl", "heldout.jsonl"
HELDOUT_SHARE = 0.2  # of the videos
UPDATES, PRETRAIN_SHARE = 1000, 5  # of both models; one of the sampler alone for so many
MOST_QUESTIONS, MOST_FRAMES = 32, 32  # of an update; shown to answer
# Bytes a parameter: value, gradient and two moments of what trains; a copy to compute with of all.
TRAINED_BYTES, COPY_BYTES = 16, 2
USED = 0.5  # of the devices' memory at most, by parameters in a full training


class Reading(NamedTuple):
    """How published models are read: flags of `msjoe convert`, the second of CLIP alone."""

    ignore_extra: bool = False
    quick_gelu: str = ""


AS_IT_STANDS = Reading()


class Given(NamedTuple):
    """What the command was given, checked.

    videos: id to entry; train, heldout: their questions; models: the folders of mllm and clip;
    reading: how these are read; updates: of the run.
    """

    videos: dict[str, Entry]
    train: list[Question]
    heldout: list[Question]
    models: dict[str, epath.Path]
    reading: Reading
    updates: int


# --- what is given --------------------------------------------------------------------------------


def find_videos(videos: epath.PathLike) -> dict[str, Entry]:
    """Returns every video by id: of a list, or of a folder by names without ending.

    Raises:
      UserError: there is none, or two have one id.
    """
    path = on_disk(videos, "the videos")
    if path.is_file():
        return {entry.id: entry for entry in load_entries(path)}
    if not path.is_dir():
        raise UserError(f"--videos={videos}: no such folder or list of videos")
    files = sorted(file for file in path.iterdir() if file.is_file())
    found: dict[str, Entry] = {}
    for file in files:
        if file.suffix.lower() not in ENDINGS:
            continue
        if not is_unicode(file.stem):
            print(f"{videos}: passed over, since no id can be made of it: {shown(file.name)}")
            continue
        if file.stem in found:
            other_file = found[file.stem].path.name
            raise UserError(
                f"--videos={videos}: {other_file} and {file.name} would both be the video "
                f"{file.stem!r}; rename one"
            )
        found[file.stem] = Entry(file.stem, file.name, file, {})
    if not found:
        endings = " ".join(sorted(ENDINGS))
        raise UserError(f"--videos={videos}: holds no video ({endings}); a JSONL list may name any")
    if other := [file.name for file in files if file.suffix.lower() not in ENDINGS]:
        print(
            f"{videos}: no videos by their names, and passed over: {', '.join(map(shown, other))}"
        )
    return found


def split_before(out: epath.Path) -> dict[str, bool]:
    """Returns whether each video that an earlier run has split is held out; {} if none has.

    Raises:
      UserError: its files cannot be read.
    """
    return {
        whole_id(question.video): name == HELDOUT
        for name in (HELDOUT, TRAIN)  # of one in both, as is allowed, the latter counts
        if (out / name).exists()
        for question in load_questions(out / name)
    }


def read_given(
    videos: str,
    questions: str,
    heldout: str,
    model: str,
    clip: str,
    updates: int = UPDATES,
    reading: Reading = AS_IT_STANDS,
    before: Mapping[str, bool] | None = None,
) -> Given:
    """Checks everything that can be checked before work that takes long.

    Args:
      videos: a folder of videos, or a list of them.
      questions: a question file.
      heldout: a question file to judge by; empty: a part of `questions`.
      model, clip: published folders or model folders.
      updates: of the run.
      reading: of published folders.
      before: the split that is there, see `split_before`.

    Raises:
      UserError: something is missing or wrong.
    """
    found = find_videos(videos)
    asked = load_questions(questions)
    judging = load_questions(heldout) if heldout else []
    asked_for = (question.video for question in (*asked, *judging))
    segments = with_segments(found.values(), asked_for)
    found = {entry.id: entry for entry in segments}
    for file, part in ((questions, asked), (heldout, judging)):
        unknown = sorted({question.video for question in part} - set(found))
        if unknown:
            raise UserError(
                f"{file}: {len(unknown)} of the videos that are asked about are not in {videos}, "
                f"such as {unknown[0]!r}; there are {', '.join(list(found)[:5])} …"
            )
    train, kept = (asked, judging) if heldout else hold_out(asked, HELDOUT_SHARE, before)
    check_answers(train, questions)
    if both := {q.video for q in train} & {q.video for q in kept}:
        print(
            f"{heldout}: {len(both)} of its videos are trained on too, such as {min(both)!r}; a "
            "run refuses that without config.data.shared_videos=True"
        )
    models = {"mllm": epath.Path(model), "clip": epath.Path(clip)}
    for name, folder in models.items():
        _check_model(name, folder, reading)
    used = {question.video for question in (*train, *kept)}
    wholes = used | {whole_id(video) for video in used}
    if unused := len(set(found) - wholes):
        print(f"videos without a question, which are passed over: {unused} of {len(found)}")
    asked_about = {name: entry for name, entry in found.items() if name in used}
    return Given(asked_about, train, kept, models, reading, updates)


def _check_model(name: str, folder: epath.Path, reading: Reading) -> None:
    """Checks that a folder holds the model of this name, published or as a model folder."""
    flag = "model" if name == "mllm" else name
    if (folder / "params").is_dir():
        check_folder(folder, [name])
        return
    if not any((folder / file).is_file() for file in PUBLISHED):
        raise UserError(
            f"--{flag}={folder}: neither a published model ({' or '.join(PUBLISHED)}) nor a model "
            "folder (params)"
        )
    how = _reading_of(name, reading)
    found = prepare_conversion(folder, None, *how).model.name
    if found != name:
        raise UserError(f"--{flag}={folder}: is a published {found}, not the {name}")


def _reading_of(name: str, reading: Reading) -> Reading:
    return reading if name == "clip" else reading._replace(quick_gelu="")


# --- the work -------------------------------------------------------------------------------------


def prepare(given: Given, out: epath.Path, workers: int) -> None:
    """Makes the models, the records and the splits in `out`, and writes its config.

    `workers` videos are decoded at a time; 0: one for each core.

    Raises:
      UserError: `out` was begun with other models, or a step fails.
    """
    with lock(out):
        _check_sources(out / SOURCES, given)
        models = {name: _converted(name, given, out) for name in given.models}
        encode, clip = embedder_of(models["clip"], "clip")
        rows = (entry_row(entry, out) for entry in given.videos.values())
        write_whole(out / MANIFEST, b"".join(rows))
        records = out / RECORDS
        predecode(out / MANIFEST, records, DecodeSettings(), workers)
        embed_records(records, encode, clip)
        reader = RecordReader(records, clip)
        parts = {TRAIN: given.train, HELDOUT: given.heldout}
        for name, questions in parts.items():
            parts[name] = _decoded(questions, reader, name)
            save_questions(out / name, parts[name])
            about = len({question.video for question in parts[name]})
            print(f"{out / name}: questions {len(parts[name])}, videos {about}")
        file = out / CONFIG_FILE
        if file.exists():
            print(f"{file}: is there already, and stays as it is")
        else:
            frames = max(video.num_frames for video in reader.infos(given.videos))
            fields = _fields(models, out, len(parts[TRAIN]), frames)
            fields |= {
                "updates": given.updates,
                "pretrain_updates": max(1, given.updates // PRETRAIN_SHARE),
            }
            write_whole(file, filled(epath.Path(config_file("own")).read_text(), fields))
            print(f"{file}: the config of the run")


def _check_sources(file: epath.Path, given: Given) -> None:
    """Writes what the folder is made with, or compares it with what it was begun with."""
    sources = {name: os.path.realpath(folder) for name, folder in given.models.items()}
    before = read_json(file) if file.exists() else sources
    for name, source in sources.items():
        if before.get(name) != source:
            raise UserError(
                f"{file.parent}: was begun with {before.get(name)}, not {source}; choose another "
                "--out"
            )
    write_whole(file, json.dumps(sources, indent=1) + "\n")


def _converted(name: str, given: Given, out: epath.Path) -> epath.Path:
    """Returns the model folder: the one that was given, or `out`'s own, converted if need be."""
    folder = given.models[name]
    if (folder / "params").is_dir():
        return folder
    made = out / ("model" if name == "mllm" else name)
    if not made.exists():
        convert(folder, made, None, *_reading_of(name, given.reading))
        print(f"{made}: converted from {folder}")
    return made


def _decoded(questions: list[Question], reader: RecordReader, name: str) -> list[Question]:
    """Leaves out, and counts, the questions whose videos gave no frame."""
    known = set(reader.ids)
    kept = [question for question in questions if question.video in known]
    failures = reader.directory / FAILURES
    if not kept:
        raise UserError(f"{name}: none of its videos could be decoded; see {failures}")
    if left_out := len(questions) - len(kept):
        print(f"{name}: questions left out, since their videos fail: {left_out}; see {failures}")
    return kept


# --- the config -----------------------------------------------------------------------------------


def _fields(
    models: dict[str, epath.Path], out: epath.Path, questions: int, frames: int
) -> dict[str, object]:
    """Returns the config's fields; prints why where they depend on the machine."""
    devices = jax.devices()
    number, memory = len(devices), _memory(devices)
    family, sizes = read_model(models["mllm"] / "mllm" / "config.json")
    params = family.abstract_params(sizes)
    all_of_it, decoder = count_params(params), count_params(params["language"])
    need = TRAINED_BYTES * decoder + COPY_BYTES * all_of_it
    training = "full" if need <= USED * memory else "lora"
    print(
        f"training = {training!r}: a full training of {decoder / 1e6:,.0f} M parameters takes "
        f"{need / 1e9:,.1f} GB and as much again for its batches; {number} × "
        f"{devices[0].device_kind} have {memory / 1e9:,.1f} GB"
    )
    at_once = min(MOST_QUESTIONS, questions) // number * number
    return {
        "model": os.path.relpath(models["mllm"], out),
        "clip": os.path.relpath(models["clip"], out),
        "records": RECORDS,
        "questions": TRAIN,
        "heldout_records": RECORDS,
        "heldout_questions": HELDOUT,
        "questions_per_update": max(at_once, number),
        "key_frames": min(MOST_FRAMES, max(1, frames // 2)),
        "training": training,
        "precision": "float32" if devices[0].platform == "cpu" else "bfloat16",
    }


def _memory(devices: Sequence[jax.Device]) -> int:
    """Returns the bytes that devices have together; the machine's where they do not say."""
    limits = [(device.memory_stats() or {}).get("bytes_limit") for device in devices]
    if all(limits):
        return sum(limit for limit in limits if limit)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def filled(text: str, fields: dict[str, object]) -> str:
    """Returns the text of a config with other values of the fields that it assigns."""
    for name, value in fields.items():
        line = f"{name} = {json.dumps(value, ensure_ascii=False)}"  # as Python has it too
        head, found, tail = text.partition(f"\n{name} = ")
        assert found, name
        text = f"{head}\n{line}{tail[len(tail.split()[0]) :]}"
    return text


def cli() -> None:
    """Defines the flags here, not above: other commands have flags of the same names."""
    names = {
        "videos": "Folder of videos, whose ids are their names without ending, or a JSONL list.",
        "questions": "Question file (JSONL).",
        "model": "Published multimodal LLM, or a model folder.",
        "clip": "Published CLIP, or a model folder.",
    }
    given = {name: flags.DEFINE_string(name, "", text) for name, text in names.items()}
    heldout = flags.DEFINE_string("heldout", "", "Question file to judge by; empty: a fifth.")
    out = flags.DEFINE_string("out", "own", "Folder to write.")
    updates = flags.DEFINE_integer("updates", UPDATES, "Of both models together.", lower_bound=1)
    ignore_extra = flags.DEFINE_bool(
        "ignore_extra", False, "Of published models: pass over fields that are not known here."
    )
    quick_gelu = flags.DEFINE_enum(
        "quick_gelu", "", ["", "yes", "no"], "Of an open_clip folder whose config does not say."
    )
    workers = flags.DEFINE_integer(
        "workers", None, "Videos decoded at a time; by default one for each core.", lower_bound=1
    )

    def start() -> None:
        missing = [f"--{name} is missing: {names[name]}" for name in names if not given[name].value]
        if missing:
            raise UserError(*missing)
        folder = on_disk(out.value, "the prepared training")
        values = {name: flag.value for name, flag in given.items()}
        reading = Reading(ignore_extra.value, quick_gelu.value)
        checked = read_given(
            heldout=heldout.value,
            updates=updates.value,
            reading=reading,
            before=split_before(folder),
            **values,
        )
        prepare(checked, folder, workers.value or 0)
        print(
            f"next: python -m msjoe_jax.main --config={folder / CONFIG_FILE} "
            f"--workdir={folder / 'run'}"
        )

    run_app(start)
