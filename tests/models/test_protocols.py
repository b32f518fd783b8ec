"""The doors of a family, and that the shipped family's classes have them as they are stated."""

import inspect

from msjoe_jax.models import protocols
from msjoe_jax.models.qwen2_5_vl.language import LanguageModel
from msjoe_jax.models.qwen2_5_vl.model import QwenVL


def methods(kind):
    return {n: f for n, f in vars(kind).items() if inspect.isfunction(f) and n[0] != "_"}


def test_the_classes_take_what_the_doors_state():
    for door, own in (
        (protocols.LanguageModel, LanguageModel),
        (protocols.VisionLanguageModel, QwenVL),
    ):
        stated = methods(door)
        assert stated
        for name, method in stated.items():
            want = inspect.signature(method).parameters
            found = inspect.signature(getattr(own, name)).parameters
            assert list(found) == list(want), name
            assert [p.default for p in found.values()] == [p.default for p in want.values()], name
