"""A model's own settings of generation: how replies end, and how tokens are drawn.

Reference: transformers `generation/configuration_utils.py` (5.23). Training and evaluation draw as
their config says; the command `generate` draws as the model's file says, unless it is told.
"""

from typing import Any, NamedTuple

from msjoe_jax.stated import Stated, names, shown

GREEDY = 1e-4  # a temperature below draws the likeliest token

# Of the form of outputs, of where a file comes from, and of lengths, which a caller states.
_WITHOUT_EFFECT = names(
    "bos_token_id pad_token_id decoder_start_token_id transformers_version _from_model_config "
    "max_length max_new_tokens max_cache_len use_cache return_dict_in_generate output_scores "
    "output_logits output_attentions output_hidden_states cache_implementation cache_config "
    "low_memory prefill_chunk_size continuous_batching_config compile_config disable_compile "
    "attn_implementation "
    "length_penalty early_stopping trust_remote_code"  # the first two of beams
)
# What is not computed, with the values that ask for nothing.
_OFF: dict[str, tuple[Any, ...]] = {
    "min_length": (0,),
    "num_beams": (1,),
    "num_beam_groups": (1,),
    "num_return_sequences": (1,),
    "diversity_penalty": (0,),
    "typical_p": (1,),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    "no_repeat_ngram_size": (0,),
    "encoder_no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1,),
    "remove_invalid_values": (False,),
    "renormalize_logits": (False,),
    "is_assistant": (False,),
    "guidance_scale": (1,),
    **dict.fromkeys(
        names(
            "min_new_tokens min_p top_h penalty_alpha bad_words_ids forced_bos_token_id "
            "forced_eos_token_id suppress_tokens begin_suppress_tokens sequence_bias "
            "exponential_decay_length_penalty watermarking_config stop_strings dola_layers "
            "token_healing force_words_ids constraints forced_decoder_ids "
            "prompt_lookup_num_tokens max_matching_ngram_size max_time speculation_type use_mtp "
            "assistant_ensemble_weight"
        ),
        (),
    ),
}
_OF_ASSISTANTS = names(
    "num_assistant_tokens num_assistant_tokens_schedule assistant_confidence_threshold "
    "assistant_early_exit assistant_lookbehind target_lookbehind"
)


class Generation(NamedTuple):
    """How a model says that it generates.

    Attributes:
      end_ids: tokens that end a reply; empty: it does not say.
      repetition_penalty: logits of ids that have occurred are divided by it, or multiplied where
        negative; 1: nothing.
      temperature: 0: the likeliest token.
      top_k, top_p: 0 and 1 narrow nothing.
    """

    end_ids: tuple[int, ...] = ()
    repetition_penalty: float = 1.0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0


def read_generation(settings: dict[str, Any]) -> Generation:
    """Reads a generation_config.json.

    Raises:
      UnknownFields: there are fields that are not known here, and nothing else is wrong.
      ValueError: something is asked for that is not computed here.
    """
    stated = Stated(settings)
    stated.free(*_WITHOUT_EFFECT, *_OF_ASSISTANTS)
    for name, values in _OFF.items():
        stated.only(name, *values, None)
    ends = stated.take("eos_token_id", None)
    ends = [] if ends is None else ends if isinstance(ends, list) else [ends]
    if not all(type(end) is int and end >= 0 for end in ends):
        stated.refuse("eos_token_id", f"{shown(ends)}, no id of a token")
        ends = []
    penalty = 1.0
    if stated.states("repetition_penalty"):
        penalty = stated.real("repetition_penalty")
    drawn = stated.states("do_sample") and stated.flag("do_sample", False)
    temperature = stated.take("temperature", None)
    temperature = 1.0 if temperature is None else temperature
    if type(temperature) not in (int, float) or not 0 <= temperature < float("inf"):
        stated.refuse("temperature", f"{shown(temperature)}, not a number from 0 on")
        temperature = 0.0
    top_k = stated.whole("top_k", 50, 0) if stated.states("top_k") else 50
    top_p = stated.real("top_p", 1.0) if stated.states("top_p") else 1.0
    if top_p > 1:
        stated.refuse("top_p", f"{top_p}, more than 1")
    stated.free("do_sample", "top_k", "top_p", "repetition_penalty")
    stated.end()
    if not drawn or temperature < GREEDY:
        return Generation(tuple(ends), penalty)
    return Generation(tuple(ends), penalty, float(temperature), top_k, top_p)
