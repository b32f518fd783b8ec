"""Tasks by name, as `config.data.task` names them."""

from msjoe_jax.tasks import jsonl
from msjoe_jax.tasks.base import Task

TASKS: dict[str, Task] = {
    "jsonl": jsonl.TASK,
}
