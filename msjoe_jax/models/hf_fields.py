"""Fields that every Hugging Face config may hold, and what they change: nothing, or refused.

Reference: transformers `configuration_utils.py` (5.23), which drops the settings of generation
from a model's config, and what versions 3 and 4 wrote into it.
"""

import math
from typing import NamedTuple

import numpy as np

from msjoe_jax.stated import Stated, names

# Of the file itself, of its loading, of the form of a module's outputs, and of initial weights.
_WITHOUT_EFFECT = names(
    "_name_or_path name_or_path _commit_hash transformers_version architectures "
    "use_cache return_dict output_attentions output_hidden_states _attn_implementation "
    "attn_implementation _attn_implementation_autoset initializer_range initializer_factor "
    "finetuning_task id2label label2id num_labels problem_type task_specific_params "
    "tokenizer_class prefix torchscript use_bfloat16 tf_legacy_loss gradient_checkpointing "
    "bos_token_id eos_token_id pad_token_id sep_token_id decoder_start_token_id "
    "cross_attention_hidden_size unsloth_version unsloth_fixed keys_to_ignore_at_inference "
    # Of generation: a model's config has no say in them.
    "max_length min_length do_sample early_stopping num_beams temperature top_k top_p typical_p "
    "repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size "
    "bad_words_ids num_return_sequences output_scores return_dict_in_generate forced_bos_token_id "
    "forced_eos_token_id remove_invalid_values exponential_decay_length_penalty suppress_tokens "
    "begin_suppress_tokens epsilon_cutoff eta_cutoff encoder_repetition_penalty num_beam_groups "
    "diversity_penalty num_assistant_tokens num_assistant_tokens_schedule "
    "assistant_confidence_threshold assistant_lookbehind target_lookbehind"
)


def take_common(stated: Stated) -> None:
    """Takes the fields of any config that are not the sizes of a model."""
    stated.free(*_WITHOUT_EFFECT)
    for name in ("dtype", "torch_dtype"):  # which the tensors have themselves
        stated.only(name, "float32", "bfloat16", "float16", "float64", "auto", None)
    stated.only("is_encoder_decoder", False)
    stated.only("is_decoder", False)
    stated.only("add_cross_attention", False)
    stated.only("tie_encoder_decoder", False)
    stated.only("pruned_heads", {}, None)
    stated.only("chunk_size_feed_forward", 0)
    stated.only("attention_dropout", 0, None)  # of training, which has none here
    stated.only("dropout", 0, None)
    if stated.states("quantization_config"):
        stated.take("quantization_config")
        stated.refuse(
            "quantization_config",
            "stated, and quantised weights are not read; convert the model that they were made of",
        )
    stated.free("quantization_config")


class VideoBudget(NamedTuple):
    """How many frames of a video are shown, and at how many pixels.

    Attributes:
      fps: frames of a second.
      frames: least and most of them.
      frame_pixels: least and most of a frame.
      video_pixels: most of all temporal steps together; 0: no such limit.

    Reference: transformers `video_processing_qwen2_vl.py` (5.23), `sample_frames` and `resize`.
    """

    fps: float
    frames: tuple[int, int]
    frame_pixels: tuple[int, int]
    video_pixels: int

    def shown(self, count: int, rate: float, step: int) -> list[int]:
        """Returns the numbers of the frames that are shown, evenly over a video, in whole steps.

        Args:
          count: frames that the video has; fewer than a step are all shown.
          rate: its frames a second.
          step: frames of a temporal step.
        """
        least, most = self.frames[0], min(self.frames[1], count) // step * step
        number = math.floor(min(max(count / rate * self.fps, least), most) / step) * step
        if not number:
            return list(range(count))
        places = np.arange(number) * (count / number)
        return places.astype(np.float32).astype(int).tolist()  # as torch rounds them

    def bounds(self, number: int, step: int) -> tuple[int, int]:
        """Returns least and most pixels of a frame where so many are shown."""
        least, most = self.frame_pixels
        if not self.video_pixels:
            return least, most
        share = step * self.video_pixels // number  # the frames of a step share its pixels
        return least, max(min(most, share), int(1.05 * least))


def take_processor(stated: Stated, *types: str, processor: str) -> None:
    """Takes the fields of any image or video processor that are not its arithmetic.

    Args:
      stated: its settings.
      types: the classes whose arithmetic is computed, without the ends Fast and Pil.
      processor: the class of the whole processor.
    """
    known = [name + end for name in types for end in ("", "Fast", "Pil")]
    for name in ("image_processor_type", "feature_extractor_type", "video_processor_type"):
        stated.only(name, *known)
    stated.only("processor_class", processor)
    stated.only("_processor_class", processor)
    stated.only("do_resize", True)
    stated.only("do_pad", False, None)
    stated.only("pad_size", None)
    stated.only("data_format", "channels_first")
    stated.only("input_data_format", None)
    stated.free(
        *("_valid_processor_keys", "return_tensors"),
        *("device", "disable_grouping", "transformers_version"),
    )
