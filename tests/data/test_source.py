"""What a record says of its video's source."""

from etils import epath

from msjoe_jax.data.manifest import Entry
from msjoe_jax.data.source import SOUND, source_of
from msjoe_jax.data.video import decode
from tests.support.tiny import tiny_video


def test_a_source_is_named_with_its_rate_and_warnings(tmp_path):
    tiny_video(tmp_path / "a.mp4", 10)
    decoding = decode(tmp_path / "a.mp4")
    assert len(list(decoding)) == 2
    entry = Entry("id", "../a.mp4", epath.Path(tmp_path / "a.mp4"), {})
    source = source_of(entry, decoding)
    assert (source.video, source.rate, source.warnings) == ("../a.mp4", 5.0, {})
    assert source_of(entry, decoding, 3).warnings == {SOUND: 3}
