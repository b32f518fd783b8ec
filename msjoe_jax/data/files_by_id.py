"""The files of a folder by id, such as those of subtitles, whatever folder they lie in."""

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import PurePath, PurePosixPath

from etils import epath

from msjoe_jax.data.questions import is_unicode
from msjoe_jax.errors import UserError

_LANGUAGE = re.compile(r"[._-]([a-z]{2,3}(?:[-_][a-z]{2,4})?)")  # in small letters


class FilesById:
    """The files in a folder and in all folders below it whose names have certain endings.

    A file's id is its name without the ending. Names that begin with a point are passed over.

    Attributes:
      folder: the folder.
      unnamed: names that no list can hold, since they are no UTF-8.

    Args:
      folder: on a disk of this host.
      endings: in small letters, each with its point.

    Raises:
      UserError: there is no such folder.
    """

    def __init__(self, folder: epath.PathLike, endings: Collection[str]):
        self.folder = os.path.abspath(os.fspath(folder))
        if not os.path.isdir(self.folder):
            raise UserError(f"{folder}: no such folder")
        self.unnamed: list[str] = []
        self._endings = endings
        self._by_id: dict[str, list[str]] = defaultdict(list)
        seen: set[str] = set()
        for here, folders, names in os.walk(self.folder, followlinks=True):
            if (real := os.path.realpath(here)) in seen:  # links may lead back
                folders.clear()
                continue
            seen.add(real)
            folders.sort()
            self._take(here, sorted(name for name in names if not name.startswith(".")))

    def _take(self, here: str, names: Sequence[str]) -> None:
        """Takes in the files of one folder."""
        for name in names:
            stem, ending = os.path.splitext(name)
            if ending.lower() in self._endings:
                path = os.path.join(here, name)
                if is_unicode(path):
                    self._by_id[folded(stem)].append(path)
                else:
                    self.unnamed.append(path)

    def __len__(self) -> int:
        return sum(map(len, self._by_id.values()))

    def find(self, name: str, file: str = "") -> str:
        """Returns the path of an id's file.

        The same id in small or other letters will do where there is none of the very letters. Of
        several files that one counts whose folders are those of `file`, and not an empty one.

        Args:
          name: the id.
          file: the path that a list of questions has for it, if any.

        Raises:
          UserError: there is none, or there are several.
        """
        if file and os.path.isabs(file) and os.path.isfile(file):
            return file
        found = self._by_id.get(folded(name), [])
        found = [path for path in found if PurePath(path).stem == name] or found
        return self._chosen([path for path in found if _size(path)] or found, file)

    def _chosen(self, found: Sequence[str], file: str) -> str:
        if len(found) > 1:
            common = [agreement(path, file) for path in found]
            found = [path for path, n in zip(found, common, strict=True) if n == max(common)]
        if not found:
            raise UserError(f"no file of that name in {self.folder}")
        if len(found) > 1:
            some = ", ".join(os.path.relpath(path, self.folder) for path in found[:3])
            raise UserError(f"{len(found)} files may be meant: {some}")
        return found[0]

    def find_in_a_language(self, name: str) -> str:
        """Returns the path of an id's file, or of one with a language behind it: "id_en", "id.de".

        English counts before others, which count by the alphabet.

        Raises:
          UserError: there is none, or there are several.
        """
        start = folded(name)
        if start not in self._by_id:
            names = {
                key: match[1]
                for key in self._by_id
                if key.startswith(start) and (match := _LANGUAGE.fullmatch(key[len(start) :]))
            }
            if names:
                first = min(names, key=lambda key: (not names[key].startswith("en"), names[key]))
                return self.find(PurePath(self._by_id[first][0]).stem)
        return self.find(name)


def folded(name: str) -> str:
    """Returns a name in the letters by which names are compared."""
    return unicodedata.normalize("NFC", name).casefold()


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except OSError:
        return 0


def agreement(path: str, file: str) -> int:
    """Counts what two paths of one name have in common: 1 for its ending, 2 for each last folder.

    Args:
      path: of a file.
      file: as a list of questions has it.
    """
    ours, theirs = PurePath(path), PurePosixPath(file.replace("\\", "/"))
    count = int(folded(ours.suffix) == folded(theirs.suffix))
    for one, other in zip(reversed(ours.parts[:-1]), reversed(theirs.parts[:-1]), strict=False):
        if folded(one) != folded(other):
            break
        count += 2
    return count
