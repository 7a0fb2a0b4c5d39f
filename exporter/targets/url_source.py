"""The access URL's text: written, or read from its file again before each run."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from pathlib import Path

from exporter.errors import ProbeError, Reason
from exporter.targets.model import AccessURL

_MAX_BYTES = 4096


async def read_url(source: AccessURL) -> str:
    """Return the URL without surrounding white space; empty when the file is.

    Raises:
        ProbeError: The file cannot be read.
    """
    if source.url_file is None:
        return source.url or ""
    try:
        return await asyncio.to_thread(_read, source.url_file)
    except OSError as error:
        raise ProbeError(
            f"the file of the access URL cannot be read: {error.strerror}", reason=Reason.RESOLVE
        ) from error


def _read(path: Path) -> str:
    # without waiting: a pipe that nobody writes to would hold a thread, and with it our end
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        return os.read(file, _MAX_BYTES).decode("utf-8", "replace").strip()
    finally:
        os.close(file)
