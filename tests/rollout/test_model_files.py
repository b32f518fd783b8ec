"""What the settings files of a model folder say, from the files of published layouts."""

import json

import pytest

from msjoe_jax.errors import UserError
from msjoe_jax.families import FAMILIES
from msjoe_jax.models.clip.config import CLIPConfig
from msjoe_jax.models.clip.preprocess import Pixels
from msjoe_jax.models.qwen2_5_vl.config import QwenConfig
from msjoe_jax.rollout.model_files import chat_of, read_clip_pixels, read_mllm_files
from msjoe_jax.text.chat import BUILT_IN
from msjoe_jax.text.tokenizer import Tokenizer
from msjoe_jax.weights.settings_files import SettingsFiles
from tests.support.layouts import LAYOUTS, TEMPLATE
from tests.support.material import QWEN, needs_material

pytestmark = pytest.mark.slow
FAMILY = FAMILIES["qwen2_5_vl"]


def read(folder):
    files = SettingsFiles(folder)
    sizes = files.parsed("config.json", QwenConfig.from_hf)
    return read_mllm_files(files, FAMILY, sizes, Tokenizer(folder))


@pytest.fixture(params=["qwen_4", "qwen_5"])
def folder(request, tmp_path):
    LAYOUTS[request.param](tmp_path)
    return tmp_path


def edit(file, **fields):
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def test_both_layouts_say_the_same(folder):
    made = read(folder)
    assert made.image_bounds == (64, 640) and made.generation.end_ids == (2, 0)
    assert made.generation.repetition_penalty == 1.05 and made.generation.temperature == 0
    assert made.chat.turns("Be brief.", "What?")[0] == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n"
    )
    assert "Picture" not in TEMPLATE


def test_without_files_there_are_defaults(tmp_path):
    LAYOUTS["qwen_4"](tmp_path)
    for name in ("preprocessor_config", "generation_config", "chat_template", "tokenizer_config"):
        (tmp_path / f"{name}.json").unlink()
    made = read(tmp_path)
    assert made.chat is BUILT_IN and made.generation.end_ids == (2,)  # config.json's
    assert made.image_bounds == (3136, 12845056)
    edit(tmp_path / "config.json", eos_token_id=None)
    assert read(tmp_path).generation.end_ids == ()


def test_ids_that_are_not_the_tokenizers(folder):
    edit(folder / "config.json", image_token_id=7)
    with pytest.raises(
        UserError, match=r"config\.json: image_token_id is 7, and <\|image_pad\|> of"
    ):
        read(folder)


def test_what_else_a_file_of_all_processors_holds(tmp_path):
    LAYOUTS["qwen_5"](tmp_path)
    edit(tmp_path / "processor_config.json", feature_extractor={"sampling_rate": 16000})
    with pytest.raises(UserError, match=r"processor_config\.json: feature_extractor is {"):
        read(tmp_path)


def test_the_chat_format_of_a_run(tmp_path):
    assert chat_of("", FAMILY, None, None) is BUILT_IN


def test_frames_of_clip(tmp_path):
    LAYOUTS["clip_5"](tmp_path)
    sizes = CLIPConfig.from_hf(json.loads((tmp_path / "config.json").read_text()))
    assert read_clip_pixels(SettingsFiles(tmp_path), sizes) == Pixels(28, rounds=False)
    for name in ("preprocessor_config.json", "processor_config.json"):
        (tmp_path / name).unlink(missing_ok=True)
    assert read_clip_pixels(SettingsFiles(tmp_path), sizes) == Pixels(28)


@needs_material
def test_the_published_folder():
    """All of Qwen2.5-VL-7B-Instruct's own files but its weights."""
    made = read(QWEN)
    assert made.image_bounds == (3136, 12845056) and made.video.frames == (4, 768)
    assert made.generation == ((151645, 151643), 1.05, 0.0, 0, 1.0)
    assert made.chat.turns("Be brief.", "What?") == BUILT_IN.turns("Be brief.", "What?")
