"""TSPO's selector as a torch module, written from its description, with its published names."""

import math

import numpy as np
import torch
from torch import nn

WINDOW, HEADS = 12, 8


class Temporal(nn.Module):
    """Attention of T frames under a T × T mask of windows; ffn_o is there and has no part."""

    def __init__(self, width):
        super().__init__()
        self.Self_q, self.Self_k, self.Self_v, self.ffn_o = (
            nn.Linear(width, width) for _ in range(4)
        )

    def forward(self, x):
        T, width = x.shape
        place = torch.arange(T, dtype=x.dtype)[:, None] / T
        waves = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width)).to(x.dtype)
        encoding = torch.zeros_like(x)
        encoding[:, 0::2], encoding[:, 1::2] = torch.sin(place * waves), torch.cos(place * waves)
        x = x + encoding
        q, k, v = (
            f(x).view(T, HEADS, -1).transpose(0, 1) for f in (self.Self_q, self.Self_k, self.Self_v)
        )
        scores = q @ k.transpose(1, 2) / math.sqrt(width // HEADS)
        hidden = torch.ones(T, T, dtype=torch.bool)
        for t in range(T):
            hidden[t, max(0, t - WINDOW // 2) : min(T, t + WINDOW // 2)] = False
        shares = scores.masked_fill(hidden, -1e6).softmax(-1)
        return (shares @ v).transpose(0, 1).reshape(T, width)


class Selector(nn.Module):
    """The scores of frames [T, D] by a question [1, D], before they are divided by τ."""

    def __init__(self, width):
        super().__init__()
        self.temporal = Temporal(width)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))

    def forward(self, frames, question):
        context = self.mlp(self.temporal(frames)) + frames
        return sum(nn.functional.cosine_similarity(x, question) for x in (context, frames))


NAMES = {
    "temporal.Self_q": "self_query",
    "temporal.Self_k": "self_key",
    "temporal.Self_v": "self_value",
    "mlp.0": "mlp_in",
    "mlp.2": "mlp_out",
}


def state_of(params):
    """Our parameters under the published names; ffn_o is noise."""
    rng = np.random.default_rng(0)
    width = np.asarray(params["mlp_in"]["bias"]).size
    state = {
        "temporal.ffn_o.weight": torch.from_numpy(rng.normal(size=(width, width))).float(),
        "temporal.ffn_o.bias": torch.from_numpy(rng.normal(size=width)).float(),
    }
    for published, own in NAMES.items():
        state[f"{published}.weight"] = torch.from_numpy(np.array(params[own]["kernel"]).T.copy())
        state[f"{published}.bias"] = torch.from_numpy(np.array(params[own]["bias"]))
    return state
