"""Sizes by name and by checkpoint, which counts; another name beside it is refused."""

import dataclasses
import json

import pytest

from msjoe_jax.errors import UserError
from msjoe_jax.models.clip.preprocess import Pixels
from msjoe_jax.rollout.sizes import clip_sizes_of, folder_of, mllm_sizes_of
from tests.support.tiny import tiny_model_folder

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_model_folder(tmp_path_factory.mktemp("sizes"))


def edit(file, **fields):
    content = json.loads(file.read_text())
    for path, value in fields.items():
        part, _, name = path.partition("__")
        (content[part] if name else content)[name or part] = value
    file.write_text(json.dumps(content))


def test_a_checkpoint_gives_the_sizes(folder, tmp_path):
    import shutil

    family, sizes = mllm_sizes_of("", str(folder), None, None)
    clip, pixels = clip_sizes_of("", str(folder), None, None)
    assert family.title == "Qwen2.5-VL" and sizes.text.width == 64
    assert pixels == Pixels(clip.image_size)
    assert mllm_sizes_of("tiny", str(folder), _Words(), None)[1] == sizes
    shutil.copytree(folder, tmp_path / "other")
    edit(tmp_path / "other" / "mllm" / "config.json", rms_norm_eps=1e-5, rope_theta=5e5)
    edit(tmp_path / "other" / "clip" / "config.json", vision_config__hidden_act="gelu")
    edit(tmp_path / "other" / "clip" / "config.json", text_config__hidden_act="gelu")
    text = mllm_sizes_of("", str(tmp_path / "other"), None, None)[1].text
    assert (text.norm_eps, text.rope_theta) == (1e-5, 5e5)
    with pytest.raises(
        UserError, match=r"text\.rope_theta is 1000000.0, and the checkpoint has 50"
    ):
        mllm_sizes_of("tiny", str(tmp_path / "other"), _Words(), None)
    with pytest.raises(
        UserError, match=r"config\.clip\.size=tiny .* quick_gelu is True, and the c"
    ):
        clip_sizes_of("tiny", str(tmp_path / "other"), _Words(), None)
    got, _ = clip_sizes_of("", str(tmp_path / "other"), None, None)
    assert got == dataclasses.replace(clip, quick_gelu=False)


class _Words:
    size = 7

    def token_id(self, token):
        return 3


def test_another_name_beside_a_checkpoint_is_refused(folder):
    with pytest.raises(
        UserError, match=r'config\.mllm\.size=qwen2\.5-vl-7b .* --config.mllm.size=""'
    ):
        mllm_sizes_of("qwen2.5-vl-7b", str(folder), None, None)
    with pytest.raises(
        UserError, match=r"config\.clip\.size=vit-l-14 .*image_size is 224, and the"
    ):
        clip_sizes_of("vit-l-14", str(folder), None, None)


def test_a_folder_counts_before_both(folder):
    assert mllm_sizes_of("qwen2.5-vl-7b", "nowhere", None, folder)[1].text.width == 64
    assert folder_of("mllm", "a", None).name == "mllm" and folder_of("mllm", "", None) is None


def test_neither(folder):
    with pytest.raises(
        UserError, match=r"config\.mllm\.size is empty: name a size, or config\.mll"
    ):
        mllm_sizes_of("", "", None, None)
    with pytest.raises(UserError, match=r"config\.clip\.size='b' is not one of tiny, vit-b-32"):
        clip_sizes_of("b", "", None, None)
