"""Which frames are evidence, by spans of seconds or by numbers of frames."""

import dataclasses

import numpy as np

from msjoe_jax.data.evidence import evidence_frames, has_evidence
from msjoe_jax.data.questions import Question

PLAIN = Question("q", "v", "what?", ("a", "b"), 0)
TIMES, INDEX = np.array([0.5, 1.5, 3.0, 4.5, 9.0]), np.array([0, 2, 4, 6, 0])


def places(question):
    return np.flatnonzero(evidence_frames(question, TIMES, INDEX)).tolist()


def test_spans_of_seconds_include_both_ends():
    question = dataclasses.replace(PLAIN, evidence=((1.0, 3.0), (4.5, 4.5)))
    assert has_evidence(question) and places(question) == [1, 2, 3]
    between = dataclasses.replace(PLAIN, evidence=((1.6, 2.9),))
    assert has_evidence(between) and places(between) == []


def test_numbers_of_frames_count_where_there_are_no_spans():
    question = dataclasses.replace(PLAIN, extra={"oracle_frames": [[2, 3], [], [6]]})
    assert has_evidence(question) and places(question) == [1, 3]
    both = dataclasses.replace(question, evidence=((8.0, 9.0),))
    assert places(both) == [4]


def test_a_question_without_either_has_none():
    for question in (PLAIN, dataclasses.replace(PLAIN, extra={"oracle_frames": [[], []]})):
        assert not has_evidence(question) and places(question) == []
