"""The settings that other programs read beside the weights, for folders that have none.

A model of the tiny world has a vocabulary of its own and nothing beside it: without these files
`transformers` takes the published model's tokenizer, and a reply has no end. What a folder has is
never replaced.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import tokenizers
from etils import epath
from tokenizers import processors

from msjoe_jax.models.clip.config import CLIPConfig
from msjoe_jax.models.clip.preprocess import Pixels
from msjoe_jax.runtime.files import read_json, write_whole
from msjoe_jax.text.tokenizer import END_OF_TEXT, END_OF_TURN, Tokenizer
from msjoe_jax.weights.folder import write_json

PREPROCESSOR = "preprocessor_config.json"
TOKENIZER_CONFIG, GENERATION_CONFIG = "tokenizer_config.json", "generation_config.json"
TEMPLATES = ("chat_template.jinja", "chat_template.json")
# The class that takes a tokenizer.json as it is, whatever it holds.
ANY_TOKENIZER = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "clean_up_tokenization_spaces": False,
    "model_max_length": 131072,
}


def write_mllm_files(
    folder: epath.Path,
    *,
    tokenizer: Tokenizer,
    system: str,
    visuals: Mapping[str, str],
    end_ids: Sequence[int],
    preprocessors: Mapping[str, Mapping[str, Any]],
) -> None:
    """Writes what a folder of an MLLM lacks.

    Args:
      folder: has the tokenizer.json.
      tokenizer: the MLLM's.
      system: the system turn of a chat that has none; empty: none.
      visuals: what stands for an image and for a video in a prompt.
      end_ids: what ends a reply; empty: unknown.
      preprocessors: settings by the name of their file.
    """
    file, template = folder / TOKENIZER_CONFIG, chat_template(system, visuals)
    there = any((folder / name).is_file() for name in TEMPLATES)
    there |= file.is_file() and bool(read_json(file).get("chat_template"))
    if not file.is_file():
        names = {"eos_token": END_OF_TURN, "pad_token": END_OF_TEXT}
        content = {
            **ANY_TOKENIZER,
            **{key: name for key, name in names.items() if name in tokenizer},
        }
        write_json(file, content if there else {**content, "chat_template": template})
    if not there:
        write_whole(folder / TEMPLATES[0], template)
    if end_ids and not (folder / GENERATION_CONFIG).is_file():
        replies = {"do_sample": False, "eos_token_id": list(end_ids), "pad_token_id": end_ids[-1]}
        write_json(folder / GENERATION_CONFIG, replies)
    if not (folder / PREPROCESSOR).is_file():
        for name, settings in preprocessors.items():
            if not (folder / name).is_file():
                write_json(folder / name, dict(settings))


def write_clip_files(
    folder: epath.Path, *, tokenizer: Tokenizer, ends: tuple[int, int], sizes: CLIPConfig
) -> None:
    """Writes what a folder of CLIP lacks, the rule of what stands around a text among it.

    Args:
      folder: has the tokenizer.json.
      tokenizer: CLIP's.
      ends: the ids that begin and end a text.
      sizes: CLIP's.
    """
    begin, end = map(tokenizer.token, ends)
    if begin and end and not tokenizer.around:
        rule = processors.TemplateProcessing(
            single=f"{begin} $A {end}",
            pair=f"{begin} $A {end} {begin} $B {end}",
            special_tokens=list(zip((begin, end), ends, strict=True)),
        )
        whole = tokenizers.Tokenizer.from_str(tokenizer.file.read_text())
        whole.post_processor = rule
        write_whole(tokenizer.file, whole.to_str(pretty=True))
    if begin and end and not (folder / TOKENIZER_CONFIG).is_file():
        named = {"bos_token": begin, "eos_token": end, "pad_token": end}
        content = {**ANY_TOKENIZER, "model_max_length": sizes.context, **named}
        write_json(folder / TOKENIZER_CONFIG, content)
    if not (folder / PREPROCESSOR).is_file():
        write_json(folder / PREPROCESSOR, Pixels(sizes.image_size).to_hf())


def chat_template(system: str, visuals: Mapping[str, str]) -> str:
    """Writes the chat format of `text.prompts.turns` as a Jinja template.

    Args:
      system: the system turn of a chat that has none; empty: none.
      visuals: what stands for an "image" and for a "video".
    """
    opening = ""
    if system:
        quoted = system.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
        opening = (
            "{%- if messages[0]['role'] != 'system' -%}"
            f"{{{{- '<|im_start|>system\\n{quoted}<|im_end|>\\n' -}}}}"
            "{%- endif -%}"
        )
    kinds = "".join(
        f"{{%- if part['type'] == '{kind}' or '{kind}' in part or '{kind}_url' in part -%}}"
        f"{{{{- '{text}' -}}}}{{%- endif -%}}"
        for kind, text in visuals.items()
    )
    return (
        opening + "{%- for message in messages -%}"
        "{{- '<|im_start|>' + message['role'] + '\\n' -}}"
        "{%- if message['content'] is string -%}{{- message['content'] -}}"
        "{%- else -%}{%- for part in message['content'] -%}"
        + kinds
        + "{%- if 'text' in part -%}{{- part['text'] -}}{%- endif -%}"
        "{%- endfor -%}{%- endif -%}{{- '<|im_end|>\\n' -}}{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
    )
