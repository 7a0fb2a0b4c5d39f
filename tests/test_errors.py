"""The error tree."""

from __future__ import annotations

import pytest

from exporter.errors import ConfigError, ConnectError, ExporterError, Phase, ProbeError, Reason, TLSError


def test_reasons_and_phases_are_the_closed_sets_of_the_contract() -> None:
    """They are label values that rules and boards go by."""
    assert {
        "resolve", "refused", "unreachable", "timeout", "tls", "protocol", "status", "body", "auth", "internal",
    } == {str(reason) for reason in Reason}  # fmt: skip
    assert {"resolve", "connect", "tls", "processing", "transfer"} == {str(phase) for phase in Phase}


@pytest.mark.parametrize("kind", ProbeError.__subclasses__())
def test_every_kind_of_trouble_has_its_reason(kind: type[ProbeError]) -> None:
    """A subclass says why by its class; one case may say it closer."""
    assert kind("no").reason is not Reason.INTERNAL
    assert issubclass(kind, ExporterError)
    assert Reason.REFUSED is kind("no", reason=Reason.REFUSED).reason
    assert Phase.TLS is kind("no", phase=Phase.TLS).phase


def test_an_override_is_that_errors_alone() -> None:
    """The class keeps its reason."""
    assert Reason.REFUSED is ConnectError("no", reason=Reason.REFUSED).reason
    assert Reason.UNREACHABLE is ConnectError("no").reason
    assert Reason.TLS is TLSError("no").reason


def test_a_configuration_error_tells_all() -> None:
    """Every problem stands on a line of its own."""
    assert "one\ntwo" == str(ConfigError(["one", "two"]))
