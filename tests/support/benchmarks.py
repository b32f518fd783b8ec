"""Synthetic rows with the keys and the forms of values of the benchmarks' files.

No annotation is anybody's: questions and options are made here. Each says whose loader reads rows
of these keys.
"""

import csv
import json
import pathlib
from collections.abc import Sequence
from typing import Any

# lmms-eval/Video-MME (parquet), as lmms_eval/tasks/videomme/utils.py reads it.
VIDEO_MME: list[dict[str, Any]] = [
    {
        "video_id": "001",
        "duration": "short",
        "domain": "Knowledge",
        "sub_category": "Geography",
        "url": "https://www.youtube.com/watch?v=a_-b.c1",
        "videoID": "a_-b.c1",
        "question_id": f"001-{i + 1}",
        "task_type": "Counting Problem" if i else "OCR Problems",
        "question": "How many?",
        "options": ["A. 3.", "B. 1998.", "C. Two dogs.", "D. A. D. 12."],
        "answer": "ABC"[i],
    }
    for i in range(3)
]
VIDEO_MME.append({**VIDEO_MME[0], "video_id": "601", "videoID": "zz9", "duration": "long",
                  "question_id": "601-1", "domain": "Multilingual", "answer": "D"})  # fmt: skip

# MME-Benchmarks/Video-MME-v2, as lmms_eval/tasks/videomme_v2/utils.py and the authors' script read
# it: options in one text, `level` and the heads at the last question of a group alone.
EIGHT = "\n".join(f"{letter}. thing {letter.lower()}" for letter in "ABCDEFGH")


def video_mme_v2(video: str, kind: str, structure: str) -> list[dict[str, Any]]:
    """A group of four."""
    last = {"level": "2", "second_head": "Order", "third_head": "Sequence"}
    return [
        {
            "video_id": video,
            "question_id": f"{video}-{i}",
            "question": f"What comes {i}.?",
            "options": EIGHT,
            "answer": "ABCH"[i - 1],
            "group_type": kind,
            "group_structure": structure,
            **(last if i == 4 else {"level": None, "second_head": None, "third_head": None}),
        }
        for i in range(1, 5)
    ]


# LongVideoBench's lvb_val.json, as longvideobench/longvideobench_dataset.py reads it.
LONGVIDEOBENCH: list[dict[str, Any]] = [
    {
        "video_id": "86CxyhFV9MI",
        "question": "In the video, which subtitles appear?",
        "question_wo_referring_query": "Which subtitles appear?",
        "candidates": ["one", "two", "three", "four", "five"][: 5 - i],
        "correct_choice": 2 - i,
        "position": [854, 1001],
        "topic_category": "NP-News-Programs",
        "question_category": "TOS" if i else "T2E",
        "level": "L2-Relation",
        "id": f"86CxyhFV9MI_{i}",
        "video_path": "86CxyhFV9MI.mp4",
        "subtitle_path": "86CxyhFV9MI_en.json",
        "duration_group": 600 if i else 15,
        "starting_timestamp_for_subtitles": 0,
        "duration": 190.16,
        "view_count": 259852,
    }
    for i in range(3)
]


def longvideobench_parquet(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same as lmms_eval/tasks/longvideobench/utils.py reads it: option0 … option4."""
    made = []
    for row in rows:
        padded = [*row["candidates"], *["N/A"] * 5][:5]
        options = {f"option{i}": text for i, text in enumerate(padded)}
        made.append({k: v for k, v in row.items() if k != "candidates"} | options)
    return made


# LVBench's video_info.meta.jsonl, as lvbench/metrics/compute_accuracy.py reads it.
LVBENCH: list[dict[str, Any]] = [
    {
        "key": "Cm73ma6Ibcs",
        "type": "cartoon",
        "qa": [
            {
                "uid": "55",
                "question": "What year appears?\n(A) 1636\n(B) 1366\n(C) 1363\n(D) 4",
                "answer": "D",
                "question_type": ["key information retrieval", "reasoning"],
                "time_reference": "00:15-00:19",
            },
            {
                "uid": "56",
                "question": "Why?\n(A) Because (B) is wrong\n(B) No\n(C) Yes\n(D) Maybe",
                "answer": "A",
                "question_type": ["summarization"],
                "time_reference": "61:05-1:02:00",
            },
        ],
        "video_info": {"duration_minutes": 90, "fps": 25, "resolution": {"width": 8, "height": 8}},
    },
    {
        "key": "q01CUy_gwdU",
        "type": "sport",
        "qa": [
            {
                "uid": "113",
                "question": "What colour?\n(A) White\n(B) Blue\n(C) Brown\n(D) Grey",
                "answer": "B",
                "question_type": ["reasoning"],
                "time_reference": "somewhere",
            }
        ],
        "video_info": {"duration_minutes": 50, "fps": 30, "resolution": {"width": 8, "height": 8}},
    },
]
# lmms-eval/LVBench, as lmms_eval/tasks/lvbench/utils.py reads it.
LVBENCH_LMMS: list[dict[str, Any]] = [
    {
        "video_path": "Cm73ma6Ibcs.mp4",
        "question": "What year appears?",
        "options": ["1636", "1366", "1363", "4"],
        "answer": "D",
        "time_reference": "00:15-00:19",
        "question_type": ["reasoning"],
        "type": "cartoon",
    }
]
# sy1998/MLVU_dev, as lmms_eval/tasks/mlvu/utils.py reads it.
MLVU_DEV: list[dict[str, Any]] = [
    {
        "video_name": "movie101_66.mp4",
        "duration": 246,
        "question": "What color is the man?\n(A) Yellow\n(B) Red\n(C) Green\n(D) Blue",
        "candidates": ["Yellow", "Red", "Green", "Blue"],
        "answer": "C",
        "task_type": "plotQA" if i else "needle",
        "question_id": f"q{i}",
    }
    for i in range(3)
]
# sy1998/MLVU_Test: six options.
MLVU_TEST: list[dict[str, Any]] = [
    {
        "video_name": "test_surveil_27.mp4",
        "question": "What is unusual?\n(A) a\n(B) b\n(C) c\n(D) d\n(E) e\n(F) f",
        "answer": "F",
        "task_type": "AR",
        "question_id": "AR_0",
    }
]
# MLVU's own json/1_plotQA.json, as video_chat/choice_bench.py reads it: the answer is a text, and
# some of the options are empty or alike.
MLVU_NATIVE: list[dict[str, Any]] = [
    {
        "video": "1_plotQA/movie101_66.mp4",
        "duration": 246,
        "question": "What color?",
        "candidates": ["Yellow", "Red", "Green", "Red"],
        "answer": "Red",
        "question_type": "plotQA",
    },
    {
        "video": "movie101_5.mp4",
        "duration": 300.5,
        "question": "Is there archery?",
        "candidates": ["", "There is", "There is none", ""],
        "answer": "There is",
        "question_type": "plotQA",
    },
    {
        "video": "count_1.mp4",
        "duration": 300.5,
        "question": "Which letter is on the shirt?",
        "candidates": ["B", "C", "A", "D"],
        "answer": "A",
        "question_type": "count",
    },
]
# CG-Bench/CG-Bench, as lmms_eval/tasks/cgbench/utils.py reads it, with the clues.
CG_BENCH: list[dict[str, Any]] = [
    {
        "qid": 7,
        "video_uid": "uid_1",
        "question": "Who?",
        "choices": ["he", "she", "they", "it", "all", "none", "some"],
        "right_answer": "G",
        "answer": "some",
        "clue_intervals": [[12, 15], [100.5, 101]],
        "domain": "Sports",
        "sub_category": "Counting",
        "duration": 1800.0,
    }
]
# TSPO-10K, as src/open_tspo/tspo.py reads it.
TSPO_10K: list[dict[str, Any]] = [
    {
        "video": "academic/208.mp4",
        "original_question": "<image>\nWhat is seen?\nA. Shore.\nB. forest.\nC. Grass.\nD. sea.",
        "original_answer": "B. forest.",
        "problem": "<image>\nWhat is seen?",
        "solution": "<answer>b</answer>",
        "complete_answer": "B. forest.",
        "type": kind,
    }
    for kind in ("general", "specific")
]
TSPO_10K[1] = {**TSPO_10K[1], "video": "academic/209.mp4"}
# EasyVideoR1's eval/data/valid_data/*.json; Video-R1's training JSON has the same keys.
VIDEO_R1: list[dict[str, Any]] = [
    {
        "problem_id": 11,
        "problem": "What is the goal?",
        "data_type": "video",
        "problem_type": "multiple choice",
        "options": ["C. third", "A. first", "B. second", "D. fourth"],
        "process": "",
        "solution": "<answer>C</answer>",
        "path": "./videos/abc.def.mp4",
        "data_source": "LongVideo-Reason",
    },
    {
        "problem_id": 12,
        "problem": "How many?",
        "data_type": "video",
        "problem_type": "numerical",
        "options": [],
        "solution": "<answer>3</answer>",
        "path": "./videos/abc.mp4",
        "data_source": "other",
    },
    {
        "problem_id": 13,
        "problem": "What?",
        "data_type": "image",
        "problem_type": "multiple choice",
        "options": ["A. x", "B. y"],
        "solution": "<answer>A</answer>",
        "path": "./images/abc.png",
        "data_source": "other",
    },
]
# The tables that TSPO's and other selectors' scripts read: lists as Python prints them.
NAMES = ["index", "task_name", "video_name", "question_id", "question", "answer_number",
         "candidates", "answer"]  # fmt: skip


def table(path: pathlib.Path, rows: Sequence[Sequence[Any]], names: Sequence[str] = NAMES) -> str:
    """Writes such a table, with tabs or commas by the name's ending; returns its path."""
    with path.open("w", newline="") as file:
        delimiter = "\t" if path.suffix == ".tsv" else ","
        csv.writer(file, delimiter=delimiter).writerows([names, *rows])
    return str(path)


def as_json(path: pathlib.Path, rows: Any) -> str:
    """Writes JSON; returns its path."""
    path.write_text(json.dumps(rows))
    return str(path)


def as_lines(path: pathlib.Path, rows: Sequence[Any]) -> str:
    """Writes JSON lines; returns their path."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def as_parquet(path: pathlib.Path, rows: Sequence[dict[str, Any]]) -> str:
    """Writes parquet; returns its path."""
    from pyarrow import Table, parquet

    parquet.write_table(Table.from_pylist(list(rows)), path)
    return str(path)


# NExT-QA's val.csv and the rows of lmms-lab/NExTQA, as its sample_loader.py reads them.
NEXTQA_COLUMNS = ["video", "frame_count", "width", "height", "question", "answer", "qid", "type",
                  *(f"a{i}" for i in range(5))]  # fmt: skip
NEXTQA: list[list[Any]] = [
    [4010, 369, 640, 480, "how many", 0, 6, "DC", "two", "2", "0", "four", "none"],
    [4010, 369, 640, 480, "why did it roll", 4, 1, "CW", "wind", "dog", "man", "rain", "slope"],
    [7508, 765, 640, 480, "what is next", 2, 6, "TN", "sit", "go", "jump", "fall", "eat"],
]
# Conversations as trainers read them: LLaVA's and LLaMA-Factory's, ms-swift's, parts of messages.
CONVERSATIONS: list[dict[str, Any]] = [
    {
        "id": "c1",
        "video": "academic/v1.mp4",
        "data_source": "0_30_s",
        "conversations": [
            {"from": "human", "value": "<image>\nWhat is seen?\nA. Shore.\nB. forest.\nC. Grass.\n"
             "Please respond with only the letter of the correct answer."},
            {"from": "gpt", "value": "B. Forest"},
            {"from": "human", "value": "And then?\n(A) it ends\n(B) it goes on"},
            {"from": "gpt", "value": "Answer: (A) it ends."},
        ],
    },
    {
        "messages": [
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": "<video>Who?\nOptions:\nA: he\nB: she"},
            {"role": "assistant", "content": "<think>not A</think>\n<answer>B</answer>"},
        ],
        "videos": ["data/v2.avi"],
    },
    {
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "video", "video": "file:///data/v3.mp4"},
                    {"type": "text", "text": "Which?\na) one\nb) two\nc) three"},
                ],
            },
            {"role": "assistant", "content": [{"type": "text", "text": "The answer is C."}]},
        ]
    },
    {"query": "<video>Where? (A) in (B) out", "response": "out", "videos": [{"path": "v4.mp4"}]},
    {"messages": [{"role": "user", "content": "<video>v5.mp4</video>When?\nA. now\nB. then"}]},
    {
        "conversation": [{"human": "Why?\nA. x\nB. y", "assistant": "A"}],
        "videos": "v6.mp4",
    },
]  # fmt: skip
