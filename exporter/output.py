"""What commands write for people and pipes: a reader who went away is no trouble, a full disk is."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TextIO

from exporter.errors import ExporterError


class OutputError(ExporterError):
    """Nothing can be written: the disk is full, say."""


def write(text: str, out: TextIO | None = None) -> None:
    """Write and flush, by default to standard output. Whoever read it may have gone away, as `| head` does:
    that changes no exit code.

    Raises:
        OutputError: It cannot be written.
    """
    out = sys.stdout if out is None else out
    if out is None:
        return  # whoever started this closed it
    try:
        out.write(text)
        out.flush()
    except OSError as error:
        # Python tries again at its end, and would end with a code of its own
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, out.fileno())
        os.close(nowhere)
        if not isinstance(error, BrokenPipeError):
            raise OutputError(f"the output cannot be written: {error.strerror}") from None


def tell(text: str) -> None:
    """Write a line to standard error. Where nobody can have it, that changes nothing."""
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)
