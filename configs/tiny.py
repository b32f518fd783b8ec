"""The whole method on the tiny world, on two CPU cores.

Claim under test (benchmarks/tiny_world.py): joint training beats each part trained alone.
Hardware: 2 CPU cores. Duration: 6 min. Expected: joint .77 (seed 0), uniform .33.
Command: python -m msjoe_jax.main --config=configs/tiny.py --workdir=runs/tiny
The second world (docs/world.md) has longer look-alikes and questions about three events:
python -m msjoe_jax.main --config=configs/tiny.py:v2 --workdir=runs/v2
"""

from ml_collections import ConfigDict

from msjoe_jax.config import add_group, base

VARIANTS = ("short", "selectors", "v2")
ASKING = ("dafs", "gens_like", "provca_like", "cacheflow_like")  # selectors that use the MLLM


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config, or a variant of it.

    short: a few steps on a small world, as a smoke test. selectors: the base MLLM, which has also
    learnt what selectors ask it, under the selectors that do so. v2: the second world. Several are
    joined: v2+short.

    Raises:
      ValueError: an unknown variant.
    """
    variants = variant.split("+") if variant else []
    for name in variants:
        if name not in VARIANTS:
            known = ", ".join(VARIANTS)
            raise ValueError(f"configs/tiny.py has no variant {name!r}; it has: {known}")
    c = base()
    add_group(c, "world")
    add_group(c, "warm_up")
    c.phases = ("world", "warm_up", "difficulty", "pretrain", "joint", "evaluate")
    c.mllm.size = "tiny"
    c.mllm.dtype = "float32"
    c.mllm.remat = False
    c.mllm.prompts_one_by_one = False
    c.clip.size = "tiny"
    c.sampler.width = 24
    c.sampler.depth = 3

    c.frames.candidates = 96
    c.frames.preview = 4
    c.frames.key = 6
    c.frames.preview_patches = 16
    c.frames.key_patches = 16

    c.prompt.system = ""
    c.prompt.query_instruction = "find"
    c.prompt.answer_instruction = "answer"
    c.prompt.max_queries = 2
    c.prompt.query_prompt_tokens = 64
    c.prompt.answer_prompt_tokens = 72
    c.prompt.query_tokens = 8
    c.prompt.answer_tokens = 4

    c.prompt.think_instruction = ""
    c.warm_up.clip_steps = 500
    c.warm_up.mllm_steps = 600
    # Two questions a video: 2,048 to train on, 256 to validate on, 2,000 held out.
    c.world.num_train = 1024
    c.world.num_validation = 128
    c.validation_limit = 0
    c.evaluate.smooth = 3  # better on validation than 5, with right queries and a perfect reader
    # The base model reads well, but its distribution is flat: sampling at 1.0 would lose a quarter
    # of its right answers, and with them the credit of their frames.
    c.rollout.answer_temperature = 0.5
    c.pretrain.steps = 60
    c.joint.steps = 200
    c.optimizer.mllm_lr = 5e-4
    c.optimizer.sampler_lr = 2e-3
    c.optimizer.mllm_decay = 0.0
    c.optimizer.sampler_decay = 0.0
    c.objective.query_entropy = 0.01
    # Keeps what the base model can read: without it one seed of three unlearns an eighth of it.
    c.objective.kl_coef, c.objective.kl_kind = 0.03, "k3+"
    c.objective.info_kind = "zscore"
    c.objective.info_threshold = 2.0

    c.evaluate.arms = (
        "uniform",
        "topk_question",
        "topk_queries",
        "topk_queries_smooth",
        "pretrained",
        "joint",
        "oracle",
    )
    if "v2" in variants:
        _second_world(c)
    if "short" in variants:
        c.world.num_train, c.world.num_validation, c.world.num_heldout = 96, 32, 64
        c.warm_up.clip_steps, c.warm_up.mllm_steps = 40, 20
        c.pretrain.steps, c.joint.steps = 2, 6
        c.validate_every = 3
    if "selectors" in variants:
        c.phases = ("world", "warm_up", "evaluate")
        c.warm_up.asks = True
        c.warm_up.mllm_steps = 900
        c.prompt.selector_prompt_tokens, c.prompt.selector_tokens = 640, 56  # of all candidates
        c.prompt.numbered_frames = 8  # as the warm-up shows them
        c.evaluate.arms = ("uniform", "topk_question", *ASKING, "oracle")
    return c


def _second_world(c: ConfigDict) -> None:
    """Changes what questions about three events, and longer look-alikes, change."""
    c.world.version = 2
    c.prompt.max_queries = 3
    c.prompt.query_tokens = 11  # three queries of three tokens, and the end
    c.prompt.query_prompt_tokens += 2  # one more word, and the comma before it
    c.prompt.answer_prompt_tokens += 2
    # The best with made-up embeddings; benchmarks/fixed_filters.py finds that of a run.
    f = c.evaluate.filter
    f.width, f.background, f.shift, f.apart, f.turns = 5, 15, 2, 0, True
    arms = [*c.evaluate.arms]
    arms.insert(arms.index("topk_queries_smooth") + 1, "filtered_queries")
    c.evaluate.arms = tuple(arms)
