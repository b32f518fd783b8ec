"""Lists of videos: what they may say, and what they name when it is wrong."""

import json

import pytest

from msjoe_jax.data.manifest import Entry, load_entries
from msjoe_jax.errors import UserError


def test_entries_have_their_paths_beside_the_list(tmp_path):
    rows = []
    for v in range(3):
        (tmp_path / f"{v}.mp4").write_bytes(b"0")
        rows.append({"id": f"../vidéo {v}", "video": f"{v}.mp4", "extra": {"v": v}})
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(row) + "\n\n" for row in rows))
    entries = load_entries(tmp_path / "list.jsonl")
    assert [entry.extra for entry in entries] == [{"v": 0}, {"v": 1}, {"v": 2}]
    assert all(entry.path.is_file() and entry.size > 0 for entry in entries)
    assert len({entry.part for entry in entries}) == 3
    assert all("/" not in entry.part for entry in entries)
    absent = entries[0].path.parent / "none.mp4"
    for path in (absent, absent.parent, absent / "\0"):
        assert Entry("a", "none.mp4", path, {}).size == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no videos"),
        ("\n \n", "no videos"),
        ("{", ":1: not JSON"),
        ("[]", ":1: not a JSON object"),
        ('{"id": "a"}', ":1: field 'video' must be"),
        ('{"id": " ", "video": "a"}', ":1: field 'id' must be"),
        ('{"id": "a", "video": 3}', ":1: field 'video' must be"),
        ('{"id": "a", "video": "a", "extra": []}', ":1: field 'extra' must be an object"),
        ('{"id": "a", "video": "a", "path": 1}', ":1: unknown field 'path'"),
        ('{"id": "\\ud83d", "video": "a"}', ":1: field 'id' holds half"),
        ('{"id": "a", "video": "a"}\n\n{"id": "a", "video": "b"}', ":3: field 'id' repeats 'a'"),
    ],
)
def test_a_bad_list_names_line_and_field(tmp_path, text, message):
    (tmp_path / "list.jsonl").write_text(text)
    with pytest.raises(UserError, match=f"list.jsonl.*{message}"):
        load_entries(tmp_path / "list.jsonl")
