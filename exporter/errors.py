"""What can go wrong, as one tree, and the closed sets that name where and why.

    ExporterError
    ├── ConfigError           the configuration is wrong; carries every problem at once
    ├── WireError             bytes that are not what the protocol says (raised by wire/ only)
    └── ProbeError            a target did not do what it should; ends as a Failure in a result
        ├── ResolveError      its name has no address
        ├── ConnectError      no connection: refused, or unreachable
        ├── TLSError          the handshake
        │   └── CertificateError  the certificate, or the name in it
        ├── DeadlineError     it took longer than the target's timeout
        ├── ProtocolError     what came is not the protocol
        ├── StatusError       an answer came, with a status that says no
        └── AuthError         an answer came: our credentials are refused

Foreign exceptions are translated into this tree once, in `net/`, and chained.
"""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Why a run failed: the closed set of the label `reason`. Source: contract, section 8."""

    RESOLVE = "resolve"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    TIMEOUT = "timeout"
    TLS = "tls"
    PROTOCOL = "protocol"
    STATUS = "status"
    BODY = "body"
    AUTH = "auth"
    INTERNAL = "internal"


class Phase(StrEnum):
    """How far a run came: the closed set of the label `phase`. Source: contract, section 5."""

    RESOLVE = "resolve"
    CONNECT = "connect"
    TLS = "tls"
    PROCESSING = "processing"
    TRANSFER = "transfer"


class ExporterError(Exception):
    """Everything this package raises on purpose."""


class ConfigError(ExporterError):
    """The configuration cannot be used.

    Args:
        problems: One sentence each: where (file:line, key path), what is wrong, the wanted form.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class WireError(ExporterError):
    """Bytes that do not follow their protocol."""


class ProbeError(ExporterError):
    """A target did not do what it should.

    Args:
        message: What was being done, to whom, and what came. Never holds a secret.
        phase: The phase that was not finished; None when no phase applies.
        reason: Overrides the reason of the class.
    """

    reason: Reason = Reason.INTERNAL
    # Somebody was asked and said no in good order, so the network between works.
    answered: bool = False

    def __init__(self, message: str, *, phase: Phase | None = None, reason: Reason | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.phase = phase
        if reason is not None:
            self.reason = reason


class ResolveError(ProbeError):
    reason = Reason.RESOLVE


class ConnectError(ProbeError):
    reason = Reason.UNREACHABLE


class TLSError(ProbeError):
    reason = Reason.TLS


class CertificateError(TLSError):
    pass


class DeadlineError(ProbeError):
    reason = Reason.TIMEOUT


class ProtocolError(ProbeError):
    reason = Reason.PROTOCOL


class StatusError(ProbeError):
    reason = Reason.STATUS


class AuthError(ProbeError):
    reason = Reason.AUTH
