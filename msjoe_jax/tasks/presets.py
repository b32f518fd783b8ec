"""What each benchmark is usually asked with, and the number that an untrained model should give.

A model's accuracy moves by points with the prompt and with the pixels of a frame, so a comparison
keeps to these or says where it does not.
"""

import dataclasses

from msjoe_jax.text.prompts import PromptConfig

LMMS_EVAL = "lmms-eval 75571cfe"


@dataclasses.dataclass(frozen=True)
class Anchor:
    """A published accuracy of the untrained Qwen2.5-VL-7B from uniform frames.

    what: split and metric; frames: shown; low, high: the accuracy in percent, from the lowest to
    the highest that is published; source: by whom; group: kind and name of the questions that it is
    of, None: all; mean_over: the kind of group over which it is a mean, "": over questions.
    """

    what: str
    frames: int
    low: float
    high: float
    source: str
    group: tuple[str, str] | None = None
    mean_over: str = ""

    def describe(self) -> str:
        """Returns a line for people."""
        span = f"{self.low:g}" if self.low == self.high else f"{self.low:g} to {self.high:g}"
        return f"{self.what}, {self.frames} uniform frames: {span} % ({self.source})"


@dataclasses.dataclass(frozen=True)
class Preset:
    """A benchmark's usual prompt and pixels.

    before: text that stands before the question; instruction: the text after the options; option:
    how an option is written, with {letter} and {text}; max_new_tokens: of the reply, greedily;
    max_pixels: of a frame at most (of the pair that a video's moment fuses, likewise), 0: not
    fixed; anchors: what the untrained model should give; source: whose prompt it is.
    """

    before: str
    instruction: str
    option: str
    max_new_tokens: int
    max_pixels: int
    anchors: tuple[Anchor, ...]
    source: str

    def prompt(self, style: PromptConfig) -> PromptConfig:
        """Returns a prompt's config that asks for the answer with the preset's words."""
        return dataclasses.replace(
            style,
            answer_lead=self.before,
            answer_option=self.option,
            answer_instruction=self.instruction,
            think=False,
            answer_tokens=self.max_new_tokens,
        )

    def key_patches(self, patch: int, otherwise: int) -> int:
        """Returns the patches of a frame, `patch` pixels a side; `otherwise` where any is usual."""
        return self.max_pixels // patch**2 or otherwise


_LETTER = "Answer with the option's letter from the given choices directly."
# 300 merged tokens for a pair of frames: what TSPO's and its successors' tables are made with.
_PIXELS = 235_200
VIDEO_MME = Preset(
    before="Select the best answer to the following multiple-choice question based on the video "
    "and the subtitles. Respond with only the letter (A, B, C, or D) of the correct option.",
    instruction="Answer with the option's letter from the given choices directly.",
    option="{letter}. {text}",
    max_new_tokens=16,
    max_pixels=_PIXELS,
    anchors=(
        Anchor("all, without subtitles", 32, 60.7, 62.2, "A.I.R., arXiv 2604.01002, BOLT"),
        Anchor("all, without subtitles", 64, 61.2, 63.7, "A.I.R., TSPO"),
        Anchor(
            "long, without subtitles",
            32,
            50.6,
            52.0,
            "arXiv 2604.01002, DIG",
            group=("duration", "long"),
        ),
    ),
    source=f"{LMMS_EVAL}, videomme",
)
VIDEO_MME_V2 = Preset(
    before="",
    instruction="Select the best answer to the following multiple-choice question based on the "
    "video. Respond with only the letter (A, B, C, D, E, F, G, or H) of the correct option.",
    option="{letter}. {text}",
    max_new_tokens=16,
    max_pixels=0,
    anchors=(),
    source="Video-MME-v2 evaluation/test_video_mme_v2.py 013b6c9",
)
LONGVIDEOBENCH = Preset(
    before="",
    instruction=_LETTER,
    option="{letter}. {text}",
    max_new_tokens=32,
    max_pixels=_PIXELS,
    anchors=(
        Anchor("validation", 32, 56.9, 59.3, "DIG, A.I.R., BOLT"),
        Anchor("validation", 64, 58.9, 59.0, "DIG, TSPO, A.I.R."),
    ),
    source=f"{LMMS_EVAL}, longvideobench_val_v",
)
LVBENCH = Preset(
    before="",
    instruction="Answer the question with the option letter.",
    option="({letter}) {text}",
    max_new_tokens=16,
    max_pixels=_PIXELS,
    anchors=(
        Anchor("all", 32, 37.6, 37.6, "arXiv 2604.01002"),
        Anchor("all", 64, 38.3, 38.3, "TSPO"),
    ),
    source=f"{LMMS_EVAL}, lvbench",
)
MLVU = Preset(
    before="",
    instruction="Only give the best option.\nBest option: (",
    option="({letter}) {text}",
    max_new_tokens=16,
    max_pixels=_PIXELS,
    anchors=(
        Anchor("dev, mean of 7 tasks", 32, 59.3, 62.5, "A.I.R., DIG, BOLT", mean_over="task_type"),
        Anchor("dev, mean of 7 tasks", 64, 63.6, 63.8, "DIG, A.I.R.", mean_over="task_type"),
        Anchor("dev, mean of questions", 64, 65.1, 65.1, "TSPO"),
    ),
    source=f"{LMMS_EVAL}, mlvu_dev",
)
MLVU_TEST = dataclasses.replace(
    MLVU, anchors=(), source=f"{LMMS_EVAL}, mlvu_dev: its mlvu_test asks without any words"
)
CG_BENCH = Preset(
    before="Select the best answer to the following multiple-choice question based on the video.",
    instruction=_LETTER,
    option="{letter}. {text}",
    max_new_tokens=16,
    max_pixels=0,
    anchors=(),
    source="lmms-eval 65ef07d, cgbench",
)
