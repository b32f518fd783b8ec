"""Settings files: read once, passed over where that is asked for, and where transformers looks."""

import json

import pytest

from msjoe_jax.errors import UserError
from msjoe_jax.stated import Stated
from msjoe_jax.weights.settings_files import IMAGE_PROCESSOR, PROCESSOR, SettingsFiles


def number(content):
    if content is None:
        return None
    stated = Stated(content)
    value = stated.whole("n")
    stated.part("p").free("q")
    stated.end()
    return value


def write(folder, name, content):
    (folder / name).write_text(json.dumps(content))


def test_a_file_is_parsed_or_absent(tmp_path):
    write(tmp_path, "a.json", {"n": 3})
    files = SettingsFiles(tmp_path)
    assert files.parsed("a.json", number) == 3 and files.parsed("b.json", number) is None
    assert files.content("b.json") is None and files.changed == {}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"n": 0}, r"a\.json: n is 0"),
        ({}, r"a\.json: the field 'n' is missing"),
        ({"n": 1, "x": 2}, r"a\.json: x is 2, a field .*; --ignore_extra passes over such fields"),
        ([], r"a\.json: not a JSON object"),
    ],
)
def test_what_is_wrong_is_one_line_with_its_file(tmp_path, content, words):
    write(tmp_path, "a.json", content)
    with pytest.raises(UserError, match=words) as error:
        SettingsFiles(tmp_path).parsed("a.json", number)
    assert "\n" not in str(error.value)


def test_fields_that_are_passed_over_are_said_and_left_out(tmp_path, capsys):
    write(tmp_path, "a.json", {"n": 3, "x": 2, "p": {"q": 1, "r": 4}})
    files = SettingsFiles(tmp_path, ignore_extra=True)
    assert files.parsed("a.json", number) == 3
    said = capsys.readouterr().err
    assert "a.json: passed over: " in said and "x is 2" in said and "p.r is 4" in said
    assert files.changed == {"a.json": {"n": 3, "p": {"q": 1}}}
    write(tmp_path, "b.json", {"n": 0, "x": 2})
    with pytest.raises(UserError, match="n is 0"):  # what is known is never passed over
        files.parsed("b.json", number)


def test_one_file_for_all_processors_counts_first(tmp_path, capsys):
    write(tmp_path, IMAGE_PROCESSOR[1], {"n": 1})
    assert SettingsFiles(tmp_path).processor(*IMAGE_PROCESSOR, number) == 1
    write(tmp_path, PROCESSOR, {"processor_class": "X"})  # of version 4
    assert SettingsFiles(tmp_path).processor(*IMAGE_PROCESSOR, number) == 1
    write(tmp_path, PROCESSOR, {"image_processor": {"n": 2, "x": 0}, "y": 1})
    files = SettingsFiles(tmp_path, ignore_extra=True)
    assert files.processor(*IMAGE_PROCESSOR, number) == 2
    assert files.changed == {PROCESSOR: {"image_processor": {"n": 2}, "y": 1}}
    assert SettingsFiles(tmp_path / "none").processor(*IMAGE_PROCESSOR, number) is None
