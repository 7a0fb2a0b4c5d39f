"""Who answers at the access URL: /api/v2/buildinfo, asked seldom and remembered between runs."""

from __future__ import annotations

from dataclasses import dataclass

from exporter.clock import Clock
from exporter.errors import WireError
from exporter.health.access_url import FamilyAttempt, Identity
from exporter.net import coder_json, http, reach
from exporter.targets.model import AccessURLTarget
from exporter.wire.url import Origin

PATH = "/api/v2/buildinfo"
# Who answers hardly changes, and each request costs a connection: a new look at this pace is
# enough, and at once when the version changes or nothing says Coder.
INTERVAL_SECONDS = 60.0
# A server that did not answer it is not asked with every run: that would make each run slow.
RETRY_SECONDS = 60.0
MAX_BODY_BYTES = 64 * 1024


@dataclass(slots=True)
class IdentityMemory:
    """What one target's runs remember of who answered.

    `identity` is what a Coder server said last, None when another one answers. `says_coder` is
    None when the last question had no answer in good order.
    """

    identity: Identity | None = None
    says_coder: bool | None = None
    first_deployment_id: str | None = None
    _origin: Origin | None = None
    _asked_monotonic_seconds: float | None = None
    _asked_version: str | None = None
    _answered: bool = False

    def begin(self, origin: Origin) -> None:
        """Forget everything when the access URL is another one than before."""
        if self._origin != origin:
            self.identity = self.says_coder = self.first_deployment_id = None
            self._asked_monotonic_seconds, self._answered = None, False
            self._origin = origin

    async def learn(
        self, answer: FamilyAttempt, origin: Origin, target: AccessURLTarget, *, deadline_seconds: float, clock: Clock
    ) -> None:
        """Ask who it is, when it is time to, at the address that just answered."""
        now = clock.monotonic()
        if not self._is_due(answer, now):
            return
        self._asked_monotonic_seconds, self._asked_version = now, answer.coder_version
        self.says_coder, self._answered = None, False
        exchange = await reach.get_from(
            (answer.address,),
            origin,
            PATH,
            # what was measured is measured: this must not make the run a long one
            deadline_seconds=now + (deadline_seconds - now) / 2,
            clock=clock,
            ca_file=target.ca_file,
            max_body_bytes=MAX_BODY_BYTES,
        )
        self._read(exchange)

    def _is_due(self, answer: FamilyAttempt, now: float) -> bool:
        if self._asked_monotonic_seconds is None:
            return True
        waited = now - self._asked_monotonic_seconds
        if not self._answered:
            return waited >= RETRY_SECONDS
        return waited >= INTERVAL_SECONDS or answer.coder_version is None or answer.coder_version != self._asked_version

    def _read(self, exchange: http.Exchange) -> None:
        status = exchange.status
        # a server in trouble may refuse this too: only an answer in good order says "not Coder"
        if exchange.error is not None or status is None or status >= 500 or status == 429:
            return
        self._answered = True
        try:
            if status != 200:
                raise WireError("not an answer of build info")
            self.identity = coder_json.parse_build_info(exchange.body)
        except WireError:
            self.identity = None
            self.says_coder = coder_json.BUILD_VERSION_HEADER in exchange.headers
            return
        self.says_coder = True
        if self.first_deployment_id is None:
            self.first_deployment_id = self.identity.deployment_id
