"""Your own videos: `msjoe init` fills this file in, or you do (docs/own_videos.md).

Hardware: whatever is at hand; every device takes a share of the weights.
Data: your own videos and questions. Paths are relative to this file.
Command: python -m msjoe_jax.main --config=own/own.py --workdir=own/run
"""

from ml_collections import ConfigDict

from msjoe_jax.own import own_config

model = ""  # model folder of the multimodal LLM (msjoe convert)
clip = ""  # model folder of CLIP
records = ""  # record folder of the videos to train on, embedded by that CLIP (msjoe predecode)
questions = ""  # question file to train on
# Of several sets in their place, by name: {"records": …, "questions": …, "weight": 1.0}.
sets: dict[str, dict[str, object]] = {}
heldout_records = ""  # record folder of other videos, to judge by
heldout_questions = ""  # question file of these
updates = 1000  # of both models together
pretrain_updates = 200  # of the sampler alone, before
questions_per_update = 32  # a multiple of the number of devices
key_frames = 32  # of a video, shown to answer
training = "full"  # of the multimodal LLM: its whole decoder, or "lora"
precision = "bfloat16"  # of the computation; "float32" on CPUs


def get_config() -> ConfigDict:
    """Returns the config; what is not above follows from it (msjoe_jax/own.py)."""
    return own_config(
        __file__,
        model=model,
        clip=clip,
        records=records,
        questions=questions,
        sets=sets,
        heldout_records=heldout_records,
        heldout_questions=heldout_questions,
        updates=updates,
        pretrain_updates=pretrain_updates,
        questions_per_update=questions_per_update,
        key_frames=key_frames,
        training=training,
        precision=precision,
    )
