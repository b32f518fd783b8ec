"""Pixels of the tiny world: settings as textures, objects as shapes, colours as patches.

A frame is 56 x 56, cut into 2 x 2 cells of 28 x 28. A look-alike is its kind's shape drawn as a
one-pixel checkerboard of twice the contrast: averaging 2 x 2 pixels, as a CLIP input of 28 x 28
does, makes it the object itself.
"""

import functools

import numpy as np
from jaxtyping import Float, Int, UInt8

from msjoe_jax.world.spec import KINDS, SETTINGS, Event, LookAlike, Plan, WorldSpec

SIZE = 56
CELL = SIZE // 2
SHAPE = 22  # side of an object: a cell less 3 pixels of margin, of which 2 are jitter
PATCH = 8  # side of the colour patch in an object's middle; survives 4:2:0 JPEG
CONTRAST = 45.0  # of an event of amplitude 1; even doubled at amplitude 1.35, pixels stay < 255
GROUND = 80.0  # mean grey of the settings
JITTER = 2
_COLOUR_RGB = np.array([[230, 40, 40], [40, 200, 60], [50, 80, 240], [235, 220, 50]], np.int16)
_HIDDEN = 128  # grey of a patch whose colour is not shown
_NOISE_POOL = 1 << 20  # samples; each frame takes a random stretch, so no repetition is visible


@functools.cache
def shapes() -> Float[np.ndarray, "15 22 22"]:
    """Returns the outlines of the 15 kinds, 1 inside and 0 outside."""
    axis = (np.arange(SHAPE) + 0.5) / SHAPE * 2 - 1
    y, x = np.meshgrid(axis, axis, indexing="ij")
    radius, ax, ay = np.hypot(x, y), np.abs(x), np.abs(y)
    box = np.maximum(ax, ay)
    masks = [
        radius < 0.85,  # disc
        (radius > 0.6) & (radius < 1.0),  # ring
        box > 0.7,  # frame
        ax < (y + 1) / 2,  # triangle
        ax < (1 - y) / 2,  # triangle upside down
        (ax < 0.3) | (ay < 0.3),  # plus
        (np.abs(x - y) < 0.4) | (np.abs(x + y) < 0.4),  # cross
        (ax + ay < 1.0) & (ax + ay > 0.5),  # hollow diamond
        (ay > 0.45) & (ay < 0.95),  # two bars
        (ax > 0.45) & (ax < 0.95),  # two posts
        (x < -0.45) | (y > 0.45),  # L
        (y < -0.45) | (ax < 0.3),  # T
        (ax > 0.55) | (y > 0.55),  # U
        ax < ay,  # hourglass
        np.floor(2 * (x + 1)) % 2 == np.floor(2 * (y + 1)) % 2,  # chequered
    ]
    assert len(masks) == len(KINDS)
    return np.stack(masks).astype(np.float64)


@functools.cache
def _noise(seed: int, scale: float) -> Int[np.ndarray, "N"]:
    rng = np.random.default_rng([seed, 0x4015E])
    return np.rint(rng.normal(0.0, scale, _NOISE_POOL)).astype(np.int16)


def _setting(setting: int, rng: np.random.Generator) -> Float[np.ndarray, "56 56 3"]:
    """Draws the background: the setting's texture, of random phase and slightly random tint."""
    y, x = np.meshgrid(np.arange(SIZE), np.arange(SIZE), indexing="ij")
    phase = rng.uniform(0, 2 * np.pi, 2)
    if SETTINGS[setting] == "meadow":  # slanting blades
        wave, tint = np.sin((x + y) * 0.55 + phase[0]), (-12, 10, -12)
    elif SETTINGS[setting] == "harbour":  # level ripples
        wave, tint = np.sin(y * 0.7 + phase[0]), (-12, -2, 14)
    else:  # a soft grid
        wave, tint = np.sin(x * 0.6 + phase[0]) * np.sin(y * 0.6 + phase[1]), (12, 2, -10)
    colour = np.array(tint) + rng.normal(0, 3, 3)
    return GROUND + 12 * wave[..., None] + colour


def render(
    spec: WorldSpec, plan: Plan, frames: Int[np.ndarray, "F"] | None = None
) -> UInt8[np.ndarray, "F 56 56 3"]:
    """Draws frames of a video (all of them by default); the same frame always looks the same."""
    rng = np.random.default_rng(plan.appearance_seed)
    ground = np.rint(_setting(plan.setting, rng)).astype(np.int16)
    seconds = np.arange(spec.num_frames)
    period, phase = rng.uniform(60, 120), rng.uniform(0, 2 * np.pi)
    drift = np.rint(spec.drift * np.sin(2 * np.pi * seconds / period + phase)).astype(np.int16)
    pool = _noise(spec.seed, spec.noise)
    stretches = rng.integers(0, _NOISE_POOL - ground.size, spec.num_frames)
    windows = np.lib.stride_tricks.sliding_window_view(pool, ground.size)
    video = windows[stretches].reshape(spec.num_frames, *ground.shape)
    video += ground
    video += drift[:, None, None, None]
    _draw_objects(video, plan, rng)
    if frames is not None:
        video = video[frames]
    return np.clip(video, 0, 255).astype(np.uint8)


def _draw_objects(
    video: Int[np.ndarray, "T 56 56 3"], plan: Plan, rng: np.random.Generator
) -> None:
    checker = 2.0 * (np.add.outer(np.arange(SHAPE), np.arange(SHAPE)) % 2)
    middle = (SHAPE - PATCH) // 2
    items: tuple[Event | LookAlike, ...] = (*plan.events, *plan.look_alikes)
    for item in items:
        texture = shapes()[item.kind] * (1.0 if isinstance(item, Event) else checker)
        stamp = np.rint(CONTRAST * item.amplitude * texture).astype(np.int16)[..., None]
        top, left = divmod(item.cell, 2)
        # One offset for all frames of an object, which would otherwise jump about.
        y, x = (rng.integers(-JITTER, JITTER + 1, 2) + (CELL - SHAPE) // 2).tolist()
        y, x = y + CELL * top, x + CELL * left
        shown = item.frames
        span = slice(shown.start, shown.stop, shown.step)
        video[span, y : y + SHAPE, x : x + SHAPE] += stamp
        # A look-alike has the grey patch of an event that hides its colour.
        inner = (slice(y + middle, y + middle + PATCH), slice(x + middle, x + middle + PATCH))
        video[(span, *inner)] = _HIDDEN
        if isinstance(item, Event):
            video[(item.visible_frames, *inner)] = _COLOUR_RGB[item.colour]
