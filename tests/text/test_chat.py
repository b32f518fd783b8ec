"""Chat templates: rendered as transformers renders them, and what cannot be computed is refused."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msjoe_jax.errors import UserError
from msjoe_jax.text.chat import BUILT_IN, TemplateChat, VisualWords
from msjoe_jax.text.prompts import plain
from tests.support.material import QWEN, needs_material
from tests.support.torch_stubs import declare_torchvision_ops

WORDS = VisualWords(
    "<|vision_start|><|image_pad|><|vision_end|>", "<|vision_start|><|video_pad|><|vision_end|>"
)
VISUALS = (
    "{% for c in m.content %}{% if c.type == 'text' %}{{ c.text }}{% else %}<|vision_start|>"
    "<|{{ c.type }}_pad|><|vision_end|>{% endif %}{% endfor %}"
)
# An own wording: another head, another end, the system turn inside the user's.
OTHER = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}[{{ m.content }}]"
    "{% else %}USER: " + VISUALS + " {{ '' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def reference(template: str, system: str, body: str, **tokens: str) -> str:
    declare_torchvision_ops()
    from transformers.utils.chat_template_utils import render_jinja_template

    user: Any = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": body}]}
    messages = [{"role": "system", "content": system}, user] if system else [user]
    options: Any = {"chat_template": template, "add_generation_prompt": True, **tokens}
    rendered: Any = render_jinja_template([messages], **options)
    return rendered[0][0]


@settings(max_examples=30, deadline=None)
@given(st.text(max_size=40), st.sampled_from(["", "Be brief."]))
def test_a_template_renders_as_in_transformers(body, system):
    chat = TemplateChat(OTHER, "file", WORDS, {"bos_token": "<s>"})
    before, after = chat.turns(system, plain(body))
    want = reference(OTHER, system, plain(body), bos_token="<s>")
    assert before + WORDS.image + after == want


@needs_material
def test_the_published_template_is_the_built_in_wording():
    """With a system turn; without one the template writes its own."""
    template = json.loads((QWEN / "chat_template.json").read_text())["chat_template"]
    chat = TemplateChat(template, "file", WORDS)
    assert chat.turns("Be brief.", "What?") == BUILT_IN.turns("Be brief.", "What?")
    assert chat.turns("", "What?") == BUILT_IN.turns("You are a helpful assistant.", "What?")


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{% for %}", "cannot be read"),
        ("{{ messages[0].content.x.y }}", "cannot be rendered .*UndefinedError"),
        ("{{ raise_exception('no pictures') }}", "cannot be rendered .*no pictures"),
        ("{{ messages.__class__.__mro__ }}", "cannot be rendered|does not show"),
        ("{% for m in messages %}{{ m.role }}{% endfor %}", "does not show a picture"),
        (OTHER.replace("{% else %}<|vi", "{% else %}Picture 1: <|vi"), "for image and image"),
        (OTHER.replace("_pad|>", "_token|>"), "does not show a picture"),
    ],
)
def test_what_cannot_be_computed_is_one_line(template, words):
    with pytest.raises(UserError, match=f"a/chat.jinja: chat_template .*({words})") as error:
        TemplateChat(template, "a/chat.jinja", WORDS)
    assert "\n" not in str(error.value)


def test_user_text_is_no_template():
    chat = TemplateChat(OTHER, "file", WORDS)
    assert "{{ messages }}{% x %}" in chat.turns("", "{{ messages }}{% x %}")[1]
