"""Rows as they are written: tokens of frames, evidence, names of an arm."""

import types

import numpy as np
import pytest

from msjoe_jax.data.records import VideoInfo
from msjoe_jax.evaluation.columns import columns_of
from msjoe_jax.evaluation.samples import names_of, shown_tokens
from msjoe_jax.families import FAMILIES
from tests.support.fake_episodes import arms_of

QWEN = next(iter(FAMILIES.values()))


def video(height, width):
    return VideoInfo("v", 9.0, 1.0, np.arange(9.0), height, width, 0, 0)


def episodes(per_unit=1, patches=64):
    vision = types.SimpleNamespace(patch=14, merge=2, temporal_patch=2)
    return types.SimpleNamespace(
        vision=vision,
        per_unit=per_unit,
        system=types.SimpleNamespace(family=QWEN, mllm_config=types.SimpleNamespace(vision=vision)),
        config=types.SimpleNamespace(frames=types.SimpleNamespace(key_patches=patches)),
    )


def entry(number, limits=None, keep=None):
    return {"frames": list(range(number)), "limits": limits, "keep": keep}


@pytest.mark.parametrize(
    ("size", "limits", "tokens"),
    [
        ((56, 56), None, [4, 4, 4]),  # 4 × 4 patches of 14, four to a token
        ((112, 112), None, [16, 16, 16]),
        ((448, 448), None, [16, 16, 16]),  # 64 patches at most
        ((112, 112), [16, 4, 1], [16, 4, 1]),
        ((56, 56), [99, 4, 1], [4, 4, 1]),  # a frame has no more than its pixels give
    ],
)
def test_tokens_of_frames(size, limits, tokens):
    assert shown_tokens(entry(3, limits), video(*size), episodes()) == tokens


def test_tokens_that_are_dropped_do_not_count():
    keep = ["a0", "ff", "00"]  # of the first 4 bits: 2, 4 and none
    assert shown_tokens(entry(3, None, keep), video(56, 56), episodes()) == [2, 4, 0]


def test_fused_frames_share_a_steps_tokens():
    assert shown_tokens(entry(3), video(56, 56), episodes(per_unit=2)) == [4, 0, 4]
    assert shown_tokens(entry(0), video(56, 56), episodes(per_unit=2)) == []


def test_selectors_that_were_published_with_another_scorer_say_so():
    made = columns_of(arms_of(["aks", "qframe:question", "topk"]), (8,))
    labels = [names_of(column, ("clip",))["label"] for column in made]
    assert labels == [
        "aks (on clip; theirs: BLIP-ITM)",
        "qframe, the question as the one query (on clip; theirs: Long-CLIP)",
        "topk",
    ]


def test_writer_scorer_sampler_and_answerer_have_names_of_their_own():
    column = columns_of(arms_of(["joint_frames:scorer=siglip"]), (8,))[0]
    names = names_of(column, ("clip", "siglip"))
    assert [names[key] for key in ("queries_by", "mllm", "scorer", "sampler", "answerer")] == [
        "policy", "joint", "siglip", "joint", "base",
    ]  # fmt: skip
