"""The task of the project's own question files: JSON lines, see data/questions.py."""

from msjoe_jax.data.questions import load_questions
from msjoe_jax.tasks.base import Task
from msjoe_jax.tasks.multiple_choice import grade, groups

TASK = Task(read=load_questions, grade=grade, groups=groups)
