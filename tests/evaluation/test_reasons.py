"""Why questions cannot be asked: which arm is to blame, and when the run ends at once."""

import types

import numpy as np
import pytest

from msjoe_jax.errors import UserError
from msjoe_jax.evaluation.columns import columns_of
from msjoe_jax.evaluation.reasons import Reasons, refuse_unusable
from tests.support.fake_episodes import arms_of, question

UNIFORM, TOPK = columns_of(arms_of(["uniform", "topk"]), (4,))


def episodes(*names):
    made = types.SimpleNamespace(failures=[{"question": "q0", "error": "of before"}])
    made.batch_questions = lambda batch: [question(name) for name in names]
    return made


def test_reasons_name_the_arm_but_not_of_videos_that_cannot_be_read():
    asked = episodes("q0", "q1")
    reasons = Reasons(asked, {"error": np.array(["", "no such file"], object)})
    asked.failures += [
        {"question": "q0", "error": "too long"},
        {"question": "q1", "error": "no such file"},
    ]
    assert reasons.note(UNIFORM) == 1
    asked.failures += [
        {"question": "q0", "error": "too long"},
        {"question": "q0", "error": "too wide"},
    ]
    assert reasons.note(TOPK) == 1
    assert reasons.text("q0", True) == "too long (under uniform); too wide (under topk)"
    assert reasons.text("q0", False) == "too long; too wide"
    assert reasons.text("q1", True) == "no such file" and reasons.text("q2", True) == ""


def test_an_arm_that_can_ask_nothing_is_refused_at_once():
    with pytest.raises(UserError, match=r"topk at 4 frames: none of the first 3 .*\(too long\)"):
        refuse_unusable(TOPK, 3, 3, "too long")
    refuse_unusable(TOPK, 2, 3, "too long")
    refuse_unusable(TOPK, 1, 1, "too long")
    refuse_unusable(TOPK, 0, 0, "")
