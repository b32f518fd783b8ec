"""The functions of the local task, as lmms-eval's own multiple-choice tasks have them."""

from typing import Any

from lmms_eval.tasks._task_utils.mcq_extract import extract_mcq_answer

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def videos(record: dict[str, Any]) -> list[str]:
    """Returns the record's one video, by its path."""
    return [record["path"]]


def prompt(record: dict[str, Any], lmms_eval_specific_kwargs: Any = None) -> str:
    """Returns question, options and an instruction."""
    options = [f"{LETTERS[i]}. {text}" for i, text in enumerate(record["options"])]
    return "\n".join([record["question"], *options, "Answer with the option's letter."])


def score(record: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Returns 1 for the right letter, as lmms-eval's extractor reads the reply."""
    letters = list(LETTERS[: len(record["options"])])
    return {"accuracy": float(extract_mcq_answer(results[0], choices=letters) == record["answer"])}
