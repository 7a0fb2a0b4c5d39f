"""One replica of coderd, asked by itself: does it answer /healthz, and with what version.

In: one run. Out: XACS08, when it fails while others answer. Pure. Beside it, what Coder lists of its
replicas.

Source: contract, section 6; coder-interfaces, sections 4.2, 4.5 and 5.1; field, section 6, idea 6
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from exporter.errors import Phase
from exporter.health.model import Failure, Finding, Report, Section, Severity

# Five times the most that Coder advises. More are not polled, and the log says so.
MAX_REPLICAS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedReplica:
    """A row of the table `replicas`, or an entry of the API, which tells less.

    Args:
        relay_address: The URL by which other replicas reach it; empty where it has none.
        primary: One of coderd; else a workspace proxy's, to be judged on rows that run: one that was
            stopped says False whatever it was. The API lists primaries only.
        running: It was not stopped, and wrote its row lately by the database's own clock.
        error: What it says of itself, like peers that it cannot reach; empty: nothing.
        database_latency_seconds: Its own ping of the database; None: not told.
        created_timestamp_seconds: By which the newest of one address is known; 0: not told.
        stopped: It ended in good order and said so; who does not run and was not stopped crashed, or was
            killed.
        updated_timestamp_seconds: When it wrote its row last, by the clock by which it was created; None:
            not told, as by the API.
        silent_seconds: For how long it has not written its row, by the database's clock; None: not told.
    """

    id: str
    hostname: str
    relay_address: str
    primary: bool = True
    running: bool = True
    error: str = ""
    version: str = ""
    database_latency_seconds: float | None = None
    created_timestamp_seconds: float = 0.0
    stopped: bool = False
    # which change with each beat, and make no other replica of it
    updated_timestamp_seconds: float | None = field(default=None, compare=False)
    silent_seconds: float | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaResult:
    """One request of one replica.

    `name` is its label, `url` where it was asked. `address` is the IP address that was tried, `status`
    None without an answer. `coder_version` is empty where the answer does not tell it. `others_answer`:
    another replica, or the access URL itself, did when it was asked last.
    """

    name: str
    url: str = ""
    address: str | None = None
    status: int | None = None
    coder_version: str = ""
    failure: Failure | None = None
    others_answer: bool = False
    phase_seconds: Mapping[Phase, float] = field(default_factory=dict)

    @property
    def up(self) -> bool:
        return self.failure is None


def assess(result: ReplicaResult) -> Report:
    """Return XACS08 where this replica fails and another answers; that nobody answers is told by the
    access URL itself."""
    failure = result.failure
    if failure is None or not result.others_answer:
        return Report(section=Section.ACCESS_URL, failure=failure)
    where = f" at {result.url}" if result.url and result.url not in failure.message else ""
    message = f"the replica {result.name}{where} fails while others answer: {failure.message}"
    finding = Finding(code="XACS08", severity=Severity.WARNING, message=message)
    return Report(section=Section.ACCESS_URL, findings=(finding,), failure=failure)
