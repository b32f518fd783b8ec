"""The settings that others read: written where there are none, and read by transformers."""

import json

import jinja2
import numpy as np
import pytest
from etils import epath
from PIL import Image

from msjoe_jax.models.clip.config import CLIPConfig
from msjoe_jax.models.clip.preprocess import Pixels, normalise, preprocess_frames
from msjoe_jax.text.prompts import turns
from msjoe_jax.text.tokenizer import Tokenizer, clip_tokens
from msjoe_jax.weights.published_files import chat_template, write_clip_files, write_mllm_files
from msjoe_jax.world.word_tokenizer import build_word_tokenizer
from tests.support.torch_stubs import declare_torchvision_ops

VISUALS = {
    "image": "<|vision_start|><|image_pad|><|vision_end|>",
    "video": "<|vision_start|><|video_pad|><|vision_end|>",
}
PREPROCESSORS = {"preprocessor_config.json": {"a": 1}, "video_preprocessor_config.json": {"b": 2}}


def written(folder, system="Be brief.", preprocessors=PREPROCESSORS):
    write_mllm_files(
        epath.Path(folder),
        tokenizer=Tokenizer(folder),
        system=system,
        visuals=VISUALS,
        end_ids=(2, 0),
        preprocessors=preprocessors,
    )
    return {p.name: p.read_text() for p in folder.iterdir()}


@pytest.fixture
def folder(tmp_path):
    build_word_tokenizer(tmp_path / "tokenizer.json", ["what is a red cup ?"])
    return tmp_path


@pytest.mark.parametrize("system", ["", "You are a helpful assistant.", 'It\'s \\ "so"\n{{ x }}é'])
def test_the_template_is_the_prompts_own(system):
    template = jinja2.Template(chat_template(system, VISUALS))
    pictures = [{"type": "image", "image": "x"}, {"type": "video"}, {"image_url": "y"}]
    content = [*pictures, {"type": "text", "text": "What?"}]
    for said, parts in ((content, VISUALS["image"] + VISUALS["video"] + VISUALS["image"]),
                        ("What?", "")):  # fmt: skip
        user = [{"role": "user", "content": said}]
        before, after = turns(system, "What?")
        ask = template.render(messages=user, add_generation_prompt=True)
        assert ask == before + parts + after
        stated = [{"role": "system", "content": "Other."}, *user]
        before, after = turns("Other.", "What?")
        assert (
            template.render(messages=stated, add_generation_prompt=True) == before + parts + after
        )
    answered = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    end = "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n"
    assert (
        template.render(messages=answered)
        == turns(system, "")[0][: -len("<|im_start|>user\n")] + end
    )


def test_what_is_there_stays(folder):
    files = written(folder)
    assert sorted(files) == [
        "chat_template.jinja", "generation_config.json", "preprocessor_config.json",
        "tokenizer.json", "tokenizer_config.json", "video_preprocessor_config.json",
    ]  # fmt: skip
    assert json.loads(files["generation_config.json"])["eos_token_id"] == [2, 0]
    assert written(folder, "Other.", {}) == files  # a second time nothing is missing


@pytest.mark.parametrize(
    "there, unwritten",
    [
        ({"preprocessor_config.json": "{}"}, {"video_preprocessor_config.json"}),
        ({"chat_template.json": '{"chat_template": "x"}'}, {"chat_template.jinja"}),
        ({"tokenizer_config.json": '{"chat_template": "x"}'}, {"chat_template.jinja"}),
        ({"tokenizer_config.json": "{}"}, set()),
        ({"generation_config.json": "{}"}, set()),
    ],
)
def test_what_belongs_together_is_not_mixed(folder, there, unwritten):
    for name, content in there.items():
        (folder / name).write_text(content)
    files = written(folder)
    assert not unwritten & files.keys()
    assert {name: files[name] for name in there} == there
    settings = json.loads(files["tokenizer_config.json"])
    if "chat_template.json" in there:
        assert "chat_template" not in settings


def test_transformers_reads_the_same_ids(folder):
    """The tokenizer by its own rule, and not by that of the published model."""
    declare_torchvision_ops()
    from transformers import AutoTokenizer

    written(folder)
    (folder / "config.json").write_text('{"model_type": "qwen2_5_vl"}')
    ours, theirs = Tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    asked = [{"role": "user", "content": "what is a red cup ?"}]
    ids = theirs.apply_chat_template(asked, add_generation_prompt=True)["input_ids"]
    before, after = turns("Be brief.", "what is a red cup ?")
    assert list(ids) == ours.encode(before + after) and len(ids) > 15
    assert theirs.decode(ids) == ours.decode(ids)
    assert (theirs.eos_token, theirs.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert len(theirs) == ours.size


def test_clip_in_transformers(folder):
    declare_torchvision_ops()
    from transformers import AutoImageProcessor, AutoTokenizer

    ours = Tokenizer(folder)
    sizes = CLIPConfig.tiny(ours.size, 0, context=8)
    write_clip_files(epath.Path(folder), tokenizer=ours, ends=(1, 0), sizes=sizes)
    (folder / "config.json").write_text('{"model_type": "clip"}')
    theirs = AutoTokenizer.from_pretrained(folder)
    assert Tokenizer(folder).around == (1, 0)
    for text in ("a red cup", "", "what is a red cup ? what is a red cup ?"):
        (want,) = clip_tokens(ours, [text], 8, 1, 0)
        got = theirs(text, padding="max_length", truncation=True, max_length=8)["input_ids"]
        assert got == want.tolist(), text  # padding is the end's id, which is 0
    processor = AutoImageProcessor.from_pretrained(folder)
    picture = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    want = processor(Image.fromarray(picture), return_tensors="np")["pixel_values"][0]
    got = np.asarray(normalise(preprocess_frames(picture[None], Pixels(28))[0], Pixels(28)))
    # The reference may resize by another library's bicubic: a level or two of 255.
    assert np.abs(got - want.transpose(1, 2, 0)).max() < 4 / 255 / 0.26
    before = {p.name: p.read_text() for p in folder.iterdir()}
    write_clip_files(epath.Path(folder), tokenizer=Tokenizer(folder), ends=(2, 1), sizes=sizes)
    assert {p.name: p.read_text() for p in folder.iterdir()} == before
