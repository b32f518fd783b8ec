"""FLOPs at least, against products by hand."""

from msjoe_jax.models.flops import Flops

FLOPS = Flops(
    token=10, pair=2, logit=5, patch=3, patch_pair=7, full=1, windowed=2, window=4
)  # fmt: skip


def test_prompts_completions_and_frames():
    assert FLOPS.prompt(8) == (80, 2 * 32)  # half of 8 × 8 pairs
    # Four tokens see 8 of the prompt each, and half of each other.
    assert FLOPS.completion(8, 4) == (60, 2 * (4 * 8 + 8))
    assert FLOPS.frame(6) == (18, 7 * (6 * 6 + 2 * 6 * 4))
    assert FLOPS.frame(2) == (6, 7 * 3 * 2 * 2)  # a window is no larger than its frame
