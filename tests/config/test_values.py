"""Each kind of value in the file: what it may be, at each limit, and what is said when it is not."""

from __future__ import annotations

import pytest

from exporter.config.decode import decode_document
from exporter.config.document import DerpKeys
from exporter.config.yaml_nodes import parse_yaml

_DURATION = "write it like 30s, 5m or 1h30m"
_URL = "write it like https://coder.example.com"


def _problems(text: str) -> list[str]:
    tree = parse_yaml(text)
    decode_document(tree)
    return [problem.render("f.yaml") for problem in tree.problems]


def _derp(keys: str) -> DerpKeys:
    tree = parse_yaml(f"deployments: [{{sections: {{derp: {{{keys}}}}}}}]")
    document = decode_document(tree)
    assert [] == tree.problems
    assert document.deployments is not None
    assert document.deployments[0].sections is not None
    assert document.deployments[0].sections.derp is not None
    return document.deployments[0].sections.derp


@pytest.mark.parametrize(
    ("what", "value"),
    [
        (f'"30" is not a duration; {_DURATION}', "30"),
        (f'"30" is not a duration; {_DURATION}', '"30"'),
        (f'"-30s" is not a duration; {_DURATION}', "-30s"),
        (f'"true" is not a duration; {_DURATION}', "true"),
        (f"this text is not a duration; {_DURATION}", "0123456789-abcdefghijklmnopqrstuv"),
        (f'YAML reads "1:30" as the number 90, which is not a duration; {_DURATION}', "1:30"),
        (f'YAML reads ".inf" as a number, which is not a duration; {_DURATION}', ".inf"),
        (f"is a list, not a duration; {_DURATION}", "[30s]"),
        ('"0s" is no time at all; a duration above 0s is wanted', "0s"),
        ('"999ms" is too short; at least 1s', "999ms"),
        ('"367d" is too long; at most 366d', "367d"),
        ('"999999999999d" is too long; at most 366d', "999999999999d"),
    ],
)
def test_an_interval(what: str, value: str) -> None:
    """Each way to get a duration wrong tells the wanted form."""
    assert [f"f.yaml:1: global.interval: {what}"] == _problems(f"global: {{interval: {value}}}")


@pytest.mark.parametrize(
    ("what", "value"),
    [
        ('YAML reads "014" as the number 12; write a whole number from 1 to 100 in plain digits', "014"),
        ('YAML reads "2.0" as a number; write a whole number from 1 to 100 in plain digits', "2.0"),
        ("is a text; write a whole number from 1 to 100, without quotes", '"2"'),
        ("is true; write a whole number from 1 to 100, without quotes", "true"),
        ("is a mapping; write a whole number from 1 to 100, without quotes", "{}"),
        ('"0" is out of range; write a whole number from 1 to 100', "0"),
        ('"101" is out of range; write a whole number from 1 to 100', "101"),
        ('"-1" is out of range; write a whole number from 1 to 100', "-1"),
    ],
)
def test_a_count(what: str, value: str) -> None:
    """A count is a whole number in its range, without quotes."""
    assert [f"f.yaml:1: global.settle.raise: {what}"] == _problems(f"global: {{settle: {{raise: {value}}}}}")


@pytest.mark.parametrize(
    ("what", "value"),
    [
        ('YAML 1.1 reads "no" as false, YAML 1.2 does not; write true or false', "no"),
        ('YAML 1.1 reads "On" as true, YAML 1.2 does not; write true or false', "On"),
        ("is a text; write true or false, without quotes", '"true"'),
        ("is a number; write true or false, without quotes", "1"),
    ],
)
def test_a_boolean(what: str, value: str) -> None:
    """Only true and false are booleans."""
    text = f"deployments: [{{sections: {{websocket: {{enabled: {value}}}}}}}]"
    assert [f"f.yaml:1: deployments[0].sections.websocket.enabled: {what}"] == _problems(text)


@pytest.mark.parametrize(
    ("what", "key", "value"),
    [
        ("YAML reads no as false; put it in quotes", "name", "no"),
        ("YAML reads 014 as the number 12; put it in quotes", "name", "014"),
        ("YAML reads 2024-01-01 as a date; put it in quotes", "name", "2024-01-01"),
        ("YAML reads this value as a number; put it in quotes", "name", "7"),
        ("YAML reads this value as true; put it in quotes", "name", "true"),
        ("YAML reads this value as a number; put it in quotes", "name", "1234567890123456789012345678901"),
        ("YAML does not read this value as a text; put it in quotes", "session_token", "1_234"),
        ("YAML reads this value as a number; put it in quotes", "session_token", "1234"),
        ("is a mapping; a text is wanted", "session_token", "{secret: hunter2}"),
        ("is a list; a text is wanted", "url", "[x]"),
        ("is empty; give it a value, or remove the key", "name", '""'),
        ("is empty; give it a value, or remove the key", "session_token", '" "'),
        ("has 65 characters; a name has 1 to 64", "name", "x" * 65),
        ("begins or ends with a blank; remove it", "name", '" a"'),
        ("holds a control character; a printable text is wanted", "name", '"a\\nb"'),
        ("holds a control character; a printable text is wanted", "url_file", '"a\\0b"'),
        (f"the URL does not begin with http:// or https://; {_URL}", "url", "coder.example.com"),
        (f"the URL holds a user name or password, which Coder does not take; {_URL}", "url", "https://u:hunter2@c"),
        ("is not a UUID; write it like 6f0c1a52-7f4e-4b53-9d0a-0c8de5f5a3b1", "deployment_id", "6f0c"),
        (
            "is not a UUID; write it like 6f0c1a52-7f4e-4b53-9d0a-0c8de5f5a3b1",
            "deployment_id",
            "6f0c1a527f4e4b539d0a0c8de5f5a3b1",
        ),
    ],
)
def test_a_text(what: str, key: str, value: str) -> None:
    """Texts that YAML takes for something else, and texts of a wrong form, are told without a secret."""
    assert [f"f.yaml:2: deployments[0].{key}: {what}"] == _problems(f"deployments:\n- {key}: {value}")


@pytest.mark.parametrize(
    ("what", "value"),
    [
        ('"0.5ms" is too short; at least 1ms, since Coder compares whole milliseconds', "0.5ms"),
        ('"0s" is no time at all; a duration above 0s is wanted', "0s"),
    ],
)
def test_a_latency_threshold(what: str, value: str) -> None:
    """Below a millisecond Coder would fall back to its default, so nothing below is taken."""
    text = f"deployments: [{{database: {{latency_threshold: {value}}}}}]"
    assert [f"f.yaml:1: deployments[0].database.latency_threshold: {what}"] == _problems(text)


_HOST = "write the host alone, like derp.example.com"
_NO_HOST = "is not a host name or an IP address; write it like derp.example.com or 192.0.2.7"


@pytest.mark.parametrize(
    ("what", "value"),
    [
        (f"holds a scheme; {_HOST}", "https://derp.example.com"),
        ("holds a wildcard; list each host by its own name", '"*.example.com"'),
        (f"holds a slash; {_HOST}", "derp.example.com/derp"),
        (f"holds a slash; {_HOST}", "10.0.0.0/8"),
        (f"holds a port; {_HOST}", "derp.example.com:443"),
        (f"holds a port; {_HOST}", '"derp.example.com:"'),
        (f"holds a port; {_HOST}", '"192.0.2.7:443"'),
        (f"holds a port; {_HOST}", '"[2001:db8::7]:443"'),
        ("holds brackets; write an IPv6 address without them", '"[2001:db8::7]"'),
        (_NO_HOST, '"derp example.com"'),
        (_NO_HOST, '" derp.example.com"'),
        (_NO_HOST, "derp..example.com"),
        (_NO_HOST, "user@derp.example.com"),
        (_NO_HOST, '"derp.example.com#x"'),
        (_NO_HOST, '"derp.example.com?x"'),
        (_NO_HOST, '"fe80::1%eth0"'),
        (_NO_HOST, '"2001:db8::g"'),
        (_NO_HOST, "192.0.2.256"),
        (_NO_HOST, '"192.0.2"'),
        (_NO_HOST, f"{'a' * 64}.example.com"),
        (_NO_HOST, ".".join(["a" * 49] * 5 + ["abcd"])),
        ("is empty; give it a value, or remove the key", '""'),
        ("YAML reads this value as a number; put it in quotes", "7"),
    ],
)
def test_a_host(what: str, value: str) -> None:
    """A host stands alone, and each thing that people write around it is told by its name."""
    text = f"deployments: [{{sections: {{derp: {{allow_hosts: [{value}]}}}}}}]"
    assert [f"f.yaml:1: deployments[0].sections.derp.allow_hosts[0]: {what}"] == _problems(text)


@pytest.mark.parametrize(
    ("host", "value"),
    [
        ("derp.example.com", "DERP.Example.com"),
        ("derp.example.com", "derp.example.com."),
        ("derp", "derp"),
        ("derp_1.internal", "derp_1.internal"),
        ("xn--bcher-kva.example", "bücher.example"),
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8::7", '"2001:DB8:0::7"'),
        ("::1", '"::1"'),
        (".".join(["a" * 49] * 5 + ["abc"]), ".".join(["a" * 49] * 5 + ["abc"])),
    ],
)
def test_a_host_as_it_is_compared(host: str, value: str) -> None:
    """Names are in lower case and in ASCII, addresses in their short form."""
    assert [host] == _derp(f"allow_hosts: [{value}]").allow_hosts


def test_at_most_a_hundred_hosts() -> None:
    """A hundred are taken; the same twice counts once, but is counted as it stands."""
    hosts = [f"derp{number}.example.com" for number in range(100)]
    assert hosts == _derp(f"allow_hosts: [{', '.join(hosts)}]").allow_hosts
    assert ["a.example.com"] == _derp("allow_hosts: [a.example.com, A.example.com]").allow_hosts
    assert [] == _derp("allow_hosts: []").allow_hosts
    text = f"deployments: [{{sections: {{derp: {{allow_hosts: [{', '.join([*hosts, hosts[0]])}]}}}}}}]"
    assert ["f.yaml:1: deployments[0].sections.derp.allow_hosts: lists 101; at most 100"] == _problems(text)


@pytest.mark.parametrize(
    ("what", "value"),
    [
        ("holds a blank or a slash, which no interface's name has", '"tun *"'),
        ("holds a blank or a slash, which no interface's name has", "/dev/tun0"),
        ("holds a control character; a printable text is wanted", '"tun\\t"'),
        ("has 65 characters; at most 64", "x" * 65),
        ("YAML reads no as false; put it in quotes", "no"),
        ("is a mapping; a text is wanted", "{}"),
    ],
)
def test_an_interface_pattern(what: str, value: str) -> None:
    """A pattern is what an interface can be called."""
    text = f"deployments: [{{sections: {{direct_connections: {{tunnel_interfaces: [wg0, {value}]}}}}}}]"
    assert [f"f.yaml:1: deployments[0].sections.direct_connections.tunnel_interfaces[1]: {what}"] == _problems(text)


@pytest.mark.parametrize(
    ("what", "value"),
    [
        ('"0" is out of range; write a whole number from 1 to 5', "0"),
        ('"6" is out of range; write a whole number from 1 to 5', "6"),
        ('YAML reads "2.5" as a number; write a whole number from 1 to 5 in plain digits', "2.5"),
        ("is a text; write a whole number from 1 to 5, without quotes", "2/s"),
    ],
)
def test_a_packet_rate(what: str, value: str) -> None:
    """Load on somebody's relay is bounded."""
    text = f"deployments: [{{sections: {{derp: {{loss: {{packets_per_second: {value}}}}}}}}}]"
    assert [f"f.yaml:1: deployments[0].sections.derp.loss.packets_per_second: {what}"] == _problems(text)


@pytest.mark.parametrize(
    ("what", "value"),
    [
        ('"999ms" is too short; at least 1s', "999ms"),
        ('"30001ms" is too long; at most 30s', "30001ms"),
        ('"0s" is no time at all; a duration above 0s is wanted', "0s"),
        (f'"10" is not a duration; {_DURATION}', "10"),
    ],
)
def test_a_loss_window(what: str, value: str) -> None:
    """A window is long enough for some packets, and not so long that a run has no end."""
    text = f"deployments: [{{sections: {{derp: {{loss: {{window: {value}}}}}}}}}]"
    assert [f"f.yaml:1: deployments[0].sections.derp.loss.window: {what}"] == _problems(text)


@pytest.mark.parametrize(("rate", "window_seconds", "window"), [(1, 1.0, "1s"), (5, 30.0, "30s")])
def test_loss_at_its_limits(rate: int, window_seconds: float, window: str) -> None:
    """The least and the most are taken."""
    loss = _derp(f"loss: {{packets_per_second: {rate}, window: {window}}}").loss
    assert loss is not None
    assert (rate, window_seconds) == (loss.packets_per_second, loss.window)


@pytest.mark.parametrize(
    ("what", "value"),
    [
        ("is a list; a URL, or a mapping with name and url, is wanted", "['http://h']"),
        (f"the URL does not begin with http:// or https://; {_URL}", "10.0.0.1:8080"),
        ("YAML reads this value as a number; put it in quotes", "5"),
        ("YAML does not read this value as a text; put it in quotes", "1.5"),
    ],
)
def test_a_replica(what: str, value: str) -> None:
    """An item is a URL or a mapping."""
    text = f"deployments: [{{replicas: {{urls: ['http://a', {value}]}}}}]"
    assert [f"f.yaml:1: deployments[0].replicas.urls[1]: {what}"] == _problems(text)


@pytest.mark.parametrize(
    ("what", "key", "value"),
    [
        ("holds a scheme; write the name alone, like coder-headless.coder.svc", "dns", "'http://h'"),
        ("holds a slash; write the name alone, like coder-headless.coder.svc", "dns", "h/x"),
        ("holds a port; write the name alone, like coder-headless.coder.svc", "dns", "'h:8080'"),
        ("holds a wildcard; write the name alone, like coder-headless.coder.svc", "dns", "'*.h'"),
        ("is an IP address; list the URLs of replicas in urls", "dns", "10.0.0.1"),
        ("is an IP address; list the URLs of replicas in urls", "dns", "'2001:db8::1'"),
        ("is an IP address; list the URLs of replicas in urls", "dns", "'[::1]'"),
        ("is not a name that can be looked up; write it like coder-headless.coder.svc", "dns", "a b"),
        ("is not a name that can be looked up; write it like coder-headless.coder.svc", "dns", "a..b"),
        ("is not a name that can be looked up; write it like coder-headless.coder.svc", "dns", "10.0.0.300"),
        ("is a list; a text is wanted", "dns", "[h]"),
        ('"0" is out of range; write a whole number from 1 to 65535', "port", "0"),
        ('"65536" is out of range; write a whole number from 1 to 65535', "port", "65536"),
        ("is a text; write a whole number from 1 to 65535, without quotes", "port", "'8080'"),
        ('"ftp" is no scheme; write http or https', "scheme", "ftp"),
        ("is a text; write true or false, without quotes", "discover", "'true'"),
    ],
)
def test_where_replicas_are(what: str, key: str, value: str) -> None:
    """A name that can be looked up, a port, a scheme."""
    text = f"deployments: [{{replicas: {{{key}: {value}}}}}]"
    assert [f"f.yaml:1: deployments[0].replicas.{key}: {what}"] == _problems(text)


_REFERENCE = "write host and port, like 192.0.2.1:443 or [2001:db8::1]:443"


@pytest.mark.parametrize(
    ("what", "value"),
    [
        (f"has no port; {_REFERENCE}", "192.0.2.1"),
        (f"has no port; {_REFERENCE}", "gw.example.com"),
        (f"is malformed; {_REFERENCE}", '"gw.example.com:"'),
        (f"is malformed; {_REFERENCE}", '"gw.example.com:0"'),
        (f"is malformed; {_REFERENCE}", '"gw.example.com:65536"'),
        (f"is malformed; {_REFERENCE}", '":443"'),
        (f"is malformed; {_REFERENCE}", '"192.0.2:443"'),
        (f"is malformed; {_REFERENCE}", '"2001:db8::1:443"'),
        (f"is malformed; {_REFERENCE}", '"[2001:db8::1]"'),
        (f"is malformed; {_REFERENCE}", '"[fe80::1%eth0]:443"'),
        (f"is malformed; {_REFERENCE}", '"u:hunter2@gw:443"'),
        (f"is malformed; {_REFERENCE}", '"gw..example.com:443"'),
        (f"holds a scheme or a slash; {_REFERENCE}", "https://gw.example.com:443"),
        (f"holds a scheme or a slash; {_REFERENCE}", '"gw.example.com:443/"'),
        ("is a list; a text is wanted", "[gw]"),
        ("YAML reads this value as a number; put it in quotes", "443"),
    ],
)
def test_a_reference_address(what: str, value: str) -> None:
    """An address without a port, or with anything else, tells the wanted form."""
    assert [f"f.yaml:1: global.reference: {what}"] == _problems(f"global: {{reference: {value}}}")


@pytest.mark.parametrize(
    ("held", "value"),
    [
        ("192.0.2.1:443", '"192.0.2.1:443"'),
        ("[2001:db8::1]:53", '"[2001:DB8:0::1]:53"'),
        ("gw.example.com:22", "GW.example.com:22"),
    ],
)
def test_a_reference_address_is_held_as_it_is_connected_to(held: str, value: str) -> None:
    """Host and port, an IPv6 address in brackets."""
    tree = parse_yaml(f"global: {{reference: {value}}}")
    document = decode_document(tree)
    assert [] == tree.problems
    assert document.global_ is not None
    assert held == document.global_.reference
