"""Subtitles of every form and encoding; every cue of a file is kept or counted."""

import dataclasses
import json
import math
import os

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msjoe_jax.data.questions import Question, Subtitle
from msjoe_jax.data.record import VideoInfo
from msjoe_jax.data.subtitles import decoded, of_video, read_subtitles, shown_at
from msjoe_jax.errors import UserError

SRT = """1
00:00:01,000 --> 00:00:02,500
<i>Hello</i> {\\an8}there,
<font color="red">you &amp; me</font>

2
00:00:02.5 --> 00:00:03.000 X1:3 X2:5
42

00:00:04,000 --> 00:00:05,000
no number
before

after a blank line

7
lost its times

8
00:00:xx,000 --> 00:00:07,000
bad

9
00:00:07,000 --> 00:00:06,000
backwards

10
00:00:08,000 --> 00:00:09,000
<b></b>
11
100:00:00,250 --> 100:00:01,000
a < b and c > d
"""


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(folder, content, name="f.srt", **how):
    return read_subtitles(write(folder, name, content), **how)


def spans(track):
    return [(line.start, line.end, line.text) for line in track.subtitles]


def counted(track):
    left_out = len(track.broken) + track.empty + track.outside + track.merged
    return track.cues == len(track.subtitles) + left_out


def test_srt_with_all_its_defects(tmp_path):
    track = read(tmp_path, SRT)
    assert spans(track) == [
        (1, 2.5, "Hello there, you & me"),
        (2.5, 3, "42"),
        (4, 5, "no number before after a blank line"),
        (360000.25, 360001, "a < b and c > d"),
    ]
    assert [why.removeprefix(f"{tmp_path}/") for why in track.broken] == [
        "f.srt:16: no times",
        "f.srt:20: times '00:00:xx,000 --> 00:00:07,000' cannot be read",
        "f.srt:24: ends before it starts (00:00:07,000 --> 00:00:06,000)",
    ]
    assert (track.cues, track.empty, track.outside, track.merged) == (8, 1, 0, 0)
    assert counted(track) and track.encoding == "utf-8"


def test_vtt(tmp_path):
    text = """WEBVTT - a title
Kind: captions

STYLE
::cue { color: red }

NOTE
00:00 is no cue

intro
00:01.000 --> 00:02.000 position:10% align:start
<v Roger>Hi <c.big>all</c><00:00:01.500> of you

01:00:00.000 --> 01:00:01.000
- one
- two
not --> a time
"""
    track = read(tmp_path, text, "f.vtt")
    assert spans(track) == [
        (1, 2, "Hi all of you"), (3600, 3601, "- one - two not --> a time"),
    ]  # fmt: skip
    assert track.cues == 2 and counted(track)


def test_captions_that_roll_say_each_line_once(tmp_path):
    text = """WEBVTT

00:00:01.000 --> 00:00:03.000
so this is

00:00:03.000 --> 00:00:03.010
so this is

00:00:03.010 --> 00:00:05.000
so this is
a video

00:00:05.000 --> 00:00:05.010
a video

00:00:09.000 --> 00:00:10.000
a video
"""
    track = read(tmp_path, text, "f.vtt")
    assert spans(track) == [(1, 3.01, "so this is"), (3.01, 5.01, "a video"), (9, 10, "a video")]
    assert track.merged == 2 and counted(track)


@pytest.mark.parametrize(
    ("encoding", "said"),
    [("utf-8", "utf-8"), ("utf-8-sig", "utf-8"), ("utf-16", "utf-16"), ("utf-32", "utf-32"),
     ("utf-16-le", "utf-16"), ("utf-16-be", "utf-16"), ("cp1252", "windows-1252")],
)  # fmt: skip
def test_encodings(tmp_path, encoding, said):
    text = "1\r\n00:00:01,000 --> 00:00:02,000\r\nétude – “naïve”\r\n"
    track = read(tmp_path, text.encode(encoding))
    assert spans(track) == [(1, 2, "étude – “naïve”")] and track.encoding == said
    assert decoded(b"a\x81b") == ("a\x81b", "latin-1")


def test_longvideobenchs_two_forms_on_the_clock_of_the_clip(tmp_path):
    """As its loader reads them: times of the whole video, of which the clip is a part."""
    lines = [
        {"start": "00:00:58.000", "end": "00:00:59.500", "line": "before the clip"},
        {"start": "00:00:59.500", "end": "00:01:02.000", "line": "half"},
        {"start": "00:01:05.250", "end": "00:01:06.000", "line": "inside"},
        {"start": "00:02:00.000", "end": "00:02:01.000", "line": "after the clip"},
    ]
    how = {"start": 60, "duration": 30.0}
    track = read(tmp_path, json.dumps(lines), "86CxyhFV9MI_en.json", **how)
    assert spans(track) == [(0, 2, "half"), (5.25, 6, "inside")]
    assert track.outside == 2 and counted(track)
    others = [
        {"timestamp": [61.0, 62.5], "text": "one"},
        {"timestamp": [63, None], "text": "to the next"},
        {"timestamp": [70.5, None], "text": "to the end"},
    ]
    track = read(tmp_path, json.dumps(others), "f.json", **how)
    assert spans(track) == [(1, 2.5, "one"), (3, 10.5, "to the next"), (10.5, 30, "to the end")]
    assert read(tmp_path, json.dumps(others), "f.json").subtitles[-1].end == 72.5


def test_words_are_joined_to_lines(tmp_path):
    """Video-MME-v2's words; a pause or the end of a sentence begins a line, as in its script."""
    words = [("Hi", 0.0, 0.2), ("all.", 0.25, 0.6), ("Now", 0.8, 1.0), ("look", 1.05, 1.2),
             ("here", 1.9, 2.1)]  # fmt: skip
    rows = [{"text": text, "start_time": a, "end_time": b} for text, a, b in words]
    track = read(tmp_path, "".join(json.dumps(row) + "\n" for row in rows), "001.jsonl")
    assert spans(track) == [(0, 0.6, "Hi all."), (0.8, 1.2, "Now look"), (1.9, 2.1, "here")]
    assert track.cues == 5 and track.merged == 2 and counted(track)
    endless = [{"text": "x", "start_time": i / 4, "end_time": i / 4 + 0.2} for i in range(200)]
    track = read(tmp_path, json.dumps(endless), "f.json")
    assert all(line.end - line.start <= 8.5 for line in track.subtitles) and counted(track)


def test_a_broken_cue_of_json_is_named(tmp_path):
    rows = [{"timestamp": [0, 1], "text": "good"}, {"timestamp": [0], "text": "x"}, 3,
            {"start": 2, "end": 1, "text": "x"}, {"start": "a", "end": 1, "text": "x"},
            {"start": 2, "end": 3, "text": "half \ud83d"},
            {"start": math.nan, "end": 3, "text": "x"}, {"start": 1, "end": 2}]  # fmt: skip
    track = read(tmp_path, json.dumps(rows), "f.json")
    assert spans(track) == [(0, 1, "good")] and counted(track)
    assert [line.rpartition(": cue ")[2] for line in track.broken] == [
        "2: times None to None cannot be read", "3: not a JSON object",
        "4: ends before it starts (2 to 1)", "5: times 'a' to 1 cannot be read", "6: no text",
        "7: times nan to 3 cannot be read", "8: no text",
    ]  # fmt: skip


@pytest.mark.parametrize("content", [b"", b"\x00", b"hello\n", b"[]", b"{}", b"WEBVTT\n", b"[1"])
def test_a_file_without_subtitles(tmp_path, content):
    path = write(tmp_path, "f.srt", content)
    with pytest.raises(UserError, match=r"f\.srt: holds no subtitles"):
        read_subtitles(path)
    with pytest.raises(UserError, match="cannot be read"):
        read_subtitles(tmp_path / "none.srt")


def test_a_pipe_is_refused_and_not_read_for_ever(tmp_path):
    os.mkfifo(tmp_path / "f.srt")
    with pytest.raises(UserError, match=r"f\.srt: no regular file"):
        read_subtitles(tmp_path / "f.srt")


def test_what_is_shown_at_times():
    lines = [Subtitle(0, 1, "a"), Subtitle(0.5, 2, "b"), Subtitle(5, 6, "a"), Subtitle(9, 9, "c")]
    assert shown_at(lines, [0.0, 6.4]) == ("a", "b")
    assert shown_at(lines, [9.5]) == ("c",) and shown_at(lines, [9.6]) == ()


TEXT = st.text(st.characters(codec="ascii", categories=["L"]), min_size=1, max_size=9)
CUES = st.lists(st.tuples(st.integers(0, 400_000_000), st.integers(1, 9_000), TEXT), min_size=1,
                max_size=6, unique_by=lambda cue: cue[0])  # fmt: skip


def clock(ms, mark):
    return f"{ms // 3_600_000:02}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02}{mark}{ms % 1000:03}"


@settings(deadline=None, max_examples=40)
@given(CUES, st.booleans())
def test_times_and_texts_are_those_that_ffmpeg_reads(tmp_path_factory, cues, vtt):
    """Through FFmpeg's own reader of the same file."""
    mark, name = (".", "f.vtt") if vtt else (",", "f.srt")
    cues = [(a, d, f"{text}{i}") for i, (a, d, text) in enumerate(sorted(cues))]
    blocks = [
        ("" if vtt else f"{i}\n") + f"{clock(a, mark)} --> {clock(a + d, mark)}\n{text}\n"
        for i, (a, d, text) in enumerate(cues, 1)
    ]
    head = "WEBVTT\n\n" if vtt else ""
    path = write(tmp_path_factory.mktemp("s"), name, head + "\n".join(blocks))
    with av.open(str(path)) as container:
        (stream,) = container.streams
        base = stream.time_base
        want = [
            (float(p.pts * base), float((p.pts + p.duration) * base), bytes(p).decode().strip())
            for p in container.demux(stream)
            if p.pts is not None
        ]
    track = read_subtitles(path)
    for got, expected in zip(spans(track), want, strict=True):
        assert got[:2] == pytest.approx(expected[:2], abs=1e-6) and got[2] == expected[2]


PIECES = st.sampled_from(
    ["\n", "\n\n", "1\n", "00:00:01,000 --> 00:00:02,000\n", "00:00:03.5-->00:00:02,000\n",
     "text\n", "-->", "00:61:00,000 --> 00:62:00,000\n", "WEBVTT\n", "NOTE x\n", "{\\an8}", "<i>",
     "&nbsp;\n", '{"start": 1, "end": 2, "line": "x"}\n', "[", "\ufeff", "\x00", "\r",
     '{"timestamp": [1, null], "text": "y"}', "9999999999999:00:00,000 --> 9:00\n"]
)  # fmt: skip


@settings(deadline=None, max_examples=150)
@given(st.lists(PIECES | st.text(max_size=4), max_size=14), st.floats(0, 9), st.floats(0, 9))
def test_any_file_is_counted_and_its_lines_lie_in_the_video(
    tmp_path_factory, pieces, start, length
):
    path = write(tmp_path_factory.mktemp("s"), "f.srt", "".join(pieces).encode("utf-8", "replace"))
    try:
        track = read_subtitles(path, start, length)
    except UserError:
        return
    assert counted(track)
    starts = [line.start for line in track.subtitles]
    assert starts == sorted(starts) and all(0 <= x <= length for x in starts)
    assert all(line.end >= line.start and line.text for line in track.subtitles)


def test_a_question_s_own_come_before_the_record_s_and_these_before_the_user_s():
    own, recorded, user = (Subtitle(0.0, 1.0, text) for text in ("own", "recorded", "user"))
    question = Question("q", "v", "what?", ("a", "b"), 0, subtitles=(own,))
    rows = {"subtitles": [[0.0, 1.0, "user"]]}
    info = VideoInfo("v", 1.0, 1.0, np.zeros(1), 8, 8, 0, 0, rows, subtitles=(recorded,))
    assert of_video(question, info) == (own,)
    question = dataclasses.replace(question, subtitles=())
    assert of_video(question, info) == (recorded,)
    assert of_video(question, dataclasses.replace(info, subtitles=())) == (user,)
    unlike = dataclasses.replace(info, subtitles=(), extra={"subtitles": "none"})
    assert of_video(question, unlike) == ()
