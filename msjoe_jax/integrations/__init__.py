"""What other people's programs load of us; imported by no other room."""

from typing import Any


def lmms_eval_manifest() -> Any:
    """Returns what lmms-eval's registry knows our model by: its entry point `lmms_eval.models`.

    lmms-eval calls it at every start, so nothing of ours is imported.
    """
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(
        model_id="msjoe",
        chat_class_path="msjoe_jax.integrations.lmms_eval_model.MsjoeModel",
    )
