"""Options of objective and rollout, one changed at a time (docs/method.md#10-departures)."""

from msjoe_jax.world.variants import Variants, family

FLAT = {"rollout.query_rollouts": 8, "rollout.frame_draws": 1}
TWO = {"rollout.updates": 2}

VARIANTS: Variants = {
    "flat_group": (
        "the paper's 8 × 1 group, GRPO's advantage",
        FLAT | {"objective.advantage": "group"},
    ),
    "dr_grpo": (
        "8 × 1, advantages not divided by their spread",
        FLAT | {"objective.advantage": "group", "objective.advantage_std": "none"},
    ),
    "leave_one_out": (
        "8 × 1, leave-one-out advantages",
        FLAT | {"objective.advantage": "leave_one_out"},
    ),
    "shared": ("the paper's shared credit", {"objective.credit": "shared"}),
    "raw": (
        "shared credit, the sampler paid the raw reward (the paper's form)",
        {"objective.credit": "shared", "joint.sampler_advantage": "raw"},
    ),
    "counterfactual": (
        "sampler's baseline: the answer from uniform frames",
        {"rollout.counterfactual": True, "joint.sampler_advantage": "counterfactual"},
    ),
    "counterfactual_logged": (
        "the gain over uniform frames, logged only",
        {"rollout.counterfactual": True},
    ),
    "conditional_bernoulli": ("the draw as a set", {"objective.likelihood": "cb"}),
    "marginal": ("the paper's likelihood of a draw", {"objective.likelihood": "marginal"}),
    "no_frame_entropy": ("no entropy bonus on frames", {"objective.frame_entropy": 0.0}),
    "no_query_entropy": ("no entropy bonus on queries", {"objective.query_entropy": 0.0}),
    "refill": (
        "questions answered all alike replaced, two further batches at most",
        {"rollout.refill": 2},
    ),
    "mask_silent": (
        "silent questions left out of entropy and KL",
        {"objective.mask_silent": True},
    ),
    "overlong_mask": (
        "replies that were cut off are not trained on",
        {"objective.overlong": "mask"},
    ),
    "overlong_penalty": (
        "long replies pay up to 0.5 over their last 2 tokens",
        {
            "objective.overlong": "penalty",
            "objective.overlong_buffer": 2,
            "objective.overlong_penalty": 0.5,
        },
    ),
    "curriculum": ("questions from easy to hard", {"joint.curriculum.width": 0.3}),
    "difficulty_weight": ("easy and hard questions weigh more", {"joint.difficulty_weight": 0.5}),
    "no_kl": ("no KL to the base model", {"objective.kl_coef": 0.0}),
    "uniform_share": (
        "a quarter of the questions shown uniform frames",
        {"rollout.uniform_share": 0.25},
    ),
    "answer_weight": ("answers' advantages at half weight", {"objective.answer_weight": 0.5}),
    "sequence_mean": ("loss: mean of replies' means", {"objective.aggregation": "sequence-mean"}),
    "fixed_length": ("loss: sums over a fixed length", {"objective.aggregation": "fixed-length"}),
    "two_updates": ("two updates a batch, clipped ratios of tokens and draws", TWO),
    "gspo": ("two updates a batch, sequence ratios", TWO | {"objective.ratio": "sequence"}),
    "micro_batches": (
        "gradients of four parts added: the default's",
        {"objective.micro_batches": 4},
    ),
    # Factors bear larger steps than the weights themselves.
    "lora": (
        "LoRA of rank 8 in place of full weights",
        {"mllm.lora_rank": 8, "optimizer.mllm_lr": 2e-3},
    ),
}
get_config = family(VARIANTS)
