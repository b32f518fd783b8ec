"""Settings beside a tokenizer.json: whatever would change its ids has to stand in that file too."""

from typing import Any

from msjoe_jax.errors import UserError
from msjoe_jax.stated import Stated, names, shown
from msjoe_jax.text.tokenizer import Tokenizer
from msjoe_jax.weights.settings_files import SettingsFiles

CONFIG, ADDED, NAMED = "tokenizer_config.json", "added_tokens.json", "special_tokens_map.json"
# Lengths, sides and fillings that a caller states, names of things, and the chat template.
_WITHOUT_EFFECT = names(
    "model_max_length max_length stride padding_side truncation_side truncation_strategy padding "
    "pad_to_multiple_of pad_token_type_id model_input_names tokenizer_class "
    "name_or_path special_tokens_map_file tokenizer_file use_fast legacy backend is_local "
    "local_files_only tokenizer_object chat_template errors return_token_type_ids"
)
_TOKENS = names(
    "bos_token eos_token pad_token unk_token sep_token cls_token mask_token "
    "image_token video_token vision_bos_token vision_eos_token"
)
_MORE = names("additional_special_tokens extra_special_tokens")


def check_tokenizer_settings(
    files: SettingsFiles, tokenizer: Tokenizer, adds_tokens: bool, processor: str = ""
) -> None:
    """Checks that a tokenizer.json alone gives the ids that the whole folder stands for.

    Args:
      files: of the folder.
      tokenizer: of its tokenizer.json.
      adds_tokens: whether it puts tokens around a text, which the caller then puts there.
      processor: the class of the model's processor; empty: any.

    Raises:
      UserError: it does not.
    """
    own = tokenizer.added_tokens()

    def check_added(content: dict[str, Any] | None) -> None:
        """Checks {token: id}."""
        stated = Stated(content or {})
        for token in stated.content:
            if tokenizer.find(token) is None:
                stated.refuse(token, f"{shown(stated.content[token])}, and not in {tokenizer.file}")
            else:
                stated.only(token, tokenizer.find(token))
            stated.free(token)
        stated.end()

    def check_named(content: dict[str, Any] | None) -> None:
        """Checks special_tokens_map.json."""
        stated = Stated(content or {})
        _check_special(stated, tokenizer)
        stated.end()

    def check_config(content: dict[str, Any] | None) -> None:
        stated = Stated(content or {})
        _check_special(stated, tokenizer)
        if processor:
            stated.only("processor_class", processor, None)
        stated.free("processor_class", *_WITHOUT_EFFECT)
        stated.only("add_prefix_space", False, None)
        stated.only("add_bos_token", False, None)
        stated.only("add_eos_token", False, None)
        stated.only("split_special_tokens", False, None)
        if adds_tokens:  # CLIP's; its texts are never decoded
            stated.free("clean_up_tokenization_spaces")
            stated.only("do_lower_case", True, None)
        else:
            stated.only("clean_up_tokenization_spaces", False, None)
        added = stated.part("added_tokens_decoder")
        for number in added.content:
            if not number.isdecimal() or int(number) not in own:
                added.refuse(number, f"a token that is not added in {tokenizer.file}")
                added.free(number)
                continue
            token = added.part(number)
            for name, value in own[int(number)].items():
                token.only(name, value)
        stated.end()

    files.parsed(ADDED, check_added)
    files.parsed(NAMED, check_named)
    files.parsed(CONFIG, check_config)
    if not adds_tokens and tokenizer.around:
        raise UserError(
            f"{tokenizer.file}: post_processor puts tokens around a text; that is not computed here"
        )


def _check_special(stated: Stated, tokenizer: Tokenizer) -> None:
    """Takes the special tokens of a file, which has to find in a text what the tokenizer finds.

    transformers adds those that the tokenizer.json does not add: the text is split there.
    """
    added = {token["content"] for token in tokenizer.added_tokens().values()}
    for name in (*_TOKENS, *_MORE):
        value = stated.take(name, None)
        several = name in _MORE and not isinstance(value, str)
        tokens = [value] if not several else value.values() if isinstance(value, dict) else value
        for token in tokens or ():
            text = token.get("content") if isinstance(token, dict) else token
            if text is not None and not isinstance(text, str):
                stated.refuse(name, f"{shown(value)}, no token")
            elif text and text not in added:
                reason = f"{shown(value)}, and {text!r} is not among the added_tokens of"
                stated.refuse(name, f"{reason} {tokenizer.file}")
