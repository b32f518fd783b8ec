"""The command `generate`: token for token what transformers generates, and how it takes input."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest
import torch
from flax import nnx
from PIL import Image

from msjoe_jax.commands import generate as command
from msjoe_jax.data.video import decode
from msjoe_jax.errors import UserError
from msjoe_jax.families import FAMILIES
from msjoe_jax.models.qwen2_5_vl.config import QwenConfig
from msjoe_jax.models.qwen2_5_vl.images import fused_patches_to_inputs
from msjoe_jax.rollout.assemble import Assembler
from msjoe_jax.rollout.generate import Prompts, Sampling, generate
from msjoe_jax.rollout.model_folder import load_model_folder
from msjoe_jax.text.tokenizer import Tokenizer
from tests.support.qwen_oracle import IMAGE, VIDEO, ours, reference
from tests.support.tiny import tiny_model_folder, tiny_video
from tests.support.torch_stubs import declare_torchvision_ops

pytestmark = pytest.mark.slow

TOKENS = 64
ENDS = (8,)
FAMILY = FAMILIES["qwen2_5_vl"]
BOUNDS = (64, 40 * 16)  # pixels


class Words(Tokenizer):
    """A tokenizer of numbers: "3 4 5"."""

    def __init__(self) -> None:
        pass

    def encode(self, text: str) -> list[int]:
        return [int(word) for word in text.split()]


@functools.cache
def models():
    module = reference()
    return module, *ours(module, chunk=16)


def frames(count: int, height: int, width: int) -> list[np.ndarray]:
    rng = np.random.default_rng(height)
    return [rng.integers(0, 256, (height, width, 3), np.uint8) for _ in range(count)]


def picture(config: QwenConfig, height: int, width: int) -> command.Pixels:
    return command.cut_pixels(frames(1, height, width), FAMILY, config, fps=None, bounds=BOUNDS)


def clip(config: QwenConfig, count: int) -> command.Pixels:
    """Two frames a second make a temporal position a second: no more of them than columns."""
    return command.cut_pixels(frames(count, 16, 40), FAMILY, config, fps=4.0, bounds=BOUNDS)


def assembled(config: QwenConfig, text, visuals) -> command.Inputs:
    return command.assemble(Assembler(Words(), FAMILY, config), text, visuals)


def conversations(config: QwenConfig) -> dict[str, tuple[tuple[str, str], list[command.Pixels]]]:
    return {
        "text": (("11 12 13", "14 15"), []),
        "image": (("9", "21 22 23"), [picture(config, 24, 24)]),
        "images": (("3 4", "30 31"), [picture(config, 8, 30), picture(config, 37, 16)]),
        "video": (("5 6", "41 42 43 44"), [clip(config, 5)]),
        "mixed": (("2", "17 18"), [picture(config, 16, 16), clip(config, 4)]),
    }


def reference_inputs(config: QwenConfig, rows: list[command.Inputs]) -> dict[str, torch.Tensor]:
    """Left-padded rows as transformers takes them."""
    shown = [r.prompts.tokens[r.prompts.segments > 0] for r in rows]
    ids = [np.append(x, r.prompts.first_token) for x, r in zip(shown, rows, strict=True)]
    longest = max(map(len, ids))
    left = [longest - len(row) for row in ids]
    tokens = np.stack([np.pad(row, (n, 0)) for row, n in zip(ids, left, strict=True)])
    valid = np.stack([np.arange(longest) >= n for n in left])
    inputs = {
        "input_ids": torch.from_numpy(tokens).long(),
        "attention_mask": torch.from_numpy(valid).long(),
        "mm_token_type_ids": torch.from_numpy((tokens == IMAGE) + 2 * (tokens == VIDEO)).int(),
    }
    return inputs


def add_visuals(inputs: dict[str, torch.Tensor], visuals: list[command.Pixels]) -> None:
    for name, grid_name, kind in (
        ("pixel_values", "image_grid_thw", [v for v in visuals if v.seconds is None]),
        ("pixel_values_videos", "video_grid_thw", [v for v in visuals if v.seconds is not None]),
    ):
        if not kind:
            continue
        flat = [np.asarray(fused_patches_to_inputs(v.patches.swapaxes(1, 2))) for v in kind]
        inputs[name] = torch.from_numpy(np.concatenate([x.reshape(-1, x.shape[-1]) for x in flat]))
        inputs[grid_name] = torch.tensor([(len(v.patches), *v.grid) for v in kind])
        if name == "pixel_values_videos":
            inputs["second_per_grid_ts"] = torch.tensor([v.seconds for v in kind])


def reference_tokens(module, inputs: dict[str, torch.Tensor], ends: tuple[int, ...], **how):
    """Greedy replies, each up to its end token."""
    out = module.generate(
        **inputs,
        max_new_tokens=TOKENS,
        do_sample=False,
        eos_token_id=list(ends) or None,
        pad_token_id=0,
        suppress_tokens=[IMAGE, VIDEO],
        **how,
    )
    replies = out[:, inputs["input_ids"].shape[1] :].tolist()
    lengths = [next((i + 1 for i, t in enumerate(r) if t in ends), len(r)) for r in replies]
    return [reply[:length] for reply, length in zip(replies, lengths, strict=True)]


def greedy(ends: tuple[int, ...]) -> Sampling:
    return Sampling(TOKENS, ends, (IMAGE, VIDEO), 0.0)


@pytest.mark.parametrize("name", ["text", "image", "images", "video", "mixed"])
def test_greedy_is_transformers_greedy(name):
    module, config, definition, params = models()
    text, visuals = conversations(config)[name]
    inputs = assembled(config, text, visuals)
    theirs = reference_inputs(config, [inputs])
    add_visuals(theirs, visuals)
    want = reference_tokens(module, theirs, ())[0]
    program = jax.jit(
        functools.partial(command.complete, FAMILY, definition), static_argnames="sampling"
    )
    with jax.default_matmul_precision("highest"):
        done = program(params, inputs, np.int32(0), sampling=greedy(()))
    found = np.asarray(done.tokens[0, 0, 0])[np.asarray(done.mask[0, 0, 0])].tolist()
    assert found == want and len(want) == TOKENS


def test_a_long_video_by_the_rule_of_transformers():
    """Text after it, and the reply, stand where that version puts them; by ours elsewhere."""
    module, config, definition, params = models()
    visuals = [clip(config, 24)]
    theirs = {}
    for rule in ("transformers-5.3", "released"):
        assembler = Assembler(Words(), FAMILY, config, rule)
        inputs = command.assemble(assembler, ("5 6", "41 42 43 44"), visuals)
        theirs = theirs or reference_inputs(config, [inputs])
        add_visuals(theirs, visuals)
        program = jax.jit(
            functools.partial(command.complete, FAMILY, definition), static_argnames="sampling"
        )
        with jax.default_matmul_precision("highest"):
            done = program(params, inputs, np.int32(0), sampling=greedy(()))
        found = np.asarray(done.tokens[0, 0, 0]).tolist()
        same = found == reference_tokens(module, theirs, ())[0]
        assert same == (rule == "transformers-5.3")


@pytest.mark.parametrize("name", ["text", "mixed"])
def test_repetition_penalty_is_transformers(name):
    module, config, definition, params = models()
    text, visuals = conversations(config)[name]
    inputs = assembled(config, text, visuals)
    theirs = reference_inputs(config, [inputs])
    add_visuals(theirs, visuals)
    want = reference_tokens(module, theirs, (), repetition_penalty=1.3)[0]
    assert want != reference_tokens(module, theirs, ())[0]
    program = jax.jit(
        functools.partial(command.complete, FAMILY, definition), static_argnames="sampling"
    )
    sampling = dataclasses.replace(greedy(()), repetition_penalty=1.3)
    with jax.default_matmul_precision("highest"):
        done = program(params, inputs, np.int32(0), sampling=sampling)
    assert np.asarray(done.tokens[0, 0, 0]).tolist() == want


def test_a_bucket_is_compiled_once():
    _, config, definition, params = models()
    program = jax.jit(
        functools.partial(command.complete, FAMILY, definition), static_argnames="sampling"
    )
    for words in ("11 12 13", "3 4 5 6 7 8 9 10", "11"):
        for visual in (picture(config, 24, 24), picture(config, 37, 16)):
            inputs = assembled(config, ("9", words), [visual])
            program(params, inputs, np.int32(0), sampling=greedy(()))
    assert program._cache_size() == 1
    sizes = {command.bucket(n, 8) for n in range(1, 1025)}
    assert all(n <= command.bucket(n, 8) < n + max(8, n / 8 + 1) for n in range(1, 5000))
    assert len(sizes) < 50 and max(sizes) == 1024


def test_a_batch_of_unequal_prompts():
    """Ours padded on the right, theirs on the left; images in some rows only."""
    module, config, definition, params = models()
    chosen = [conversations(config)[name] for name in ("text", "image", "images")]
    rows = [assembled(config, *conversation) for conversation in chosen]
    theirs = reference_inputs(config, rows)
    add_visuals(theirs, [v for _, visuals in chosen for v in visuals])
    want = reference_tokens(module, theirs, ENDS)
    lengths = [len(reply) for reply in want]
    assert min(lengths) < TOKENS == max(lengths)  # both kinds are seen

    longest = max(r.prompts.tokens.shape[-1] for r in rows)

    def wide(x, fill=0):
        return np.pad(
            x, [(0, 0)] * (x.ndim - 1) + [(0, longest - x.shape[-1])], constant_values=fill
        )

    def widened(p: Prompts) -> Prompts:
        return p._replace(
            tokens=wide(p.tokens),
            feature_index=wide(p.feature_index, -1),
            positions=wide(p.positions),
            segments=wide(p.segments),
        )

    prompts = jax.tree.map(lambda *x: np.concatenate(x), *(widened(r.prompts) for r in rows))

    @jax.jit
    def run(params, prompts, visuals):
        model = nnx.merge(definition, params)
        features = [
            model.vision(fused_patches_to_inputs(patches.swapaxes(1, 2)), grid).reshape(-1, 32)
            for patches, grid in visuals
        ]
        most = max(len(f) for f in features)
        features = jax.numpy.stack(
            [jax.numpy.pad(f, ((0, most - len(f)), (0, 0))) for f in features]
        )
        keys = jax.random.split(jax.random.key(0), (len(visuals), 1, 1))
        return generate(model, prompts, features, keys, greedy(ENDS))

    with jax.default_matmul_precision("highest"):
        done = run(params, prompts, [(r.patches, r.grid) for r in rows])
    flat = (np.asarray(x).reshape(len(rows), -1) for x in (done.tokens, done.mask))
    found = [tokens[mask].tolist() for tokens, mask in zip(*flat, strict=True)]
    assert found == want


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_model_folder(tmp_path_factory.mktemp("generate"))


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    folder = tmp_path_factory.mktemp("media")
    Image.fromarray(frames(1, 40, 50)[0]).save(folder / "picture.png")
    tiny_video(folder / "clip.mp4", frames=12, rate=5, size=56)
    (folder / "broken.png").write_bytes(b"no picture")
    Image.fromarray(np.zeros((1, 400, 3), np.uint8)).save(folder / "long.png")
    return folder


HOW = {
    "system": "",
    "fps": 2.0,
    "max_pixels": 28 * 28 * 4,
    "max_tokens": 5,
    "drawn": dict.fromkeys(("temperature", "top_k", "top_p", "repetition_penalty")),
    "seed": 0,
    "dtype": "float32",
    "as_json": True,
}


def run(folder, images=(), videos=(), prompt="what colour is the cup ?", **changes):
    command.run(str(folder), prompt, images, videos, **{**HOW, **changes})


def test_the_last_line_is_json(folder, media, capsys):
    run(folder, [str(media / "picture.png")], [str(media / "clip.mp4")])
    text, last = capsys.readouterr().out.rstrip("\n").rsplit("\n", 1)
    reply = json.loads(last)
    assert set(reply) == {"token_ids", "text", "logprobs"} and reply["text"] == text
    assert 1 <= len(reply["token_ids"]) == len(reply["logprobs"]) <= 5
    assert all(x <= 0 for x in reply["logprobs"])
    run(folder, [str(media / "picture.png")], [str(media / "clip.mp4")], as_json=False)
    assert capsys.readouterr().out.rstrip("\n") == text
    run(folder)  # another prompt: no picture
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["logprobs"] != reply["logprobs"]


@pytest.mark.parametrize(
    "flags, words",
    [
        ({"images": ["none.png"]}, r"none\.png: No such file"),
        ({"images": ["broken.png"]}, r"broken\.png: not a readable image"),
        ({"images": ["long.png"]}, r"long\.png: .*too elongated"),
        ({"videos": ["broken.png"]}, r"broken\.png"),
        ({"prompt": " "}, "--prompt is missing or empty"),
        ({"prompt": "who \udcff?"}, "--prompt and --system must be UTF-8"),
        ({"system": "\ud83d"}, "--prompt and --system must be UTF-8"),
        ({"folder": ""}, "--checkpoint is missing"),
        ({"folder": "nowhere"}, "nowhere"),
    ],
)
def test_bad_input_is_one_line(folder, media, flags, words):
    for kind in ("images", "videos"):
        flags = {**flags, kind: [str(media / name) for name in flags.get(kind, [])]}
    with pytest.raises(UserError, match=words) as error:
        run(**{"folder": folder, **flags})
    assert "\n" not in str(error.value)


def test_a_gigapixel_image_is_refused_unread(folder, media, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UserError, match=r"picture\.png: more than 1000 pixels"):
        run(folder, [str(media / "picture.png")])


def test_a_photo_is_turned_as_its_camera_says(tmp_path):
    """Orientation 6: the first stored row is shown as the right-hand column."""
    stored = frames(1, 4, 6)[0]
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(stored).save(tmp_path / "photo.png", exif=exif)
    shown = command.read_image(str(tmp_path / "photo.png"))
    np.testing.assert_array_equal(shown, np.rot90(stored, -1))


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize("kind", ["palette", "one of a palette", "gif", "alpha", "grey", "16 bit"])
def test_pictures_are_read_as_transformers_reads_them(kind, tmp_path):
    declare_torchvision_ops()
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    rng = np.random.default_rng(0)
    noise = lambda *shape: rng.integers(0, 256, (24, 30, *shape), np.uint8)  # noqa: E731
    file, options = tmp_path / ("x.gif" if kind == "gif" else "x.png"), {}
    if kind in ("palette", "one of a palette", "gif"):
        image = Image.fromarray(noise(3)).quantize(16)
        options = {"transparency": bytes(range(0, 256, 16)) if kind == "palette" else 3}
    elif kind == "16 bit":
        image = Image.fromarray(rng.integers(0, 65536, (24, 30), np.uint16))
    else:
        image = Image.fromarray(noise({"alpha": 4, "grey": 2}[kind]))
    image.save(file, **options)
    processor = Qwen2VLImageProcessorPil()
    (fetched,) = processor.fetch_images([str(file)])
    want = processor.process_image(fetched, do_convert_rgb=True).transpose(1, 2, 0)
    np.testing.assert_array_equal(command.read_image(str(file)), want)


@pytest.mark.parametrize("settings", [{}, {"max_frames": 4}, {"min_frames": 10}, {"fps": 5}])
def test_a_video_is_shown_as_transformers_shows_it(folder, media, settings):
    """Which frames, their size, and the seconds of a step: 12 frames at 5 a second."""
    declare_torchvision_ops()
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    model = load_model_folder(folder, ["mllm"])
    vision = model.system.mllm_config.vision
    settings = {"patch_size": vision.patch, "merge_size": vision.merge, **settings}
    settings |= {"min_pixels": 784, "max_pixels": 3136}
    budget = model.system.family.images.video_budget(settings, model.system.mllm_config)
    model = model._replace(files=model.files._replace(video=budget))
    path = str(media / "clip.mp4")
    made = command._video(path, 0.0, model, 0)
    shown = list(decode(path).numbered(range(12)))
    processor = Qwen2VLVideoProcessor(**settings)
    theirs = processor(
        videos=[np.stack(shown).transpose(0, 3, 1, 2)],
        video_metadata=[{"fps": 5.0, "total_num_frames": 12, "duration": 2.4}],
        do_sample_frames=True,
        fps=settings.get("fps", 2.0),
        return_metadata=True,
        return_tensors="np",
    )
    assert (len(made.patches), *made.grid) == tuple(theirs["video_grid_thw"][0])
    assert made.seconds == pytest.approx(2 / theirs["video_metadata"][0].sampled_fps)
    # Its frames are resized by torch, ours by PIL.
    ours = np.asarray(FAMILY.images.fused(made.patches.swapaxes(1, 2)))
    theirs = theirs["pixel_values_videos"]
    np.testing.assert_allclose(ours.reshape(theirs.shape), theirs, atol=0.05)


def test_a_picture_as_a_video(folder, tmp_path):
    """Fewer frames than a step has: the last is repeated."""
    still = tiny_video(tmp_path / "still.mp4", frames=1, rate=5, size=56)
    model = load_model_folder(folder, ["mllm"])
    assert len(command._video(str(still), 0.0, model, 0).patches) == 1


def test_the_rule_of_positions_is_a_flag(folder, media, monkeypatch):
    """Past its longer side, here of 1, the two rules of a video part."""
    video, starts = tiny_video(media / "long.mp4", frames=28, rate=5, size=56), []

    def noted(*inputs):
        made = assemble(*inputs)
        starts.append(int(made.prompts.start[0, 0]))
        return made

    assemble = command.assemble
    monkeypatch.setattr(command, "assemble", noted)
    for rule in ("", "released", "transformers-5.3"):
        run(folder, videos=[str(video)], fps=5.0, positions=rule, max_pixels=784, max_tokens=1)
    assert starts[0] == starts[1] > starts[2]


def test_a_visuals_frames_are_fused_in_pairs():
    config = models()[1]
    made = clip(config, 5)
    assert made.patches.shape[0] == 3 and made.seconds == 0.5
    np.testing.assert_array_equal(made.patches[2, :, 0], made.patches[2, :, 1])  # repeated
    assert (made.patches[0, :, 0] != made.patches[0, :, 1]).any()
