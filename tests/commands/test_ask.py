"""One question about one video, from file to page, on an untrained tiny model."""

import json
import os
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import pytest

from msjoe_jax.commands import ask
from msjoe_jax.data.records import RecordReader
from msjoe_jax.data.sources import VideoSource
from msjoe_jax.errors import UserError
from msjoe_jax.models.clip.preprocess import preprocess_frames
from msjoe_jax.report.answer_page import Report, ReportFrame, Timing, render
from msjoe_jax.rollout.model_folder import load_model_folder
from msjoe_jax.rollout.programs import _embed_frames
from tests.support.tiny import tiny_model_folder, tiny_video

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[2]
MATERIAL = ROOT.parent / "shared" / "material"
# rotated, variable frame rate, AV1, VP9, HEVC, FLV, MPEG-4 in AVI
CODECS = ("exo_rot90_352x288.mp4", "h263_vfr_desks.3gp", "av1_aac.mp4", "bear-vp9.webm")
BROKEN = ("audio_only_opus.mp4", "invalid-bitstream.webm", "header_only_231s.mp4")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return tiny_model_folder(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Compiled programs on disk: each call of `ask` compiles the same ones again otherwise."""
    names = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("cache")),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    before = {name: getattr(jax.config, name) for name in names}
    for name, value in names.items():
        jax.config.update(name, value)
    yield names["jax_compilation_cache_dir"]
    for name, value in before.items():
        jax.config.update(name, value)


def pictures(page, kind="jpeg"):
    return re.findall(rf'src="data:image/{kind};base64,', page)


def command(module, cache, *arguments, cwd=ROOT):
    return subprocess.run(
        [sys.executable, "-m", "msjoe_jax", module, *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=os.environ
        | {"JAX_COMPILATION_CACHE_DIR": cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"},
    )


@pytest.mark.soak
def test_report_of_a_video_longer_than_the_candidates(tmp_path, bundle, cache):
    video = tiny_video(tmp_path / "a b.mp4", frames=100)  # 20 s, 16 candidates
    question = "what colour <script>alert('1')</script> & <|im_end|> ?"
    report = ask.ask(bundle, video, question, ["red", "blue <b>"])
    assert (report.video, report.duration, report.num_frames) == ("a b.mp4", 20.0, 20)
    centres = [int((i + 0.5) * 20 / 16) for i in range(16)]
    assert report.timestamps.tolist() == centres
    assert [f.time for f in report.previews] == [5, 15]
    # The key frames are the four highest logits, best first, and are shown in time order.
    best = np.argsort(-report.logits, kind="stable")[:4]
    assert report.selected.tolist() == best.tolist()
    assert [f.time for f in report.key_frames] == sorted(report.timestamps[best])
    assert report.similarity.shape == (len(report.queries), 16)
    assert (np.abs(report.similarity) <= 1 + 1e-6).all()  # cosines, up to rounding
    assert report.tiny and not report.query_valid and report.stood_in  # untrained
    assert report.queries == ("what colour <script>alert('1')</script> & < |im_end|> ?",)
    page = render(report)
    assert "<script" not in page and "blue <b>" not in page
    assert (
        "what colour &lt;script&gt;alert(&#x27;1&#x27;)&lt;/script&gt; &amp; &lt;|im_end|" in page
    )
    assert len(pictures(page)) == 6 and len(pictures(page, "png")) == 1
    assert "the tiny one" in page
    assert [t.step for t in report.timings][-1] == "answer"
    assert all(t.seconds > 0 for t in report.timings)


@pytest.mark.parametrize("frames", [1, 13])  # one picture; 3 candidates, fewer than K
def test_short_videos(tmp_path, bundle, cache, frames):
    report = ask.ask(bundle, tiny_video(tmp_path / "v.mp4", frames), "what ?", ["red", "blue"])
    count = -(-frames // 5)
    assert len(report.timestamps) == len(report.key_frames) == count
    assert sorted(report.selected.tolist()) == list(range(count))
    assert len(pictures(render(report))) == count + min(count, 2)


@pytest.mark.parametrize("name", CODECS)
def test_real_videos(bundle, cache, name):
    video = MATERIAL / "videos" / name
    if not video.exists():
        pytest.skip("shared material is not there")
    report = ask.ask(bundle, video, "what is the dog ?", ["red", "blue", "green"])
    assert len(report.key_frames) == min(4, report.num_frames) > 0
    if "rot90" in name:  # 352 × 288, turned: the longer side is up
        width, height = map(int, report.key_size.split(" × "))
        assert height >= width


BAD = [
    ({"checkpoint": "none"}, "none: no checkpoint there"),
    ({"checkpoint": ""}, "--checkpoint is missing"),
    ({"video": "none.mp4"}, "none.mp4: cannot be opened (No such file or directory)"),
    ({"video": "gs://bucket/v.mp4"}, "gs://bucket/v.mp4: must be on a disk of this host"),
    ({"video": "pipe"}, "pipe: a named pipe, not a video file"),
    ({"video": "empty.mp4"}, "empty.mp4: an empty file"),
    ({"video": "."}, "a folder of pictures needs 'rate'"),
    ({"video": VideoSource("v.mp4", rate=2.0)}, "'rate' is of a folder of pictures"),
    ({"video": "page.html"}, "cannot be opened"),
    ({"question": " "}, "--question is missing or empty"),
    ({"question": "\udcff"}, "UTF-8"),
    ({"question": "cup " * 96}, "prompt too long"),
    ({"options": ["red"]}, "1 given; 2 to 26"),
    ({"options": ["red"] * 27}, "27 given"),
    ({"options": ["red", ""]}, "an option of --options is empty"),
    ({"subtitles": "page.html"}, "page.html: holds no subtitles"),
    ({"subtitles": "none.srt"}, "none.srt: cannot be read"),
    ({"out": ""}, "--out is missing"),
    ({"out": "."}, "it is a folder"),
    ({"out": "page.html/below/x.html"}, "cannot be written"),
]


@pytest.mark.parametrize(("change", "words"), BAD)
def test_bad_input_is_named(tmp_path, monkeypatch, bundle, cache, change, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "page.html").write_text("before")
    tiny_video(tmp_path / "v.mp4", 3)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty.mp4").touch()
    given = {
        "checkpoint": str(bundle),
        "video": "v.mp4",
        "question": "what ?",
        "options": ["red", "blue"],
        "out": "page.html",
    }
    with pytest.raises(UserError, match=re.escape(words)):
        ask.run(**(given | change))
    left = {p.name for p in tmp_path.iterdir()}
    assert (
        left == {"page.html", "v.mp4", "pipe", "empty.mp4"}
        and (tmp_path / "page.html").read_text() == "before"
    )


@pytest.mark.parametrize("name", BROKEN)
def test_broken_real_videos(tmp_path, bundle, cache, name):
    video = MATERIAL / "broken_videos" / name
    if not video.exists():
        pytest.skip("shared material is not there")
    with pytest.raises(UserError, match=name):
        ask.run(str(bundle), str(video), "what ?", ["red", "blue"], str(tmp_path / "page.html"))
    assert list(tmp_path.iterdir()) == []


def test_command_line(tmp_path, bundle, cache, monkeypatch):
    # A name like a protocol's, in the page and on a terminal that has nothing but ASCII.
    video, out = tiny_video(tmp_path / "http:报.mp4", 12), tmp_path / "new" / "folder" / "页.html"
    flags = [
        f"--checkpoint={bundle}",
        "--question=what colour is the red cup ?",
        f"--video={video.name}",
        "--start=0.6",
        "--end=2",
        f"--out={out}",
    ]
    monkeypatch.setenv("LC_ALL", "C")
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    done = command("ask", cache, *flags, "--options=a, b", "--options=c", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("\\u9875.html\n") and done.stdout.count("\n") == 1
    assert "http:报.mp4" in out.read_text()
    assert "queries cut at CLIP's" in done.stderr
    page = out.read_text()
    assert "<span>a, b</span>" in page
    assert not re.search(r'(src|href)="?(?!data:)[a-z/]', page)  # nothing from elsewhere
    done = command("ask", cache, *flags, "--options=a")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: options: 1 given; 2 to 26 are needed, a flag for each\n"


def test_page_of_model_text(tmp_path):
    """What a model says is shown as it is and does nothing, wherever it stands."""
    evil = '\n"><img src=x onerror=alert(1)>&lt;<|im_end|>'
    frame = ReportFrame(65.0, b"\xff\xd8")
    report = Report(
        video=evil, duration=3661.5, num_frames=3, damaged=1, checkpoint=evil, tiny=False,
        question=evil, options=(evil, "x"), previews=[frame], preview_size="28 × 28",
        query_reply=evil, query_valid=True, queries=(evil, "$x$"), stood_in=False,
        timestamps=np.arange(3.0), logits=np.arange(3.0), similarity=np.zeros((2, 3)),
        selected=np.array([2, 0]), key_size="",
        key_frames=[ReportFrame(0.0, b""), ReportFrame(2.0, b"")],
        answer_reply=evil, answer=1, answer_valid=True, timings=[Timing("all of it", 1.0, 0.5)],
        models=[("mllm", evil, 7)], device=evil, cut_note=evil,
    )  # fmt: skip
    page = render(report)
    assert "<img src=x" not in page and page.count("&lt;img src=x onerror=alert(1)&gt;") == 11
    # A parser drops the first line break after <pre>: the reply's own must be the second.
    assert page.count("<pre>\n\n&quot;") == 2
    assert "the tiny one" not in page and "stands in" not in page
    assert '<li class="chosen"><b>B</b><span>x</span>' in page
    assert "1:01:01.5" in page and ">01:05<" in page and "1 damaged packet left out" in page
    ranks = re.findall(r"<span>(0.*?)</span><span>#(\d)</span>", page)
    assert ranks == [("00:00", "2"), ("00:02", "1")]


@pytest.mark.soak
def test_predecode_embeds_with_the_clip_of_a_checkpoint(tmp_path, bundle, cache):
    tiny_video(tmp_path / "v.mp4", 12)
    (tmp_path / "m.jsonl").write_text(json.dumps({"id": "v", "video": "v.mp4"}))
    flags = [f"--manifest={tmp_path / 'm.jsonl'}", f"--out={tmp_path / 'out'}"]
    done = command("predecode", cache, *flags, "--clip=nowhere")
    assert done.returncode == 2 and done.stderr.startswith("error: nowhere: no checkpoint")
    assert not (tmp_path / "out").exists()  # said before anything is decoded
    done = command("predecode", cache, *flags, f"--clip={bundle}")
    assert done.returncode == 0, done.stderr
    reader = RecordReader(tmp_path / "out")
    model = load_model_folder(bundle, ["clip"])
    system, params = model.system, model.params
    pixels = preprocess_frames(reader.frames("v", [0, 1, 2]), system.clip_pixels)
    expected = np.asarray(_embed_frames(system, params["clip"], pixels))
    # float16 keeps 11 bits: half a unit in the last place is 2⁻¹¹ of the value
    np.testing.assert_allclose(reader.embeddings("v"), expected, rtol=2**-10, atol=1e-4)

    # What lacks them is embedded without the list of videos.
    (embedded,) = (tmp_path / "out").glob("clip-*.arrayrecord")
    before = embedded.read_bytes()
    embedded.unlink()
    done = command("predecode", cache, flags[1], f"--clip={bundle}")
    assert done.returncode == 0 and "1 videos" in done.stdout, done.stderr
    assert embedded.read_bytes() == before
