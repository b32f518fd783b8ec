"""Folders as an evaluation writes them, of made-up results."""

import base64
import io
import json
import pathlib
from typing import Any

import numpy as np
from PIL import Image

LABELS = {
    "blind": "no frames",
    "uniform": "uniform",
    "topk": "top-k by the queries",
    "joint": "joint",
    "bolt": "BOLT",
    "aks": "AKS (our scorer)",
    "qframe": "Q-Frame (our scorer)",
    "mdp3": "MDP3",
    "focus": "FOCUS",
    "tspo": "TSPO's agent",
}
NASTY = "<script>alert('1')</script> & \"two\" $x$ \u2028 { } </style>"
STEPS = ("query", "similarity", "sampler", "answer")


def jpeg(shade: int) -> str:
    """A thumbnail in base64."""
    pixels = np.full((90, 160, 3), shade % 256, np.uint8)
    pixels[20:70, 10 + shade % 100 : 50 + shade % 100] = (200, 60, 40)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=70)
    return base64.b64encode(buffer.getvalue()).decode()


def write_evaluation(
    folder: pathlib.Path,
    *,
    questions: int = 40,
    arms: tuple[str, ...] = ("blind", "uniform", "topk", "joint"),
    budgets: tuple[int, ...] = (4, 8),
    looks: int = 2,
    candidates: int = 60,
    seed: int = 0,
    better: float = 0.0,
) -> pathlib.Path:
    """Writes samples.jsonl, summary.json and looks; `better`: is added to what joint gets right."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    keys = [(arm, k) for arm in arms for k in ((0,) if arm == "blind" else budgets)]
    rows = [
        _row(rng, number, arm, k, candidates, better)
        for number in range(questions)
        for arm, k in keys
    ]
    rows[1] |= {"dropped": "prompt too long: 9000 of 8192 tokens", "score": None, "seconds": None}
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "samples.jsonl").write_text(text)
    (folder / "summary.json").write_text(json.dumps(_summary(rows, keys, questions), indent=1))
    (folder / "looks").mkdir(exist_ok=True)
    for number in range(looks):
        look = _look(rng, number, keys, candidates)
        (folder / "looks" / f"q{number:04}-digest.json").write_text(json.dumps(look))
    return folder


def _row(
    rng: np.random.Generator, number: int, arm: str, k: int, candidates: int, better: float
) -> dict[str, Any]:
    chance = {"blind": 0.25, "uniform": 0.4, "joint": 0.7 + better}.get(arm, 0.5) + 0.01 * k
    right = bool(rng.random() < chance)
    frames = sorted(rng.choice(candidates, k, replace=False).tolist()) if k else []
    letter = "B" if right else "C"
    return {
        "id": f"q{number:04}",
        "video": f"video-{number // 4}",
        "task": "videomme",
        "arm": arm,
        "label": LABELS.get(arm, arm),
        "selector": arm,
        "queries_by": "joint",
        "scorer": "clip",
        "mllm": "joint",
        "sampler": "joint",
        "answerer": "base",
        "budget": k,
        "previews": 8,
        "candidates": candidates,
        "duration": 2.0 * candidates,
        "frames": frames,
        "times": [2.0 * frame for frame in frames],
        "tokens": [64] * k,
        "prompt_tokens": 210 + 64 * k,
        "queries": ["a red cube", NASTY],
        "reply": f"<think>{NASTY}</think><answer>{letter}</answer>",
        "answer": letter,
        "gold": "B",
        "score": float(right),
        "valid": True,
        "finished": number % 9 > 0,
        "tagged": True,
        "extractor": "strict",
        "extracted": {"strict": letter, "official": letter, "lmms-eval": letter},
        "covered": bool(k) and number % 3 == 0,
        "draw": 0,
        "seed": 0,
        "subtitles": False,
        "seconds": {step: 0.1 * (place + 1) for place, step in enumerate(STEPS)},
        "groups": {"duration": ("short", "long")[number % 2], "domain": f"domain {number % 5}"},
        "dropped": None,
    }


def _part(rows: list[dict[str, Any]]) -> dict[str, Any]:
    scores = [row["score"] for row in rows if row["score"] is not None]
    mean = float(np.mean(scores))
    half = 1.96 * (mean * (1 - mean) / len(scores)) ** 0.5
    return {"accuracy": mean, "ci95": [mean - half, mean + half], "questions": len(scores)}


def _summary(rows: list[dict[str, Any]], keys: list[tuple[str, int]], asked: int) -> dict[str, Any]:
    arms, differences = [], []
    for arm, k in keys:
        own = [row for row in rows if (row["arm"], row["budget"]) == (arm, k)]
        groups = {
            kind: {
                name: _part([row for row in own if row["groups"][kind] == name])
                for name in sorted({row["groups"][kind] for row in own})
            }
            for kind in ("duration", "domain")
        }
        names = ("selector", "queries_by", "scorer", "sampler", "mllm", "answerer")
        arms.append(
            {
                "arm": arm,
                "budget": k,
                "label": LABELS.get(arm, arm),
                **{name: own[0][name] for name in names},
                **_part(own),
                "valid": 0.99,
                "tagged": 0.97,
                "cut_off": 0.03,
                "unparsed": 0.01,
                "tokens_per_frame": 64 if k else 0,
                "tokens_total": 210 + 64 * k,
                "covered": 0.4,
                "groups": groups,
                "strict": 0.5,
                "official": 0.55,
                "lmms-eval": 0.56,
            }
        )
    for row in arms:
        if row["arm"] != "uniform" and row["budget"]:
            base = next(r for r in arms if (r["arm"], r["budget"]) == ("uniform", row["budget"]))
            d = row["accuracy"] - base["accuracy"]
            differences.append(
                {
                    "arm": row["arm"],
                    "budget": row["budget"],
                    "against": "uniform",
                    "against_budget": row["budget"],
                    "difference": d,
                    "ci95": [d - 0.05, d + 0.05],
                }
            )
    return {
        "format": 1,
        "task": "videomme",
        "checkpoint": "runs/tiny/final",
        "weights": {"mllm": "0123abcd", "clip": "4567ef01"},
        "code": {"version": "0.1.0", "commit": "abc1234"},
        "machine": {"devices": "2 x cpu", "jax": "0.10.2"},
        "settings": {"frames": list(dict.fromkeys(k for _, k in keys)), "extractor": "strict"},
        "sheet": {"asked": asked, "missing_video": 2, "dropped": {"prompt too long": 1}},
        "arms": arms,
        "differences": differences,
        "overlap": {"8": {"shares": [["topk", "joint", 0.31]], "same": []}},
    }


def _look(
    rng: np.random.Generator, number: int, keys: list[tuple[str, int]], T: int
) -> dict[str, Any]:
    arms = list(dict.fromkeys(arm for arm, _ in keys))
    similarity = (0.2 + 0.1 * rng.random((2, T))).round(4).tolist()
    frames = {
        f"{arm}@{k}": sorted(rng.choice(T, min(k, T), replace=False).tolist())
        for arm, k in keys
        if k
    }
    used = sorted({place for places in frames.values() for place in places})
    logits = {arm: rng.normal(size=T).round(3).tolist() if arm == "joint" else None for arm in arms}
    return {
        "id": f"q{number:04}",
        "question": f"What is shown after the red cube? {NASTY}",
        "options": ["a dog", "a cat", NASTY, "nothing"],
        "gold": "B",
        "video": f"video-{number // 4}",
        "times": [2.0 * place for place in range(T)],
        "queries": {arm: ["a red cube", NASTY] for arm in arms},
        "similarity": {arm: similarity for arm in arms if arm not in ("blind", "uniform")},
        "logits": logits,
        "frames": frames,
        "evidence": [[20.0, 36.0]],
        "thumbnails": {str(place): jpeg(3 * place + number) for place in used},
    }
