"""The plug-in against a stand-in of lmms-eval's interface, version 0.7.3; `make lmms-eval` is real.

The stand-in has what the plug-in imports: the abstract class, and the manifest's class.
"""

import abc
import dataclasses
import importlib
import sys
import tomllib
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from msjoe_jax.errors import UserError
from msjoe_jax.rollout.answerer import Answerer
from tests.support.tiny import tiny_model_folder, tiny_video

QUESTION, OPTIONS = "what colour is the cup ?", ("red", "blue", "green")
PROMPT = "what colour is the cup ?\nA. red\nB. blue\nC. green\nAnswer with the letter."


class Lmms(abc.ABC):
    """lmms_eval.api.model.lmms: three abstract methods, and the tasks' records."""

    is_simple = True

    def __init__(self) -> None:
        self.task_dict: dict[str, Any] = {}

    @abc.abstractmethod
    def loglikelihood(self, requests): ...

    @abc.abstractmethod
    def generate_until(self, requests): ...

    @abc.abstractmethod
    def generate_until_multi_round(self, requests): ...


@dataclasses.dataclass(frozen=True)
class ModelManifest:
    model_id: str
    simple_class_path: str | None = None
    chat_class_path: str | None = None
    aliases: tuple[str, ...] = ()


@pytest.fixture(scope="module")
def plugin() -> Iterator[Any]:
    """The class that the entry point's manifest names."""
    names = ("lmms_eval", "lmms_eval.api", "lmms_eval.api.model", "lmms_eval.models")
    made: dict[str, Any] = {
        n: types.ModuleType(n) for n in (*names, "lmms_eval.models.registry_v2")
    }
    made["lmms_eval.api.model"].lmms = Lmms
    made["lmms_eval.models.registry_v2"].ModelManifest = ModelManifest
    with pytest.MonkeyPatch.context() as patch:
        for name, module in made.items():
            patch.setitem(sys.modules, name, module)
        project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
        entry = project["project"]["entry-points"]["lmms_eval.models"]["msjoe"]
        module, _, attribute = entry.partition(":")
        manifest = getattr(importlib.import_module(module), attribute)()
        assert manifest.model_id == "msjoe" and manifest.simple_class_path is None
        module, _, attribute = manifest.chat_class_path.rpartition(".")
        yield getattr(importlib.import_module(module), attribute)
        sys.modules.pop(module)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny_model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    return tiny_video(tmp_path_factory.mktemp("video") / "v.mp4", frames=100)


def requests(*videos: Path, prompt: str = PROMPT, **settings: Any) -> list[Any]:
    """Requests as lmms-eval makes them: six values, the messages made of the record."""

    def messages(record: dict[str, Any]) -> list[dict[str, Any]]:
        video, text = {"type": "video", "url": record["path"]}, {"type": "text", "text": prompt}
        return [{"role": "user", "content": [video, text]}]

    args = [("", messages, settings, row, "task", "test") for row in range(len(videos))]
    return [types.SimpleNamespace(args=one) for one in args]


def records(model: Any, *videos: Path) -> None:
    model.task_dict = {"task": {"test": [{"path": str(v), "question": QUESTION} for v in videos]}}


def test_replies_are_those_of_the_answerer(plugin, folder, video, capsys):
    """In the order of the requests; what is not done as asked is printed, with its count."""
    model = plugin(checkpoint=str(folder), batch_size="1", device="cpu")
    assert model.is_simple is False
    videos = (video, video.parent / "none.mp4", video)
    records(model, *videos)
    replies = model.generate_until(requests(*videos, until=["\n\n"], max_new_tokens=16))
    answer = Answerer(folder).answer(video, QUESTION, OPTIONS)
    want = answer.answer_words if answer.letter is None else answer.letter
    assert replies == [want, "", want]
    printed = capsys.readouterr().err
    for line in (
        "msjoe: 3 × generation_kwargs until=['\\n\\n'] not taken",
        "msjoe: 3 × generation_kwargs max_new_tokens=16 not taken",
        "msjoe: 3 × lines of a task's prompt left out, such as 'Answer with the letter.'",
        "msjoe: 1 × question without a reply: ",
    ):
        assert line in printed, printed
    assert "none.mp4" in printed


@pytest.mark.soak
def test_prompts_without_options_and_other_frames(plugin, folder, video, capsys):
    model = plugin(checkpoint=str(folder), reply="verbatim", frames="2", selector="uniform")
    records(model, video)
    (reply,) = model.generate_until(requests(video, prompt="what is there ?"))
    answerer = Answerer(folder, key_frames=2, selector="uniform")
    with answerer.opened(video) as opened:
        answer = answerer.answer_opened(opened, "what is there ?", ())
    assert (reply, answer.letter, len(answer.times)) == (answer.answer_words, None, 2)
    assert "1 × prompts without options" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments,message",
    [
        ({}, "checkpoint=DIR is missing"),
        ({"checkpoint": "x", "fps": 2}, "--model_args fps: not one of checkpoint, frames"),
        ({"checkpoint": "x", "reply": "long"}, "reply=long is not one of letter, verbatim"),
        ({"checkpoint": "x", "frames": "many"}, "frames=many is not a number"),
        ({"checkpoint": "x", "selector": "best"}, "selector 'best' is not one of"),
        ({"checkpoint": "nowhere"}, "nowhere"),
    ],
)
def test_arguments_that_are_refused(plugin, arguments, message):
    with pytest.raises(UserError, match=message):
        plugin(**arguments)


def test_other_kinds_of_requests_are_refused(plugin, folder):
    model = plugin(checkpoint=str(folder))
    for refuse in (model.loglikelihood, model.generate_until_multi_round):
        with pytest.raises(UserError, match="output_type generate_until, not"):
            refuse([])
