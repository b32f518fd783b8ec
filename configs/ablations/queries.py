"""What searches: learned queries (default), one of them, or the bare question.

Several untrained queries with a trained sampler are parts.py:mllm_frozen.
"""

from msjoe_jax.world.variants import Variants, family

QUESTION = {"rollout.queries": "question", "evaluate.arms": ("joint_question",)}

VARIANTS: Variants = {
    "one": ("one learned query at most", {"prompt.max_queries": 1}),
    "question": ("the question is the one query; MLLM and sampler trained", QUESTION),
    "question_mllm_frozen": (
        "the question is the one query; sampler trained",
        QUESTION | {"joint.train_mllm": False},
    ),
}
get_config = family(VARIANTS)
