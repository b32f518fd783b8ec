"""Who draws the frames: the U-Net (default), an MLP, or the networks of other papers.

An MLP over single frames is the paper's ablation of the U-Net, in both trainings. TSPO's agent
reads embeddings and the bare question, and learns by its authors' rule: eight draws a question, a
nearly greedy frozen MLLM, advantages of the group, no entropy bonus; their falling τ is left out.
The evidential network learns from the frames that show the answer, without rewards, and so does the
U-Net as a start.
"""

from msjoe_jax.world.variants import Variants, family

EVIDENCE = {"phases": ("world", "warm_up", "difficulty", "evidence", "joint", "evaluate")}
QUESTION = {"rollout.queries": "question", "evaluate.arms": ("joint_question",)}
TSPO = {
    "phases": ("world", "warm_up", "difficulty", "joint", "evaluate"),
    "joint.train_mllm": False,
    "rollout.query_rollouts": 1,
    "rollout.frame_draws": 8,
    "rollout.answer_temperature": 0.01,
    "objective.advantage": "group",
    "objective.likelihood": "marginal_mean",
    "objective.frame_entropy": 0.0,
    "optimizer.sampler_lr": 5e-4,
    "optimizer.sampler_schedule": "linear",
    "optimizer.final_rate": 0.0,
    "optimizer.warmup_steps": 0,
    "optimizer.clip_by": "norm",
    "optimizer.sampler_clip": 1.0,
}


def network(name: str) -> dict[str, object]:
    """Returns the overrides by which a network of SELECTORS draws."""
    return {"sampler.network": name, "rollout.selector": name}


VARIANTS: Variants = {
    "mlp": ("an MLP over single frames in place of the U-Net", network("mlp")),
    "tspo": ("TSPO's agent by its own rule, MLLM frozen", network("tspo") | QUESTION | TSPO),
    "evidential": (
        "the evidential network, by InfoNCE on evidence alone",
        network("evidential") | QUESTION | EVIDENCE | {"evidence.steps": 200, "joint.steps": 0},
    ),
    "warm_start": (
        "the U-Net pre-trained by InfoNCE on evidence, not by rewards",
        EVIDENCE | {"evidence.steps": 60},
    ),
}
get_config = family(VARIANTS)
