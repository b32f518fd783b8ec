"""A sentencepiece model read without its library: the library's own reading as the oracle."""

import numpy as np
import pytest

from msjoe_jax.errors import UserError
from msjoe_jax.text.sentencepiece import read_pieces
from tests.support.siglip_oracle import spiece


@pytest.mark.parametrize("rule", ["nmt_nfkc", "identity"])
@pytest.mark.parametrize("collapses", [True, False])
def test_pieces_and_rules_are_the_librarys(tmp_path, rule, collapses):
    import sentencepiece

    model = spiece(normalization_rule_name=rule, remove_extra_whitespaces=collapses)
    (tmp_path / "spiece.model").write_bytes(model)
    library = sentencepiece.SentencePieceProcessor(model_proto=model)
    read = read_pieces(tmp_path / "spiece.model")
    ids = range(library.get_piece_size())
    assert [piece for piece, _ in read.pieces] == [library.id_to_piece(i) for i in ids]
    scores = [library.get_score(i) for i in ids]
    np.testing.assert_array_equal([score for _, score in read.pieces], scores)
    assert (read.unknown, read.collapses) == (library.unk_id(), collapses) == (2, collapses)
    assert bool(read.charsmap) == (rule == "nmt_nfkc")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"model_type": "bpe"}, "model_type=2 is not computed here"),
        ({"model_type": "char"}, "model_type=4"),
        ({"treat_whitespace_as_suffix": True}, "treat_whitespace_as_suffix is not computed"),
        ({"user_defined_symbols": ["dog"]}, "'dog'.* is of type 4"),
        ({"byte_fallback": True, "vocab": 400}, "is of type 6"),
    ],
)
def test_other_kinds_are_refused_by_name(tmp_path, options, said):
    (tmp_path / "spiece.model").write_bytes(spiece(**options))
    with pytest.raises(UserError, match=said) as error:
        read_pieces(tmp_path / "spiece.model")
    assert len(error.value.lines) == 1


def test_a_damaged_file_is_refused(tmp_path):
    file = tmp_path / "spiece.model"
    model = spiece()
    for damaged in (b"", model[: len(model) // 2], b"\xff" * 100, b"<html>"):
        file.write_bytes(damaged)
        with pytest.raises(UserError, match="no readable sentencepiece model"):
            read_pieces(file)
