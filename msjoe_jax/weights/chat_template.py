"""The chat template of a checkpoint, looked for in its files in the order of transformers."""

from collections.abc import Iterator, Mapping
from typing import Any

from msjoe_jax.errors import UserError
from msjoe_jax.text.chat import BUILT_IN, Chat, TemplateChat, VisualWords
from msjoe_jax.weights.settings_files import PROCESSOR, SettingsFiles

JSON, JINJA = "chat_template.json", "chat_template.jinja"
TOKENIZER = "tokenizer_config.json"
SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token")


def read_chat(files: SettingsFiles, words: VisualWords) -> Chat:
    """Reads the template of a model's folder; the built-in wording where there is none.

    Raises:
      UserError: a file cannot be read, or the template writes what is not computed here.
    """
    for file, template in _candidates(files):
        if template is None:
            continue
        if not isinstance(template, str):
            raise UserError(f"{files.file(file)}: chat_template is no text")
        settings = files.content(TOKENIZER) or {}
        tokens = {name: _spelling(settings.get(name)) for name in SPECIAL}
        shown = {name: text for name, text in tokens.items() if text}
        return TemplateChat(template, str(files.file(file)), words, shown)
    return BUILT_IN


def _candidates(files: SettingsFiles) -> Iterator[tuple[str, Any]]:
    """Yields (file, template or None) in the order in which they count."""
    for name in (PROCESSOR, JSON):
        yield name, _default((files.content(name) or {}).get("chat_template"))
    if files.file(JINJA).is_file():
        try:
            yield JINJA, files.file(JINJA).read_text()
        except UnicodeDecodeError:
            raise UserError(f"{files.file(JINJA)}: is no UTF-8 text") from None
    yield TOKENIZER, _default((files.content(TOKENIZER) or {}).get("chat_template"))


def _default(template: Any) -> Any:
    """Returns the default one of several named templates, in either form."""
    if isinstance(template, list):
        template = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}
    return template.get("default") if isinstance(template, Mapping) else template


def _spelling(token: Any) -> str:
    """Returns a special token's text, which may be an object."""
    token = token.get("content") if isinstance(token, dict) else token
    return token if isinstance(token, str) else ""
