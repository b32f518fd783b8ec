"""What the phases make things from, as digests by name (see runtime/digest.py)."""

import types
from collections.abc import Mapping, Sequence
from typing import Any

from msjoe_jax.config import Config
from msjoe_jax.data.questions import Question, digest_of_questions
from msjoe_jax.data.records import RecordReader
from msjoe_jax.rollout.system import System
from msjoe_jax.rollout.text import Text
from msjoe_jax.runtime import hosts
from msjoe_jax.runtime.digest import digest, digest_of_file
from msjoe_jax.training.config import TrainingConfig
from msjoe_jax.training.question_weights import uses_rates

# Of the optimizer: they may change on a resume, and change no weight that is there.
RATES = ("mllm_lr", "sampler_lr", "max_skipped")


def settings_of(config: Config, *groups: str) -> dict[str, Any]:
    """Returns groups as plain values without paths, whose contents count instead."""
    parts = config.parts(*groups)
    paths = ("checkpoint", "tokenizer")
    return {name: {k: v for k, v in part.items() if k not in paths} for name, part in parts.items()}


def without_rates(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a model folder's parts without the rates that its training had last."""
    if "trained" not in parts:
        return dict(parts)
    kept = {k: v for k, v in parts["trained"].get("optimizer", {}).items() if k not in RATES}
    return {**parts, "trained": {**parts["trained"], "optimizer": kept}}


def weights_inputs(names: Mapping[str, str], system: System, text: Text) -> dict[str, str]:
    """Returns what names the models' weights, their sizes, tokenizers and own chat template."""
    siglip = {}
    if system.siglip:
        siglip = {
            "siglip sizes and images": system.siglip.name(""),
            "siglip tokenizer": digest_of_file(system.siglip.tokenizer.file),
        }
    return {
        **siglip,
        **{f"{name} weights": value for name, value in sorted(names.items())},
        "mllm sizes": digest(system.family.write_config(system.mllm_config)),
        "clip sizes": digest(system.clip_config.to_hf()),
        "mllm tokenizer": digest_of_file(text.tokenizer.file),
        "clip tokenizer": digest_of_file(text.clip_tokenizer.file),
        "chat template": digest(text.chat.source) if text.chat.source else "built-in",
    }


def data_inputs(
    questions: Sequence[Question],
    reader: RecordReader,
    weights: Mapping[str, float] = types.MappingProxyType({}),
) -> dict[str, str]:
    """Returns digests of questions and of the records of their videos, and how sets are mixed.

    Args:
      questions: all of them.
      reader: of their videos.
      weights: of several sets, by name.

    Raises:
      UserError: the hosts of the run have different ones.
    """
    inputs = {
        "questions": digest_of_questions(questions),
        "records": reader.digest({question.video for question in questions}),
    }
    if weights:
        inputs["weights of the sets"] = ", ".join(f"{k} {x:g}" for k, x in weights.items())
    hosts.agree(inputs, f"the questions and the records in {reader.directory}")
    return inputs


def start_inputs(
    training: TrainingConfig,
    names: Mapping[str, str],
    before: Sequence[str],
    questions: Sequence[Question],
) -> dict[str, str]:
    """Returns what a training starts from, beside the base models and the data.

    Args:
      training: says whether it goes by pass rates.
      names: of the starting weights.
      before: the trainings before it.
      questions: with their pass rates.
    """
    inputs = {
        "trainings before it": ", ".join(before) or "none",
        "starting weights": digest(dict(names)),
    }
    if uses_rates(training):
        inputs["pass rates"] = digest([question.difficulty for question in questions])
    return inputs
