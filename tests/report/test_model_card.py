"""The card of an exported model."""

from msjoe_jax.report.model_card import model_card


def test_card_of_a_trained_model():
    meta = {"trained": {"phases": ["pretrain", "joint"], "joint": {"steps": 7}}}
    card = model_card(
        "mine",
        meta=meta,
        present=["mllm", "sampler"],
        title="Other-VL",
        architecture="OtherForGeneration",
    )
    assert card.startswith("---\n") and "# mine\n" in card
    assert "A Other-VL multimodal" in card and "import OtherForGeneration\n" in card
    assert "pretrain: REINFORCE" in card and "joint: GRPO" in card and '"steps": 7' in card
    assert "CLIP that scores" not in card and "Not by msjoe_jax" not in card
