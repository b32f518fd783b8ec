"""In which file a chat template stands, held against transformers' own processor."""

import json

import pytest

from msjoe_jax.errors import UserError
from msjoe_jax.text.chat import BUILT_IN
from msjoe_jax.weights.chat_template import JINJA, JSON, TOKENIZER, read_chat
from msjoe_jax.weights.settings_files import PROCESSOR, SettingsFiles
from tests.text.test_chat import OTHER, WORDS

FILES = (PROCESSOR, JSON, JINJA, TOKENIZER)  # in the order in which they count


def write(folder, file, name):
    template = OTHER.replace("USER", name)
    text = template if file == JINJA else json.dumps({"chat_template": template})
    (folder / file).write_text(text)


def name_of(folder):
    return read_chat(SettingsFiles(folder), WORDS).turns("", "x")[0]


def test_the_first_file_counts(tmp_path):
    assert read_chat(SettingsFiles(tmp_path), WORDS) is BUILT_IN
    for file in reversed(FILES):
        write(tmp_path, file, file.upper())
        assert name_of(tmp_path) == f"{file.upper()}: "


def test_the_order_is_that_of_transformers_files(tmp_path):
    from transformers.processing_utils import ProcessorMixin

    for number, file in enumerate(reversed(FILES[:3])):
        write(tmp_path, file, f"N{number}")
        content, _ = ProcessorMixin.get_processor_dict(str(tmp_path))
        assert f"N{number}: " in content["chat_template"] and name_of(tmp_path) == f"N{number}: "


def test_named_templates_and_tokens(tmp_path):
    templates = [{"name": "rag", "template": "x"}, {"name": "default", "template": OTHER}]
    content = {"chat_template": templates, "bos_token": {"content": "<s>"}, "eos_token": None}
    (tmp_path / TOKENIZER).write_text(json.dumps(content))
    assert name_of(tmp_path) == "<s>USER: "


def test_what_cannot_be_read(tmp_path):
    (tmp_path / JINJA).write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"chat_template\.jinja: is no UTF-8"):
        read_chat(SettingsFiles(tmp_path), WORDS)
    (tmp_path / JSON).write_text('{"chat_template": 3}')
    with pytest.raises(UserError, match=r"chat_template\.json: chat_template is no text"):
        read_chat(SettingsFiles(tmp_path), WORDS)
