"""The chat format: what stands before a question's frames, and what after.

A checkpoint's own template is what its model was trained on, so it counts where there is one; it is
rendered in jinja2's sandbox, with the settings that transformers renders it with. A template is
data from elsewhere: it sees text alone, and what it raises becomes one line.
"""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

from msjoe_jax.errors import UserError
from msjoe_jax.text.prompts import turns


class Chat:
    """The wording of Qwen's models, which a vocabulary without a template of its own has too.

    Attributes:
      source: all that decides what is rendered, for digests; empty: this class does.
    """

    source: tuple[str, ...] = ()

    def turns(self, system: str, body: str) -> tuple[str, str]:
        """Renders (text before the frames, text after them).

        Both stand as they are given: user text must have been through `prompts.plain`.

        Args:
          system: the system turn; empty: none.
          body: the user's text.
        """
        return turns(system, body)


BUILT_IN = Chat()


class VisualWords(NamedTuple):
    """Spellings of one picture and of one video, placeholder and what stands around it."""

    image: str
    video: str


class TemplateChat(Chat):
    """A checkpoint's template.

    Args:
      template: its source.
      file: where it stands, for messages.
      words: what the template writes for a picture and a video.
      tokens: special tokens by name, such as `bos_token`, which a template may use.

    Raises:
      UserError: it cannot be rendered, or writes more about frames than `words`.
    """

    def __init__(
        self, template: str, file: str, words: VisualWords, tokens: Mapping[str, str] = {}
    ):
        self.file, self._words, self._tokens = file, words, dict(tokens)
        self.source = (template, *(part for item in sorted(tokens.items()) for part in item))
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
        )
        environment.globals["raise_exception"] = _refuse
        environment.filters["tojson"] = lambda value, **how: json.dumps(
            value, **{"ensure_ascii": False, **how}
        )
        try:
            self._template = environment.from_string(template)
        except jinja2.TemplateError as error:
            raise UserError(f"{file}: chat_template cannot be read ({error})") from None
        self._check()

    def turns(self, system: str, body: str) -> tuple[str, str]:
        """Renders (text before the frames, text after them); see `Chat.turns`.

        Raises:
          UserError: the template refuses.
        """
        before, found, after = self._render(system, body, ["image"]).partition(self._words.image)
        if not found:
            raise UserError(f"{self.file}: chat_template does not show a picture as a picture")
        return before, after

    def _render(self, system: str, body: str, visuals: list[str]) -> str:
        parts: list[dict[str, str]] = [{"type": kind} for kind in visuals]
        user = {"role": "user", "content": [*parts, {"type": "text", "text": body}]}
        messages = [{"role": "system", "content": system}, user] if system else [user]
        try:
            return self._template.render(
                messages=messages, add_generation_prompt=True, **self._tokens
            )
        except Exception as error:  # a template may do anything that Python can
            reason = f"{type(error).__name__}: {error}"
            raise UserError(f"{self.file}: chat_template cannot be rendered ({reason})") from None

    def _check(self) -> None:
        """Checks that frames stand together, and that pictures, videos and none differ in them."""
        image, video = self._words
        for system in ("", "A system turn."):
            before, after = self.turns(system, "A question?")
            wanted = {
                ("image", "image"): image + image,
                ("video",): video,
                (): "",
            }
            for visuals, shown in wanted.items():
                text = self._render(system, "A question?", list(visuals))
                if text != before + shown + after:
                    kind = " and ".join(visuals) or "no picture"
                    raise UserError(
                        f"{self.file}: chat_template writes {text[:200]!r} for {kind}, where "
                        f"{(before + shown + after)[:200]!r} is computed here; take a template "
                        "that writes nothing about pictures but their tokens"
                    )


def _refuse(message: str) -> Any:
    raise jinja2.TemplateError(message)
