"""The session token: written, or read from its file again at each use, so that a rotated one works at
once. In: where it is taken from. Out: the token, or what is wrong with the file, never its content.
"""

from __future__ import annotations

import asyncio
import re

from exporter.config import files
from exporter.errors import ProbeError, Reason
from exporter.secret import Secret
from exporter.targets.model import SessionToken

# Who replaces a file by removing it, or by emptying it, is done within this time.
_PAUSES_SECONDS = (0.02, 0.1)
_VISIBLE_ASCII = re.compile(r"[\x21-\x7e]+")


class NoTokenError(ProbeError):
    """The file of the token has none to give: nobody was asked, so it is no outage of anybody's."""

    reason = Reason.AUTH


async def read_token(source: SessionToken) -> Secret:
    """Return the token without surrounding white space.

    Raises:
        NoTokenError: Its file is gone, empty, cannot be read, or holds what is no token.
    """
    if source.token_file is None:
        assert source.token is not None
        return source.token
    for pause_seconds in (*_PAUSES_SECONDS, None):
        try:
            content = await asyncio.to_thread(files.read_small_file, source.token_file, files.MAX_SECRET_BYTES)
        except files.Unreadable as error:
            if not error.missing or pause_seconds is None:
                raise _refuse(str(error)) from None
        else:
            token = content.text.strip()
            if token:
                return _check(token)
            if pause_seconds is None:
                raise _refuse("is empty")
        await asyncio.sleep(pause_seconds)
    raise AssertionError("the last look either gives a token or says why not")


def _check(token: str) -> Secret:
    """Refuse what no header can carry: half a binary file, or two lines."""
    if not _VISIBLE_ASCII.fullmatch(token):
        raise _refuse("holds no token: there is a space, a control character or a letter beyond ASCII in it")
    return Secret(token)


def _refuse(what: str) -> NoTokenError:
    return NoTokenError(f"the file of the session token {what}")
