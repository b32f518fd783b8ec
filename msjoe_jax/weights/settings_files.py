"""The settings files of a published model: each field is computed, without effect, or refused."""

import sys
from collections.abc import Callable
from typing import Any, TypeVar

from etils import epath

from msjoe_jax.errors import UserError
from msjoe_jax.runtime.files import read_json
from msjoe_jax.stated import UnknownFields, without
from msjoe_jax.weights.folder import SIDE_FILES

Parsed = TypeVar("Parsed")
IGNORE_EXTRA = "--ignore_extra"
PROCESSOR = "processor_config.json"
IMAGE_PROCESSOR = ("image_processor", "preprocessor_config.json")
VIDEO_PROCESSOR = ("video_processor", "video_preprocessor_config.json")


class SettingsFiles:
    """The JSON files of a model's folder.

    Args:
      folder: the model's.
      ignore_extra: whether fields that are not known here are passed over, and said.
      over: a folder whose side files count before the model's, such as an adapter's.

    Attributes:
      changed: the content of files of which fields were passed over, without those.
    """

    def __init__(
        self, folder: epath.Path, ignore_extra: bool = False, over: epath.Path | None = None
    ):
        self.folder, self.changed = folder, dict[str, dict[str, Any]]()
        self._over = over
        self._ignore_extra = ignore_extra
        self._read: dict[str, dict[str, Any]] = {}

    def file(self, name: str) -> epath.Path:
        """Returns the path of a file, which need not be there."""
        if self._over is not None and name in SIDE_FILES and (self._over / name).is_file():
            return self._over / name
        return self.folder / name

    def content(self, name: str) -> dict[str, Any] | None:
        """Returns a file's content; None: there is no such file.

        Raises:
          UserError: it is no JSON object.
        """
        if name not in self._read and self.file(name).is_file():
            self._read[name] = read_json(self.file(name))
        return self._read.get(name)

    def parsed(self, name: str, parse: Callable[[Any], Parsed], *keys: str) -> Parsed:
        """Parses a file, or what stands in it under `keys`.

        Args:
          name: of the file; None is parsed where it is absent.
          parse: the parser; UnknownFields, KeyError or ValueError says what is wrong.
          keys: lead to the object.

        Raises:
          UserError: the file asks for something that is not computed here.
        """
        value: Any = self.content(name)
        for key in keys:
            value = value[key]
        file = self.file(name)
        try:
            return parse(value)
        except UnknownFields as error:
            if not self._ignore_extra:
                raise UserError(
                    f"{file}: {error}; {IGNORE_EXTRA} passes over such fields"
                ) from None
            print(f"{file}: passed over: {error}", file=sys.stderr)
            content = self.content(name)
            assert content is not None
            fields = [(*keys, *field) for field in error.fields]
            self._read[name] = self.changed[name] = without(content, fields)
            return self.parsed(name, parse, *keys)
        except KeyError as error:
            raise UserError(f"{file}: the field {error} is missing") from None
        except (ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{file}: {error}") from None

    def processor(self, part: str, file: str, parse: Callable[[Any], Parsed]) -> Parsed:
        """Parses the settings of an image or a video processor.

        transformers 5 writes all processors of a model into processor_config.json; versions before
        wrote a file for each. Where both say something the former counts, as in transformers.

        Args:
          part: its name in the former.
          file: its own file.
          parse: as for `parsed`.
        """
        if isinstance((self.content(PROCESSOR) or {}).get(part), dict):
            return self.parsed(PROCESSOR, parse, part)
        return self.parsed(file, parse)
