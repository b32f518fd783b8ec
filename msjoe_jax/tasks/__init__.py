"""Tasks by name, as `config.data.task` names them."""

from msjoe_jax.tasks import (
    cg_bench,
    conversations,
    jsonl,
    longvideobench,
    lvbench,
    mlvu,
    nextqa,
    tspo_10k,
    video_mme,
    video_mme_v2,
    video_r1,
)
from msjoe_jax.tasks.base import Task

TASKS: dict[str, Task] = {
    "jsonl": jsonl.TASK,
    "video_mme": video_mme.TASK,
    "video_mme_v2": video_mme_v2.TASK,
    "longvideobench": longvideobench.TASK,
    "lvbench": lvbench.TASK,
    "mlvu_dev": mlvu.DEV,
    "mlvu_test": mlvu.TEST,
    "cg_bench": cg_bench.TASK,
    "nextqa": nextqa.TASK,
    "tspo_10k": tspo_10k.TASK,
    "easyvideor1": video_r1.EASY,
    "video_r1": video_r1.TASK,
    "conversations": conversations.TASK,
}
