"""Our session token: how long it is good. In: a target. Out: a `TokenResult`. Never judges.

Asking is itself a use, by which Coder moves the end of a token unless it was told not to.

Source: contract, section 8, Tokens; coder-interfaces, section 2.8
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from exporter.clock import Clock
from exporter.errors import ProbeError, WireError
from exporter.health.exporter import TokenResult
from exporter.health.model import Failure, OffReason
from exporter.net.coder_account import ApiKey, parse_api_key
from exporter.probes.coder_answer import BackOff, Kind, ask, find_origin, tell_no_json
from exporter.secret import Secret
from exporter.targets.model import TokenTarget
from exporter.targets.token_source import NoTokenError, read_token

KEYS_PATH = "/api/v2/users/me/keys"
MAX_BODY_BYTES = 1 << 16
# When it was not read for longer, it was perhaps not in use either, and so it could not move.
UNUSED_INTERVALS = 3
# Coder moves the end of a token, and writes its use down, at most so often. Source: coder-interfaces, 2.8
_SLIDE_SECONDS = 3600.0
# What stands before the hyphen is the token's id, which is no secret. Of a token of another form we
# do not know what is one, so nothing of it goes into a path.
_TOKEN_FORM = re.compile(r"(?P<id>[A-Za-z0-9]{10})-.+")


@dataclass(slots=True, kw_only=True)
class TokenMemory:
    """For how long the end of a token has stood still. `token_id` tells when it is another token."""

    token_id: str = ""
    expires_timestamp_seconds: float | None = None
    read_monotonic_seconds: float | None = None
    unmoved_seconds: float = 0.0
    back_off: BackOff = field(default_factory=BackOff)

    def take(self, token_id: str, expires_timestamp_seconds: float | None, limit_seconds: float, clock: Clock) -> None:
        """Note what was read now; what was not read for longer than the limit begins anew."""
        now, read = clock.monotonic(), self.read_monotonic_seconds
        same = (token_id, expires_timestamp_seconds) == (self.token_id, self.expires_timestamp_seconds)
        if same and read is not None and now - read <= limit_seconds:
            self.unmoved_seconds += now - read
        else:
            self.unmoved_seconds = 0.0
        self.token_id, self.expires_timestamp_seconds = token_id, expires_timestamp_seconds
        self.read_monotonic_seconds = now


async def probe(target: TokenTarget, *, memory: TokenMemory, clock: Clock) -> TokenResult:
    """Read what Coder knows of our token, within the target's timeout.

    What it does not show, or what nobody can ask for, is not known, which is no failure.
    """
    deadline = clock.monotonic() + target.timeout_seconds
    if target.session_token is None:
        return TokenResult()
    try:
        token = await read_token(target.session_token)
        token_id = _read_id(token)
        if token_id is None:
            return TokenResult()
        origin = await find_origin(target.access_url)
    except NoTokenError as error:
        return TokenResult(off=OffReason.NO_TOKEN, failure=Failure.of(error))
    except ProbeError as error:
        return TokenResult(failure=Failure.of(error))
    path = f"{KEYS_PATH}/{token_id}"
    answer = await ask(
        origin,
        path,
        token=token,
        deadline_seconds=deadline,
        clock=clock,
        ca_file=target.ca_file,
        max_body_bytes=MAX_BODY_BYTES,
        back_off=memory.back_off,
    )
    memory.back_off.note(answer, target.interval_seconds, clock)
    if answer.kind is Kind.SIGNED_OUT:
        return TokenResult(refused=True, failure=answer.failure)
    if answer.kind in (Kind.FORBIDDEN, Kind.MISSING, Kind.NO_ROUTE):
        return TokenResult()
    if answer.kind is not Kind.GOOD:
        return TokenResult(failure=answer.failure)
    try:
        key = parse_api_key(answer.body)
    except WireError as error:
        return TokenResult(failure=tell_no_json(path, "session token", error, token))
    expires = key.expires_timestamp_seconds
    memory.take(token_id, expires, UNUSED_INTERVALS * target.interval_seconds, clock)
    return TokenResult(
        expires_timestamp_seconds=expires,
        lifetime_seconds=key.lifetime_seconds,
        remaining_seconds=None if expires is None else expires - answer.read_now(clock),
        unmoved_seconds=max(memory.unmoved_seconds, _read_stillness(key)),
        scope=key.scope,
    )


def _read_stillness(key: ApiKey) -> float:
    """Return for how long the end of a token had stood still at its last use, as the key itself tells: a
    use moves the end to a lifetime later. 0 when it does not tell, or when nothing was due."""
    expires, lifetime, used = key.expires_timestamp_seconds, key.lifetime_seconds, key.last_used_timestamp_seconds
    if expires is None or lifetime is None or used is None:
        return 0.0
    stood = used - (expires - lifetime)
    return stood if stood > _SLIDE_SECONDS else 0.0


def _read_id(token: Secret) -> str | None:
    match = _TOKEN_FORM.fullmatch(token.reveal())
    return None if match is None else match["id"]
