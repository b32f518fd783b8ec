"""What rows come to, by hand."""

import pytest

from msjoe_jax.evaluation.summary import cost_table, differences, figures, notes, overlap_table


def row(name, score, draw=0, **fields):
    """A row of a question of the video that its name begins with."""
    return {
        "id": name,
        "video": name[0],
        "draw": draw,
        "score": score,
        "dropped": None,
        "valid": True,
        "tagged": True,
        "finished": True,
        "answer": "B" if score else "A",
        "gold": "B",
        "frames": [1, 5],
        "tokens": [4, 2],
        "prompt_tokens": 30,
        "covered": None,
        "auc": None,
        "parsed": None,
        "named": None,
        "nameable": None,
        "seconds": None,
        "extracted": {"strict": "B", "official": "A"},
        "groups": {"kind": "first" if name.endswith("1") else "second"},
        **fields,
    }


ROWS = [
    row("a1", 1.0),
    row("a2", 0.0, tagged=False, valid=False, finished=False, answer="", covered=True),
    row("b1", 1.0, covered=False, tokens=[4, 4], prompt_tokens=40),
    row("b2", 0.0),
    row("c1", None, dropped="too long", tokens=[], frames=[], valid=None),
    row("c2", None, gold=None),
]


def test_shares_are_of_what_was_asked_and_scores_of_what_is_known():
    made = figures(ROWS, ("strict", "official"))
    assert (made["accuracy"], made["questions"], made["draws"]) == (0.5, 4, 1)
    assert (made["valid"], made["tagged"], made["cut_off"], made["unparsed"]) == (
        0.8,
        0.8,
        0.2,
        0.2,
    )
    assert (made["covered"], made["frames"]) == (0.5, 2.0)
    assert made["tokens_per_frame"] == pytest.approx(32 / 10) and made["tokens_total"] == 32
    assert (made["strict"], made["official"]) == (1.0, 0.0)
    first, second = made["groups"]["kind"]["first"], made["groups"]["kind"]["second"]
    assert (first["accuracy"], first["questions"]) == (1.0, 2)
    assert (second["accuracy"], second["questions"]) == (0.0, 2)
    # Each video has one right and one wrong: over videos nothing varies.
    assert made["ci95"] == [0.5, 0.5] and made["seconds"] is None


def test_draws_of_a_question_are_averaged_before_questions_are():
    rows = [row("a1", score, draw) for draw, score in enumerate((1.0, 0.0, 0.0))]
    made = figures([*rows, row("b1", 1.0)], ("strict",))
    assert made["accuracy"] == pytest.approx((1 / 3 + 1) / 2)
    assert (made["questions"], made["draws"]) == (2, 3)


def test_nothing_was_asked():
    made = figures([row("a1", None, dropped="too long", valid=None)], ("strict",))
    assert (made["accuracy"], made["questions"], made["valid"], made["strict"]) == (
        None,
        0,
        None,
        None,
    )
    assert made["ci95"] == [0.0, 1.0]


def means(*scores):
    return {f"q{i}": (score, f"v{i}") for i, score in enumerate(scores)}


def test_differences_are_paired_and_named():
    found = {
        (d["arm"], d["budget"], d["against"], d["against_budget"]): d
        for d in differences(
            {
                ("uniform", 8): means(0.0, 1.0, 0.0),
                ("uniform", 16): means(0.0, 1.0, 1.0),
                ("joint", 8): means(1.0, 1.0, 1.0),
                ("topk", 8): {"q0": (1.0, "v0")},
            }
        )
    }
    assert set(found) == {
        ("joint", 8, "uniform", 8),
        ("joint", 8, "uniform", 16),
        ("joint", 8, "topk", 8),
        ("uniform", 8, "topk", 8),
    }
    assert found["joint", 8, "uniform", 8]["difference"] == pytest.approx(2 / 3)
    assert found["joint", 8, "uniform", 16]["difference"] == pytest.approx(1 / 3)
    assert found["uniform", 8, "topk", 8]["questions"] == 1


def test_the_table_of_costs():
    seconds = {"query": 1.0, "similarity": 0.5, "sampler": 0.25, "answer": 2.0}
    arms = [
        {"arm": "joint", "budget": 8, "seconds": seconds},
        {"arm": "topk", "budget": 8, "seconds": {**seconds, "query": None}},
        {"arm": "blind", "budget": 0, "seconds": None},
    ]
    lines = cost_table({"arms": arms}).splitlines()
    assert lines[1].split() == ["joint@8", "1.0000", "0.5000", "0.2500", "2.0000", "3.7500"]
    assert lines[2].split() == ["topk@8", "–", "0.5000", "0.2500", "2.0000", "–"]
    assert lines[3].startswith("–: ") and len(lines) == 4
    assert cost_table({"arms": arms[2:]}) == ""


def test_the_table_of_overlaps():
    shares = [["a", "b", 1.0], ["a", "c", 0.25], ["b", "c", 0.25]]
    text = overlap_table({"overlap": {"8": {"shares": shares, "same": [["a", "b"]]}}})
    lines = text.splitlines()
    assert lines[0].startswith("the same frames, of 8")
    assert [line.split() for line in lines[2:5]] == [
        ["1", "a"], ["2", "b", "1.00"], ["3", "c", "0.25", "0.25"],
    ]  # fmt: skip
    assert lines[5] == "the same above 95%: a, b"
    assert overlap_table({"overlap": {"8": {"shares": [], "same": []}}}) == ""


def test_what_is_to_be_known_of_an_arm_is_told():
    rows = [
        row("a1", 1.0, auc=0.5, parsed=1.0, named=0.5),
        row("a2", 0.0, auc=0.7, parsed=0.75, named=0.0),
        row("b1", 0.0),
    ]
    made = figures(rows, ("strict",))
    assert (made["auc"], made["parsed"], made["named"]) == (0.6, 0.875, 0.25) and made["void"]
    named = {"arm": "gens_like", "budget": 4, "queries_by": "question"}
    void, told = notes({"arms": [{**named, **made}]}).splitlines()
    assert void.startswith("gens_like@4: void, 88% of its selector's replies could be read; below")
    assert told == "gens_like: AUC of its scores for evidence frames 0.600: does not work here"
    fine = figures([row("a1", 1.0, auc=0.9, parsed=1.0, named=0.25)], ("strict",))
    assert not fine["void"]
    told, _ = notes({"arms": [{**named, **fine}]}).splitlines()
    assert told.endswith("could be read, which name 25% of its frames; the others its fallback")
    known = figures([row("a1", 1.0, parsed=1.0, named=0.25, nameable=0.5)], ("strict",))
    (told,) = notes({"arms": [{**named, **known}]}).splitlines()
    assert "name 25% of its frames (perfect replies 50%: what shows the answer); the" in told
    silent = figures([row("a1", 1.0)], ("strict",))
    assert not notes({"arms": [{**named, **silent}, {**named, **silent, "queries_by": "none"}]})
