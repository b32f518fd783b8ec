"""Real files that tests read where they are at hand: published tokenizers and configs, videos.

They are not in this repository. `MSJOE_MATERIAL` names their folder; without it, it is looked for
beside the checkout.
"""

import os
import pathlib

import pytest

_BESIDE = pathlib.Path(__file__).parents[3] / "shared" / "material"
MATERIAL = pathlib.Path(os.environ.get("MSJOE_MATERIAL") or _BESIDE)
VIDEOS = MATERIAL / "videos"
BROKEN_VIDEOS = MATERIAL / "broken_videos"
TOKENIZERS = MATERIAL / "tokenizer"
QWEN = TOKENIZERS / "Qwen2.5-VL-7B-Instruct"  # all of the published folder but the weights

needs_material = pytest.mark.skipif(
    not MATERIAL.is_dir(), reason="no real files at hand: MSJOE_MATERIAL names their folder"
)
