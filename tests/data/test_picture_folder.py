"""A folder of pictures is a video: order, rate, sizes, and pictures of every kind."""

import numpy as np
import pytest
from PIL import Image

from msjoe_jax.data.picture_folder import PictureFolder, list_pictures, natural_key
from msjoe_jax.data.video import VideoError


def grey(path, level, size=(8, 6)):
    Image.new("RGB", size, (level,) * 3).save(path)


def levels(folder, **options):
    return [(t, int(image[0, 0, 0])) for t, image in PictureFolder(str(folder), **options)]


def test_natural_order():
    names = ["f10.png", "f9.png", "f09.png", "f.png", "F1.png", "f1b2.png", "f1b10.png", "2.png"]
    in_order = ["2.png", "F1.png", "f.png", "f1b2.png", "f1b10.png", "f09.png", "f9.png", "f10.png"]
    assert sorted(names, key=natural_key) == in_order
    assert sorted(["²1", "1", "é", "0"], key=natural_key) == ["0", "1", "²1", "é"]


def test_pictures_are_shown_at_their_rate(tmp_path):
    for k in range(12):
        grey(tmp_path / f"{k}.png", 10 * k)
    # Second t shows the last picture that begins at or before it: number floor(t · rate).
    assert levels(tmp_path, rate=5.0) == [(0.0, 0), (1.0, 50), (2.0, 100)]
    assert levels(tmp_path, rate=5.0, fps=2.0) == [
        (0.0, 0), (0.5, 20), (1.0, 50), (1.5, 70), (2.0, 100)
    ]  # fmt: skip
    assert levels(tmp_path, rate=0.5)[:3] == [(0.0, 0), (1.0, 0), (2.0, 10)]
    assert levels(tmp_path, rate=5.0, start=0.3, end=2.0) == [(0.0, 10), (1.0, 60)]
    assert levels(tmp_path, rate=5.0, max_frames=1) == [(0.0, 0)]
    # 0.3 s at ten a second is picture 3, though the float 0.3 is less than 3/10.
    assert levels(tmp_path, rate=10.0, start=0.3) == [(0.0, 30)]
    folder = PictureFolder(str(tmp_path), 5.0, start=1.0, end=9.0)
    assert (folder.duration, folder.rate) == (1.4, 5.0)
    with pytest.raises(VideoError, match=r"lasts 2\.4 s, and 'start' is 3"):
        PictureFolder(str(tmp_path), 5.0, start=3.0)


def test_other_files_are_listed(tmp_path):
    grey(tmp_path / "b.PNG", 0)
    grey(tmp_path / "a.jpg", 0)
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "c.png").mkdir()
    (tmp_path / "d.png").symlink_to("gone")
    assert list_pictures(str(tmp_path)) == (["a.jpg", "b.PNG"], ["c.png", "d.png", "notes.txt"])


def saved(tmp_path, image, name="a.png", **options):
    image.save(tmp_path / name, **options)
    ((_, shown),) = PictureFolder(str(tmp_path), 1.0)
    return shown


def test_what_is_transparent_is_black(tmp_path):
    image = Image.new("RGBA", (2, 1), (200, 100, 0, 255))
    image.putpixel((1, 0), (200, 100, 0, 0))
    assert saved(tmp_path, image).tolist() == [[[200, 100, 0], [0, 0, 0]]]
    image.putpixel((1, 0), (250, 0, 50, 51))  # a fifth
    assert saved(tmp_path, image).tolist() == [[[200, 100, 0], [50, 0, 10]]]
    assert saved(tmp_path, Image.new("LA", (1, 1), (9, 0))).tolist() == [[[0, 0, 0]]]


def test_palettes_and_grey_of_any_depth(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    assert saved(tmp_path, image).tolist() == [[[10, 20, 30], [40, 50, 60]]]
    assert saved(tmp_path, image, transparency=1).tolist() == [[[10, 20, 30], [0, 0, 0]]]
    assert saved(tmp_path, Image.new("1", (1, 1), 1)).tolist() == [[[255] * 3]]
    assert saved(tmp_path, Image.new("L", (1, 1), 77)).tolist() == [[[77] * 3]]
    deep = np.array([[0, 257 * 100, 65535, 128, 129]], np.uint16)
    want = np.rint(deep / 257)[..., None].repeat(3, -1)
    np.testing.assert_array_equal(saved(tmp_path, Image.fromarray(deep)), want)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    image = Image.fromarray(np.arange(18, dtype=np.uint8).reshape(2, 3, 3) * 14)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.asarray(image)
    # EXIF 2.32, tag 274: which side of the scene row 0 and column 0 of the stored picture are.
    upright = {
        1: stored, 2: stored[:, ::-1], 3: stored[::-1, ::-1], 4: stored[::-1],
        5: stored.swapaxes(0, 1), 6: np.rot90(stored, -1), 7: np.rot90(stored, 2).swapaxes(0, 1),
        8: np.rot90(stored),
    }[orientation]  # fmt: skip
    np.testing.assert_array_equal(saved(tmp_path, image, exif=exif), upright)


def test_all_get_the_first_ones_size(tmp_path):
    grey(tmp_path / "0.png", 200, (40, 20))
    grey(tmp_path / "1.png", 100, (80, 40))  # the same shape, larger
    grey(tmp_path / "2.png", 100, (20, 20))  # square: bars left and right
    folder = PictureFolder(str(tmp_path), 1.0)
    images = [image for _, image in folder]
    assert {image.shape for image in images} == {(20, 40, 3)} and folder.counts == {"resized": 1}
    assert (images[1] == 100).all()
    assert (images[2][:, 10:30] == 100).all()
    assert not images[2][:, :10].any() and not images[2][:, 30:].any()
    folder = PictureFolder(str(tmp_path), 1.0, max_side=20)
    assert {image.shape for _, image in folder} == {(10, 20, 3)}
    assert {i.shape for _, i in PictureFolder(str(tmp_path), 1.0, max_side=400)} == {(20, 40, 3)}


def test_a_picture_that_cannot_be_read_is_counted(tmp_path):
    (tmp_path / "0.png").write_bytes(b"no picture")
    for k in (1, 2, 4):
        grey(tmp_path / f"{k}.png", 10 * k)
    (tmp_path / "3.png").write_bytes((tmp_path / "2.png").read_bytes()[:40])
    folder = PictureFolder(str(tmp_path), 1.0)
    got = [(t, int(image[0, 0, 0])) for t, image in folder]
    assert got == [(1.0, 10), (2.0, 20), (3.0, 20), (4.0, 40)] and folder.warnings == 2
    assert folder.numbers == [1, 2, 2, 4]
    for k in (1, 2, 4):
        (tmp_path / f"{k}.png").write_bytes(b"")
    with pytest.raises(VideoError, match="none of its pictures can be read"):
        list(PictureFolder(str(tmp_path), 1.0))
