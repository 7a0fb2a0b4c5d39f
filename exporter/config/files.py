"""Small files that the configuration names: read whole, with a bound, and with their mode.

What goes wrong leaves as Unreadable, with a sentence that quotes neither the content nor the path:
who writes the secret itself where its file's path belongs does not find it in the log.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from exporter.config.problems import escape
from exporter.errors import ExporterError
from exporter.secret import mask

MAX_CONFIG_BYTES = 1 << 20
MAX_SECRET_BYTES = 1 << 16
MAX_CERTIFICATES_BYTES = 1 << 22
MAX_MAP_BYTES = 1 << 20

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class Unreadable(ExporterError):
    """A file that cannot be used. Caught where the key that names it is known.

    `missing`: there is no such file.
    """

    def __init__(self, text: str, *, missing: bool = False) -> None:
        super().__init__(text)
        self.missing = missing


@dataclass(frozen=True, slots=True, kw_only=True)
class SmallFile:
    """`mode`: its permission bits; 0 where the system has none (Windows)."""

    text: str
    mode: int


def open_to_others(mode: int) -> bool:
    """Say whether the group or the world may do anything with a file of that mode."""
    return bool(mode & _OTHERS)


def show_path(path: Path) -> str:
    return mask(escape(str(path)))


def read_small_file(path: Path, max_bytes: int) -> SmallFile:
    """Return the text of a regular file, in UTF-8 with or without a byte order mark.

    Raises:
        Unreadable: With what is wrong: missing, no permission, a directory, too large, not UTF-8.
    """
    data, mode = _read(path, max_bytes)
    try:
        return SmallFile(text=data.decode("utf-8-sig"), mode=mode)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
    raise Unreadable(f"is not UTF-8 text (line {line})")


def check_readable(path: Path) -> None:
    """Raise Unreadable when the file is not there, not a regular file or may not be read."""
    _read(path, MAX_CONFIG_BYTES)


def _read(path: Path, max_bytes: int) -> tuple[bytes, int]:
    # Without waiting: opening a named pipe would hang until somebody writes into it.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags)
        try:
            # asked first: of a directory no file object comes, and then nobody closes it
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise Unreadable("is not a regular file")
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                data = file.read(max_bytes + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        raise Unreadable(f"cannot be read: {error.strerror}", missing=missing) from None
    if len(data) > max_bytes:
        raise Unreadable(f"is larger than {max_bytes} bytes")
    return data, stat.S_IMODE(status.st_mode) if os.name == "posix" else 0
