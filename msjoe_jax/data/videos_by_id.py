"""The videos of a folder by id: files, folders of pictures, and members of archives."""

import contextlib
import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import PurePath

import av
from etils import epath

from msjoe_jax.data.archives import INSIDE
from msjoe_jax.data.files_by_id import FilesById, folded
from msjoe_jax.data.picture_folder import PICTURES, list_pictures
from msjoe_jax.data.questions import is_unicode
from msjoe_jax.data.sources import VideoSource, is_folder, opened, shown
from msjoe_jax.data.video import ENDINGS
from msjoe_jax.errors import UserError

ARCHIVES = (".tar", ".zip", ".parquet")


class VideosById(FilesById):
    """The videos in a folder and in all folders below it (see sources.py for what a video is).

    A file's id is its name without the ending, and that of a folder of pictures its name. A member
    of an archive is found where a list names the archive, too: "clips.tar!a/b.mp4".

    Attributes:
      rate: pictures a second of folders of them.

    Args:
      folder: on a disk of this host.
      rate: see above; None: not known, so that no such folder can be a video.

    Raises:
      UserError: there is no such folder.
    """

    def __init__(self, folder: epath.PathLike, rate: float | None = None):
        self.rate = rate
        self._archives: dict[str, list[str]] = defaultdict(list)
        self._folders: dict[str, list[str]] = defaultdict(list)
        super().__init__(folder, ENDINGS)

    def _take(self, here: str, names: Sequence[str]) -> None:
        super()._take(here, names)
        if not is_unicode(here):
            return
        endings = {name: os.path.splitext(name)[1].lower() for name in names}
        if here != self.folder and any(ending in PICTURES for ending in endings.values()):
            self._folders[folded(os.path.basename(here))].append(here)
        for name, ending in endings.items():
            if ending in ARCHIVES and is_unicode(name):
                self._archives[folded(name)].append(os.path.join(here, name))

    def find(self, name: str, file: str = "") -> str:
        """Returns the path of a video, with what is meant of an archive behind it.

        Files come before folders of pictures, but for a folder whose path is `file`.

        Args:
          name: its id.
          file: the path that a list of questions has for it, if any.

        Raises:
          UserError: there is none, there are several, or it is a folder and no rate is known.
        """
        where = file or name
        if INSIDE in where and (path := self._inside(where)):
            return path
        folders = self._folders.get(folded(name), [])
        exact = os.path.normpath(os.path.join(self.folder, file)) if file else ""
        if exact not in folders:
            try:
                return super().find(name, file)
            except UserError:
                if not folders or folded(name) in self._by_id:
                    raise
        path = exact if exact in folders else self._chosen(folders, file)
        if self.rate is None:
            raise UserError(
                f"{shown(path)}: a folder of pictures, of which --rate says how many are shown a "
                "second"
            )
        return path

    def source(self, path: str) -> VideoSource:
        """Returns what a video of a path of `find` is made from."""
        return VideoSource(path, rate=self.rate if os.path.isdir(path) else None)

    def _inside(self, where: str) -> str:
        """Returns the path of a member of an archive; "" if no such archive is there."""
        path = os.path.join(self.folder, where)
        if VideoSource(path).inside:
            return path
        for at in (at for at, character in enumerate(where) if character == INSIDE):
            archive = PurePath(where[:at].replace("\\", "/"))
            if found := self._archives.get(folded(archive.name)):
                return self._chosen(found, str(archive)) + where[at:]
        return ""


def length_of(source: VideoSource) -> float:
    """Returns the seconds that a video's file says it lasts; 0 if it does not say it.

    Raises:
      UserError: it cannot be a video, or cannot be opened.
    """
    if is_folder(source):
        assert source.rate is not None
        return len(list_pictures(source.container)[0]) / source.rate
    try:
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(opened(source))
            if isinstance(file, str):  # as a file object: a name may look like an address
                file = stack.enter_context(open(file, "rb"))
            container = stack.enter_context(av.open(file, "r", metadata_errors="replace"))
            if not container.streams.video:
                raise UserError(f"{shown(source.path)}: holds no video")
            return max(0.0, (container.duration or 0) / av.time_base)
    except (OSError, ValueError, av.FFmpegError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{shown(source.path)}: cannot be opened ({reason})") from None
