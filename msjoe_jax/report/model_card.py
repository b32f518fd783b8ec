"""The README.md of an exported model."""

import json
from collections.abc import Sequence
from typing import Any

TRAINED = {
    "warm_up": "warm-up: supervised, on the procedural tiny world",
    "evidence": "evidence: InfoNCE of the sampler on the frames that show the answers",
    "pretrain": "pretrain: REINFORCE on the sampler, the language model frozen",
    "joint": "joint: GRPO on the language model and REINFORCE on the sampler, at once",
}
SAMPLER = """
The sampler turns the similarities of the queries with the candidate frames into a choice of frames:

```python
import json
from flax import nnx, traverse_util
from msjoe_jax.models.sampler import SamplerConfig
from msjoe_jax.selectors import SELECTORS
from safetensors.flax import load_file

config = json.load(open("sampler/config.json"))
network, sizes = SELECTORS[config["network"]].network, SamplerConfig(**config["sizes"])
width = config["embedding"]
definition = nnx.graphdef(nnx.eval_shape(lambda: network.build(sizes, width, nnx.Rngs(0))))
sampler = nnx.merge(
    definition, traverse_util.unflatten_dict(load_file("sampler/sampler.safetensors"), sep=".")
)
```
"""


def model_card(
    name: str, *, meta: dict[str, Any], present: Sequence[str], title: str, architecture: str
) -> str:
    """Renders the card from the metadata of a checkpoint.

    Args:
      name: the card's heading.
      meta: the checkpoint's; its `trained` holds the `phases` that the models have been through
        (keys of `TRAINED`), and their settings.
      present: names of the models in the folder.
      title: the family's name in words.
      architecture: the class of `transformers` that loads the model.
    """
    trained = meta.get("trained", {})
    parts = [
        "---\nlibrary_name: transformers\npipeline_tag: video-text-to-text\n---\n",
        f"# {name}\n",
        f"A {title} multimodal language model"
        + (", with the frame sampler that chooses what it sees of a long video" if "sampler" in
           present else "")
        + (" and the CLIP that scores the frames" if "clip" in present else "")
        + ". Written by msjoe_jax, an implementation of MSJoE (arXiv 2602.22932).\n",
        "## How it was trained\n",
    ]  # fmt: skip
    if trained:
        parts += [f"- {TRAINED[training]}" for training in trained["phases"]]
        settings = json.dumps(trained, indent=2, sort_keys=True)
        parts += ["", "What the checkpoint records of it:\n", f"```json\n{settings}\n```\n"]
    else:
        parts += ["Not by msjoe_jax: these are the tensors that were converted.\n"]
    parts += [
        "## How to load it\n",
        f"```python\nfrom transformers import {architecture}\n",
        f'model = {architecture}.from_pretrained(".")\n```',
        SAMPLER if "sampler" in present else "",
        "## Limits\n",
        "Loaded on its own the language model answers from whatever frames it is given; choosing "
        "them takes CLIP, the sampler and the prompts of msjoe_jax. It may be wrong, as any such "
        "model, and inherits licence and biases of the model that it was trained from. Nothing "
        "here says how well it does: measure it on your own questions.\n",
    ]
    return "\n".join(parts)
