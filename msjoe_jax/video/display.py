"""From a decoded frame to the picture that a player shows: size, turn, colours, on black."""

import math
from fractions import Fraction

import numpy as np
from av.sidedata.sidedata import Type
from av.video.frame import VideoFrame
from av.video.reformatter import ColorPrimaries, ColorTrc, VideoReformatter
from jaxtyping import Float, UInt8

from msjoe_jax.video.findings import Findings

HDR = (ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67)
WHITE = 203.0  # cd/m² of white in HDR pictures (ITU-R BT.2408), which becomes the SDR white
KNEE = 0.75  # of the SDR white, above which brighter light is compressed
GAMMA = 2.4  # of SDR displays (ITU-R BT.1886)
# Linear light of BT.2020 primaries as BT.709's (ITU-R BT.2087).
TO_709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]],
    np.float32,
)
# The eight ways to lay a picture on a grid: the display matrix's a, b, c, d.
LAYS = [(1, 0, 0, 1), (-1, 0, 0, 1), (1, 0, 0, -1), (-1, 0, 0, -1)]
LAYS += [(0, 1, 1, 0), (0, 1, -1, 0), (0, -1, 1, 0), (0, -1, -1, 0)]
Layout = tuple[tuple[int, int], tuple[int, int], bool]
NEAR = math.cos(math.radians(1))


class Display:
    """Makes pictures, all of the first one's size.

    Args:
      aspect: width of a pixel over its height.
      max_side: the longer side in pixels, at most; None keeps the video's size.
      findings: what is met is counted here.
    """

    def __init__(self, aspect: Fraction, max_side: int | None, findings: Findings) -> None:
        self._aspect, self._max_side, self._findings = aspect, max_side, findings
        self._size: tuple[int, int] | None = None
        self._stored: tuple[int, int] | None = None
        self._scaler = VideoReformatter()
        self._layout: Layout | None = None

    def picture(self, frame: VideoFrame) -> UInt8[np.ndarray, "H W 3"]:
        """The frame as it is shown."""
        if frame.interlaced_frame:
            self._findings.add("interlaced")
        stored = frame.width, frame.height
        if self._size is None or self._stored is None:  # some streams change theirs
            self._stored, self._size = stored, self._size_of(frame)
        width, height = self._size
        if stored != self._stored:
            self._findings.add("resized")
            scale = min(width / frame.width, height / frame.height)
            # The pixels' shape is the stream's: what fills the first frame's shape fills it still.
            if frame.width * self._stored[1] != frame.height * self._stored[0]:
                width = min(width, max(1, round(frame.width * scale)))
                height = min(height, max(1, round(frame.height * scale)))
        picture = self._lay(self._colours(frame, width, height))
        if (width, height) != self._size:
            picture = self._centred(picture)
        return np.ascontiguousarray(picture)

    def _size_of(self, frame: VideoFrame) -> tuple[int, int]:
        """Width and height before turning, of square pixels, the longer at most max_side."""
        aspect, width, height = self._aspect, Fraction(frame.width), Fraction(frame.height)
        if aspect > 1:  # never enlarge: the side whose pixels are short shrinks
            height /= aspect
        elif aspect > 0:
            width *= aspect
        longest = max(width, height)
        scale = min(Fraction(1), Fraction(self._max_side or longest) / longest)
        return max(1, round(width * scale)), max(1, round(height * scale))

    def _scaled(self, frame: VideoFrame, width: int, height: int, kind: str) -> np.ndarray:
        scaled = self._scaler.reformat(frame, width, height, kind, interpolation="AREA", threads=1)
        if self._layout is None:
            # Of the copy: PyAV's side data and its frame hold each other, and a decoder whose
            # buffers come back when the garbage is collected is not repeatable on damaged files.
            self._layout = lay_of(scaled)
        return scaled.to_ndarray()

    def _colours(self, frame: VideoFrame, width: int, height: int) -> np.ndarray:
        if frame.color_trc in HDR or (
            frame.color_primaries == ColorPrimaries.BT2020 and not frame.format.is_rgb
        ):
            if frame.color_trc in HDR:
                self._findings.note("tone_mapped")
            signal = self._scaled(frame, width, height, "rgb48le").astype(np.float32) / 65535
            return standard(signal, frame.color_trc)
        if frame.format.has_palette or any(part.is_alpha for part in frame.format.components):
            pixels = self._scaled(frame, width, height, "rgba")
            opaque = pixels[..., 3:].astype(np.uint16)
            if opaque.min() == 255:
                return pixels[..., :3]
            self._findings.note("transparent")
            return ((pixels[..., :3] * opaque + 127) // 255).astype(np.uint8)
        return self._scaled(frame, width, height, "rgb24")

    def _lay(self, picture: np.ndarray) -> np.ndarray:
        """Turns and mirrors by the display matrix."""
        assert self._layout is not None
        across, down, is_near = self._layout
        if not is_near:
            self._findings.note("turned")
        if across[0] == 0:
            picture = picture.transpose(1, 0, 2)
        if sum(across) < 0:
            picture = picture[:, ::-1]
        return picture[::-1] if sum(down) < 0 else picture

    def _centred(self, picture: np.ndarray) -> np.ndarray:
        assert self._size is not None and self._layout is not None
        width, height = self._size if self._layout[0][0] else self._size[::-1]
        whole = np.zeros((height, width, 3), np.uint8)
        top, left = (height - picture.shape[0]) // 2, (width - picture.shape[1]) // 2
        whole[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
        return whole


def lay_of(frame: VideoFrame) -> Layout:
    """How the frame's display matrix lays the picture, to the next quarter turn.

    Returns:
      The shares (of the stored x, of the stored y) in the shown x, and those in the shown y, each
      -1, 0 or 1; and whether the matrix says that very thing, but for its scale.
    """
    try:
        data = bytes(frame.side_data[Type.DISPLAYMATRIX])  # type: ignore[typeddict-item]
    except KeyError:
        return (1, 0), (0, 1), True
    a, b, _, c, d = np.frombuffer(data, np.int32)[:5].astype(float)
    length = math.sqrt((a * a + b * b + c * c + d * d) * 2)
    if not length:
        return (1, 0), (0, 1), True

    def likeness(lay: tuple[int, ...]) -> float:
        return float(np.dot(lay, (a, b, c, d))) / length

    lay = max(LAYS, key=likeness)
    return (lay[0], lay[2]), (lay[1], lay[3]), likeness(lay) >= NEAR


def standard(signal: Float[np.ndarray, "H W 3"], transfer: int) -> UInt8[np.ndarray, "H W 3"]:
    """BT.2020 pictures as BT.709 ones; PQ and HLG light (ITU-R BT.2100) is compressed.

    Args:
      signal: R'G'B' of BT.2020 primaries, from 0 to 1.
      transfer: their transfer characteristic (ITU-T H.273).
    """
    if transfer == ColorTrc.SMPTE2084:
        power = np.power(signal, 1 / 78.84375)
        light = np.maximum(power - 0.8359375, 0) / (18.8515625 - 18.6875 * power)
        light = np.power(light, 1 / 0.1593017578125) * (10000 / WHITE)
    elif transfer == ColorTrc.ARIB_STD_B67:
        scene = np.where(
            signal <= 0.5,
            signal**2 / 3,
            (np.exp((signal - 0.55991073) / 0.17883277) + 0.28466892) / 12,
        )
        luminance = scene @ np.array([0.2627, 0.6780, 0.0593], np.float32)
        light = scene * np.power(np.maximum(luminance, 1e-6), 0.2)[..., None] * (1000 / WHITE)
    else:
        light = np.power(signal, GAMMA)
    light = np.maximum(light @ TO_709.T, 0)
    if transfer in HDR:
        peak = light.max(axis=-1, keepdims=True)
        over = np.maximum(peak - KNEE, 0) / (1 - KNEE)
        light *= np.where(
            over > 0, (KNEE + (1 - KNEE) * (1 - np.exp(-over))) / np.maximum(peak, KNEE), 1
        )
    shown = np.power(np.minimum(light, 1), 1 / GAMMA)
    return np.round(shown * 255).astype(np.uint8)
