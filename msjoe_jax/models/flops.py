"""FLOPs that a multimodal LLM needs at least: what its sizes say, whatever a program does.

2 for each multiplication of a matrix product. No padding of heads, nothing computed twice, causal
attention at half, and a window's attention in the window alone.
"""

from typing import NamedTuple


class Flops(NamedTuple):
    """FLOPs of a forward pass.

    token: of a token in the decoder's matrices; pair: of a query and a key it sees, in all layers;
    logit: of a token's logits; patch: of a patch in the tower's matrices; patch_pair: of a query
    and a key in one layer of the tower; full, windowed: its layers of each kind; window: patches in
    a window.
    """

    token: float
    pair: float
    logit: float
    patch: float
    patch_pair: float
    full: int
    windowed: int
    window: int

    def prompt(self, length: int) -> tuple[float, float]:
        """Returns those of a prompt's matrices and of its attention; it needs no logits."""
        return float(self.token * length), self.pair * length**2 / 2

    def completion(self, prompt: int, length: int) -> tuple[float, float]:
        """Returns those of a completion's matrices, logits among them, and of its attention."""
        pairs = length * (prompt + length / 2)
        return float((self.token + self.logit) * length), self.pair * pairs

    def frame(self, patches: int) -> tuple[float, float]:
        """Returns those of a frame's matrices and of its attention."""
        seen = self.full * patches + self.windowed * min(patches, self.window)
        return float(self.patch * patches), float(self.patch_pair * patches * seen)
