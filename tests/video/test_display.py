"""What a player shows: the display matrix, colours, alpha, sizes."""

import itertools
from fractions import Fraction

import av
import numpy as np
import pytest
from av.video.reformatter import ColorPrimaries, ColorRange, ColorTrc

from msjoe_jax.data.video import decode
from msjoe_jax.video.display import Display, standard
from msjoe_jax.video.findings import Findings
from tests.support.clips import HEIGHT, WIDTH, make, number, picture

ONE = 1 << 16


def corner(k):
    """32×64, black, white in the top left, half bright in the top right."""
    image = np.zeros((32, 64, 3), np.uint8)
    image[:16, :32], image[:16, 32:] = 255, 128
    return image


def laid(image, a, b, c, d):
    """What ISO 14496-12, 6.2.2 says: the pixel at (x, y) is shown at (ax + cy, bx + dy)."""
    height, width = image.shape[:2]
    places = {}
    for y, x in itertools.product(range(height), range(width)):
        places[a * x + c * y, b * x + d * y] = image[y, x]
    left, top = (min(place[i] for place in places) for i in (0, 1))
    shown = np.zeros((height, width) if b == 0 else (width, height), np.uint8)
    shown = np.zeros((*shown.shape, 3), np.uint8)
    for (x, y), pixel in places.items():
        shown[y - top, x - left] = pixel
    return shown


@pytest.mark.parametrize("signs", list(itertools.product((1, -1), (1, -1))))
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("name", ["a.mp4", "a.mov"])
def test_the_whole_display_matrix_is_applied(tmp_path, signs, turned, name):
    a, d = (0, 0) if turned else signs
    b, c = signs if turned else (0, 0)
    matrix = [a * ONE, b * ONE, 0, c * ONE, d * ONE, 0, 0, 0, 1 << 30]
    path = make(tmp_path / name, [0, 100], matrix=matrix, draw=corner)
    decoding = decode(path)
    ((_, image),) = decoding
    want = laid(corner(0), a, b, c, d)
    assert image.shape == want.shape
    assert np.abs(image.astype(int) - want).mean() < 8
    assert decoding.counts == {}


@pytest.mark.parametrize(("turn", "is_told"), [(90, False), (89, False), (30, True), (-100, True)])
def test_other_angles_are_rounded_and_told(tmp_path, turn, is_told):
    decoding = decode(make(tmp_path / "a.mp4", [0, 100], turn=turn, draw=corner))
    ((_, image),) = decoding
    assert image.shape[:2] == ((64, 32) if abs(turn) > 45 else (32, 64))
    assert decoding.counts == ({"turned": 1} if is_told else {})
    assert decoding.warnings == 0


def shown(frame, **flags):
    findings = Findings()
    display = Display(Fraction(1), None, findings)
    return display.picture(frame), dict(findings.counts)


COLOURS = np.array(
    [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [20, 200, 120], [128, 128, 128],
     [255, 255, 255], [0, 0, 0]], np.uint8,
)  # fmt: skip
BARS = np.kron(COLOURS[None, :, :], np.ones((32, 16, 1), np.uint8))


def weights(space):
    return {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722), "bt2020": (0.2627, 0.0593)}[space]


def coded(rgb, space, is_full, bits=8):
    """Y'CbCr 4:4:4 of R'G'B' by the definition (ITU-R BT.601, BT.709, BT.2020)."""
    kr, kb = weights(space)
    red, green, blue = (rgb[..., i] / 255 for i in range(3))
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    planes = [luma, (blue - luma) / (2 - 2 * kb), (red - luma) / (2 - 2 * kr)]
    one = 1 << bits - 8
    if is_full:
        top = (1 << bits) - 1
        planes = [planes[0] * top, *(p * top + (1 << bits - 1) for p in planes[1:])]
    else:
        planes = [(planes[0] * 219 + 16) * one, *((p * 224 + 128) * one for p in planes[1:])]
    return np.stack([np.clip(np.round(p), 0, (1 << bits) - 1) for p in planes])


@pytest.mark.parametrize("space", ["bt601", "bt709", "bt2020"])
@pytest.mark.parametrize("is_full", [False, True])
@pytest.mark.parametrize("bits", [8, 16])
def test_the_matrix_and_the_range_are_those_of_the_stream(space, is_full, bits):
    name = {8: "yuv444p", 16: "yuv444p16le"}[bits]
    kind = np.uint8 if bits == 8 else np.uint16
    planes = coded(BARS, space, is_full, bits).astype(kind)
    frame = av.VideoFrame(BARS.shape[1], BARS.shape[0], name)
    for plane, values in zip(frame.planes, planes, strict=True):
        rows = np.zeros((values.shape[0], plane.line_size // values.itemsize), kind)
        rows[:, : values.shape[1]] = values
        plane.update(rows.tobytes())
    frame.colorspace = {"bt601": 6, "bt709": 1, "bt2020": 9}[space]
    frame.color_range = ColorRange.JPEG if is_full else ColorRange.MPEG
    image, counts = shown(frame)
    assert np.abs(image.astype(int) - BARS).max() <= 3
    assert counts == {}


def pq(light):
    """ITU-R BT.2100's inverse EOTF; light in cd/m²."""
    power = (light / 10000) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375


TO_2020 = np.array(  # ITU-R BT.2087
    [[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]]
)


@pytest.mark.parametrize("level", [40, 90, 140, 190])
def test_pq_light_below_the_knee_comes_back_as_it_was(level):
    colours = np.array([[level, level, level], [level, 30, 60], [20, level, level]])
    linear = (colours / 255) ** 2.4 @ TO_2020.T
    image = standard(pq(203 * linear)[None].astype(np.float32), ColorTrc.SMPTE2084)
    assert np.abs(image[0].astype(int) - colours).max() <= 2


def test_hlg_and_wide_colours_come_back_as_they_were():
    colours = np.array([[90, 90, 90], [150, 40, 60], [30, 120, 100]])
    linear = (colours / 255) ** 2.4 @ TO_2020.T
    wide = linear ** (1 / 2.4)
    image = standard(wide[None].astype(np.float32), ColorTrc.BT2020_10)
    assert np.abs(image[0].astype(int) - colours).max() <= 1
    light = linear * 203 / 1000  # of a display of 1,000 cd/m²
    luminance = light @ [0.2627, 0.6780, 0.0593]
    scene = light * luminance[:, None] ** (1 / 1.2 - 1)
    logarithm = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
    signal = np.where(scene <= 1 / 12, np.sqrt(3 * scene), logarithm)
    image = standard(signal[None].astype(np.float32), ColorTrc.ARIB_STD_B67)
    assert np.abs(image[0].astype(int) - colours).max() <= 2


def test_brighter_light_is_compressed_in_order_and_never_clipped():
    light = np.geomspace(1, 4000, 60)
    signal = np.repeat(pq(light)[None, :, None], 3, axis=2).astype(np.float32)
    grey = standard(signal, ColorTrc.SMPTE2084)[0, :, 0].astype(int)
    assert (np.diff(grey) >= 0).all() and grey[-1] >= 254
    assert 200 < grey[np.searchsorted(light, 203)] < 250


def test_an_hdr_video_is_mapped_and_told(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=1)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "yuv444p10le"
        context = stream.codec_context
        context.color_trc, context.color_primaries = ColorTrc.SMPTE2084, ColorPrimaries.BT2020
        context.colorspace, context.color_range = 9, ColorRange.MPEG
        frame = av.VideoFrame(16, 16, "yuv444p10le")
        grey = round(64 + 876 * float(pq(203 * 0.5**2.4)))
        for plane, value in zip(frame.planes, (grey, 512, 512), strict=True):
            plane.update(np.full(plane.buffer_size // 2, value, np.uint16).tobytes())
        frame.color_trc, frame.color_primaries = ColorTrc.SMPTE2084, ColorPrimaries.BT2020
        frame.colorspace, frame.color_range, frame.pts = 9, ColorRange.MPEG, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    decoding = decode(path)
    ((_, image),) = decoding
    assert np.abs(image.astype(int) - 128).max() <= 2
    assert decoding.counts == {"tone_mapped": 1} and decoding.warnings == 0


def test_what_is_transparent_is_black():
    pixels = np.zeros((4, 6, 4), np.uint8)
    pixels[..., :3] = 200
    pixels[:, :2, 3], pixels[:, 2:4, 3] = 255, 128
    image, counts = shown(av.VideoFrame.from_ndarray(pixels, format="rgba"))
    assert (image[0, :, 0] == [200, 200, 100, 100, 0, 0]).all()
    assert counts == {"transparent": 1}
    pixels[..., 3] = 255
    image, counts = shown(av.VideoFrame.from_ndarray(pixels, format="rgba"))
    assert (image == 200).all() and counts == {}


@pytest.mark.parametrize("name", ["gray", "gray10le", "gbrp", "nv12", "yuv410p", "bgr48le", "pal8"])
def test_other_pixels_and_odd_sizes(name):
    grey = np.full((33, 47, 3), 128, np.uint8)
    grey[:, :20] = 32
    source = av.VideoFrame.from_ndarray(grey, format="rgb24")
    if name == "pal8":
        palette = np.zeros((256, 4), np.uint8)
        palette[:] = np.arange(256)[:, None]
        palette[:, 0] = 255  # opaque, as ARGB
        frame = av.VideoFrame.from_ndarray((grey[..., 0].copy(), palette), format="pal8")
    else:
        frame = source.reformat(format=name)
    image, counts = shown(frame)
    assert image.shape == (33, 47, 3)
    assert np.abs(image[:, :16].astype(int) - 32).max() <= 6
    assert np.abs(image[:, 24:].astype(int) - 128).max() <= 6
    assert counts == {}


def test_later_frames_of_other_sizes_fit_into_the_first(tmp_path):
    parts = []
    for k, scale in enumerate((1, 2)):
        parts.append(tmp_path / f"{k}.ts")
        make(
            parts[-1], range(20), base=Fraction(1, 10), first=20 * k,
            draw=lambda n, scale=scale: np.kron(picture(n), np.ones((scale, scale, 1), np.uint8)),
        )  # fmt: skip
    path = tmp_path / "joined.ts"
    path.write_bytes(parts[0].read_bytes() + parts[1].read_bytes())
    decoding = decode(path)
    got = list(decoding)
    assert [number(image) for _, image in got] == [0, 10, 20, 30]
    assert {image.shape for _, image in got} == {(HEIGHT, WIDTH, 3)}
    assert decoding.counts == {"discontinuities": 1, "resized": 2}


def test_another_shape_keeps_its_own_on_black():
    findings = Findings()
    display = Display(Fraction(1), None, findings)
    display.picture(av.VideoFrame.from_ndarray(np.full((32, 64, 3), 9, np.uint8), "rgb24"))
    image = display.picture(
        av.VideoFrame.from_ndarray(np.full((32, 32, 3), 200, np.uint8), "rgb24")
    )
    assert image.shape == (32, 64, 3)
    assert (image[:, 16:48] == 200).all() and not image[:, :16].any() and not image[:, 48:].any()


def test_interlaced_frames_are_left_and_told(tmp_path):
    path = make(
        tmp_path / "a.ts", range(3), "mpeg2video", Fraction(1), rate=25, flags="+ildct+ilme"
    )
    decoding = decode(path)
    assert len(list(decoding)) == len(decoding.numbers)
    assert set(decoding.counts) <= {"interlaced"}
