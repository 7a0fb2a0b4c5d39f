"""From the document to the Config: what keys of a deployment say about one another is checked, and
the files that they name are read. Its sections are filled in by sections.py.
"""

from __future__ import annotations

import ipaddress
import re
import ssl
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from exporter.config import files, model
from exporter.config.document import (
    Database,
    Deployment,
    Document,
    Global,
    MaintenanceWindow,
    Replica,
    Replicas,
    Sections,
    StaticProxy,
)
from exporter.config.durations import WANTED as DURATION_WANTED
from exporter.config.notes import Notes, Origin, show_name
from exporter.config.problems import KeyPath, Problem, format_path
from exporter.config.sections import SectionResolver, given
from exporter.config.values import MAX_LISTED, MAX_NAME_CHARACTERS
from exporter.config.windows import WANTED as START_WANTED
from exporter.errors import WireError
from exporter.health.maintenance import OnceWindow, WeeklyWindow, Window
from exporter.health.model import Section
from exporter.health.replica import MAX_REPLICAS
from exporter.secret import Secret
from exporter.wire.postgres_url import PostgresURLError, parse_postgres_url
from exporter.wire.url import parse_origin

# Source: coder-interfaces, section 2.8: ten characters, a hyphen, 22 characters.
_TOKEN_FORM = re.compile(r"[A-Za-z0-9]{10}-[A-Za-z0-9]{22}")
_URL_FORM = re.compile(r"[a-z]+://", re.IGNORECASE)
_VISIBLE_ASCII = re.compile(r"[\x21-\x7e]+")
# lone surrogates are what Python makes of bytes in the environment that are not UTF-8
_CONTROL = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")


class Resolver:
    """One pass over a document. `problems` and `warnings` are in the order of the file's parts.

    Args:
        now: In seconds since 1970: windows that ended before are warned about.
    """

    def __init__(self, origin: Origin, *, now: float) -> None:
        self._origin = origin
        self._now = now
        self._notes = Notes(origin)
        self._sections = SectionResolver(self._notes, Global())
        self._proxy_names: dict[KeyPath, str] = {}

    @property
    def problems(self) -> list[Problem]:
        return self._notes.problems

    @property
    def warnings(self) -> list[Problem]:
        return self._notes.warnings

    def resolve(self, document: Document) -> tuple[model.DeploymentConfig, ...]:
        """Return the deployments; they are complete only when there are no problems."""
        self._sections = SectionResolver(self._notes, document.global_ or Global())
        self._sections.check_global()
        listed = document.deployments or []
        if not listed and not self._notes.broken(()) and not self._notes.broken(("deployments",)):
            text = "is missing or empty; list at least one deployment with name and url"
            self._notes.refuse(("deployments",), text)
        deployments = [self._deployment(("deployments", index), keys) for index, keys in enumerate(listed)]
        return tuple(deployment for deployment in deployments if deployment is not None)

    # deployments

    def _deployment(self, path: KeyPath, keys: Deployment) -> model.DeploymentConfig | None:
        if self._notes.broken(path):
            return None
        url = self._url((*path, "url"), keys.url)
        url_file = self._access_url_file(path, keys)
        name = self._name(path, keys.name, url)
        token, token_file = self._session_token(path, keys)
        sections = keys.sections or Sections()
        resolve = self._sections.resolve
        ca_file = keys.tls.ca_file if keys.tls is not None else None
        return model.DeploymentConfig(
            name=name,
            url=url,
            url_file=url_file,
            session_token=token,
            session_token_file=token_file,
            deployment_id=keys.deployment_id,
            ca_file=self._certificates((*path, "tls", "ca_file"), ca_file),
            database=self._database((*path, "database"), keys.database),
            access_url=resolve(path, Section.ACCESS_URL, sections.access_url, model.AccessURLSectionConfig),
            websocket=resolve(path, Section.WEBSOCKET, sections.websocket),
            database_section=resolve(path, Section.DATABASE, sections.database),
            derp=resolve(path, Section.DERP, sections.derp, model.DerpSectionConfig),
            workspace_proxy=resolve(path, Section.WORKSPACE_PROXY, sections.workspace_proxy),
            provisioner_daemons=resolve(
                path,
                Section.PROVISIONER_DAEMONS,
                sections.provisioner_daemons,
                model.ProvisionerDaemonsSectionConfig,
            ),
            direct_connections=resolve(
                path,
                Section.DIRECT_CONNECTIONS,
                sections.direct_connections,
                model.DirectConnectionsSectionConfig,
            ),
            report=resolve(path, Section.REPORT, sections.report, on_this_host=_is_on_this_host(url, url_file)),
            static_proxies=self._proxies((*path, "workspace_proxies", "static"), name, keys),
            replicas=self._replicas((*path, "replicas"), keys.replicas),
            replica_dns=self._replica_dns((*path, "replicas"), keys.replicas),
            **given(discover_replicas=keys.replicas and keys.replicas.discover),
            maintenance=self._maintenance((*path, "maintenance"), keys.maintenance or []),
        )

    def _name(self, path: KeyPath, name: str | None, url: str | None) -> str:
        if name is None:
            if self._origin.alone:
                # without a file: the URL's host, as the contract has it
                return parse_origin(url).host[:MAX_NAME_CHARACTERS] if url is not None else ""
            if not self._notes.broken((*path, "name")):
                self._notes.refuse((*path, "name"), "is missing; it becomes the label `deployment`")
            return ""
        self._notes.check_first_use((*path, "name"), "deployment", name)
        return name

    def _url(self, path: KeyPath, text: str | None) -> str | None:
        if text is None:
            return None
        parts = urlsplit(text)
        if parts.path.strip("/") or parts.query or parts.fragment:
            self._notes.warn(path, "has a path, query or fragment, which is dropped: only scheme, host and port count")
        return str(parse_origin(text))

    def _proxy_url(self, path: KeyPath, text: str | None) -> str | None:
        """A proxy may live below a path, which Coder keeps; a query or fragment means nothing."""
        if text is None:
            return None
        parts = urlsplit(text)
        if parts.query or parts.fragment:
            self._notes.warn(path, "has a query or fragment, which is dropped")
        return f"{parse_origin(text)}{parts.path.rstrip('/')}"

    def _access_url_file(self, path: KeyPath, keys: Deployment) -> Path | None:
        exclusive = self._notes.exclude(path, keys, "url")
        if keys.url_file is None:
            if keys.url is None and exclusive:
                if self._origin.alone:
                    self._notes.refuse(
                        (*path, "url"), "is not set; set it to the access URL, like https://coder.example.com"
                    )
                else:
                    self._notes.refuse((*path, "url"), "is missing; write the access URL, or url_file")
            return None
        key = (*path, "url_file")
        # what is in it is judged at run time: it may be mended while the exporter runs
        return self._notes.read_file(key, keys.url_file, files.check_readable)[0]

    def _session_token(self, path: KeyPath, keys: Deployment) -> tuple[Secret | None, Path | None]:
        """Return the written token, or the file, which holds a good one now and is read again at each use."""
        if not self._notes.exclude(path, keys, "session_token"):
            return None, None
        key, token = self._secret(path, "session_token", keys.session_token, keys.session_token_file)
        if token is None:
            return None, None
        if not _VISIBLE_ASCII.fullmatch(token):
            self._notes.refuse(
                key, "the token holds a space, a control character or a letter beyond ASCII; write it bare"
            )
            return None, None
        if not _TOKEN_FORM.fullmatch(token):
            self._notes.warn(key, "the token does not look like one of Coder's: 10 characters, a hyphen, 22 characters")
        if keys.session_token_file is not None:
            return None, self._notes.locate(key, keys.session_token_file)
        return Secret(token), None

    def _secret(self, path: KeyPath, name: str, inline: Secret | None, file: Path | None) -> tuple[KeyPath, str | None]:
        """Return the key that holds the secret, and the secret stripped; None when there is none."""
        if file is None:
            key = (*path, name)
            if inline is None:
                return key, None
            if files.open_to_others(self._origin.file_mode) and key not in self._origin.variables:
                mode = _mode(self._origin.file_mode)
                self._notes.warn(
                    key, f"is a secret in a file that others can read ({mode}); chmod it 600, or use {name}_file"
                )
            return key, inline.reveal().strip()
        key = (*path, f"{name}_file")
        located, content = self._notes.read_file(
            key, file, partial(files.read_small_file, max_bytes=files.MAX_SECRET_BYTES)
        )
        if content is None:
            return key, None
        if files.open_to_others(content.mode):
            self._notes.warn(
                key, f"{files.show_path(located)} can be read by others ({_mode(content.mode)}); chmod it 600"
            )
        secret = content.text.strip()
        if not secret:
            self._notes.refuse(key, "the file is empty")
            return key, None
        return key, secret

    def _certificates(self, path: KeyPath, file: Path | None) -> Path | None:
        if file is None:
            return None
        read = partial(files.read_small_file, max_bytes=files.MAX_CERTIFICATES_BYTES)
        located, content = self._notes.read_file(path, file, read)
        if content is not None:
            try:
                ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=content.text)
            except (ssl.SSLError, ValueError):
                self._notes.refuse(path, "the file holds no PEM certificates that can be read")
        return located

    def _database(self, path: KeyPath, keys: Database | None) -> model.DatabaseConfig | None:
        if keys is None or not self._notes.exclude(path, keys, "url"):
            return None
        key, text = self._secret(path, "url", keys.url, keys.url_file)
        if text is None:
            if keys.url is None and keys.url_file is None:
                self._notes.refuse((*path, "url"), "is missing; write url_file or url, or remove `database`")
            return None
        if not self._check_database_url(key, text):
            return None
        return model.DatabaseConfig(
            url=Secret(text),
            **given(
                latency_threshold_seconds=keys.latency_threshold,
                fresh_connection_interval_seconds=keys.fresh_connection_interval,
            ),
        )

    def _check_database_url(self, path: KeyPath, text: str) -> bool:
        """Refuse or warn without quoting any of it, save the names of parameters."""
        if _CONTROL.search(text) or (_URL_FORM.match(text) and any(char.isspace() for char in text)):
            what = "the database URL holds a space, a line break or a control character"
            self._notes.refuse(path, f"{what}; write those as %20 and the like")
            return False
        try:
            url = parse_postgres_url(text)
        except PostgresURLError as error:
            for problem in error.problems:
                self._notes.refuse(path, problem)
            return False
        except WireError as error:
            self._notes.refuse(path, str(error))
            return False
        for name, file in (
            ("sslrootcert", url.tls.root_certificate if url.tls.root_certificate != "system" else None),
            ("sslcert", url.tls.certificate),
            ("sslkey", url.tls.key),
            ("sslcrl", url.tls.revocation_list),
        ):
            if file is not None and not Path(file).is_file():
                self._notes.refuse(path, f"the file that {name} of the database URL names is not there")
        if url.ignored:
            self._notes.warn(path, f"the database URL has parameters that mean nothing here: {', '.join(url.ignored)}")
        return True

    # workspace proxies

    def _proxies(self, path: KeyPath, deployment: str, keys: Deployment) -> tuple[model.ProxyConfig, ...]:
        listed = (keys.workspace_proxies and keys.workspace_proxies.static) or []
        proxies = [self._proxy((*path, index), deployment, proxy) for index, proxy in enumerate(listed)]
        return tuple(proxy for proxy in proxies if proxy is not None)

    def _proxy(self, path: KeyPath, deployment: str, keys: StaticProxy) -> model.ProxyConfig | None:
        if self._notes.broken(path):
            return None
        if keys.name is None and not self._notes.broken((*path, "name")):
            self._notes.refuse((*path, "name"), "is missing; it becomes the label `proxy`")
        if keys.url is None and not self._notes.broken((*path, "url")):
            self._notes.refuse((*path, "url"), "is missing; write the proxy's access URL")
        url = self._proxy_url((*path, "url"), keys.url)
        if keys.name is not None:
            self._notes.check_first_use((*path, "name"), "proxy", format_path(path[:2]), keys.name)
        if keys.name is None or url is None or not deployment:
            return None
        known_as = f"{deployment}/{keys.name}"
        proxy_id = keys.id or str(uuid.uuid5(uuid.NAMESPACE_URL, known_as))
        self._proxy_names[path] = known_as
        first = self._notes.find_first_use(path, "id", proxy_id)
        if first != path and (keys.id is not None or self._proxy_names[first] != known_as):
            names = f"{show_name(self._proxy_names[first])} and {show_name(known_as)}"
            self._notes.refuse((*path, "id"), f"{proxy_id} is the id of two proxies, {names}; ids are unique")
        return model.ProxyConfig(id=proxy_id, name=keys.name, url=url)

    # replicas

    def _replicas(self, path: KeyPath, keys: Replicas | None) -> tuple[model.ReplicaConfig, ...]:
        if keys is None:
            return ()
        if all(getattr(keys, name) is None for name in ("urls", "dns", "discover")) and not self._notes.broken_within(
            path, "urls", "dns", "discover"
        ):
            text = "is missing; write dns, or list the URLs of the replicas, or remove `replicas`"
            self._notes.refuse((*path, "urls"), text)
        if len(keys.urls or []) > MAX_REPLICAS:
            self._notes.refuse((*path, "urls"), f"lists {len(keys.urls or [])}; at most {MAX_REPLICAS}")
            return ()
        replicas = [self._replica((*path, "urls", index), replica) for index, replica in enumerate(keys.urls or [])]
        return tuple(replica for replica in replicas if replica is not None)

    def _replica_dns(self, path: KeyPath, keys: Replicas | None) -> model.ReplicaDNSConfig | None:
        if keys is None or self._notes.broken((*path, "dns")):
            return None
        if keys.dns is None:
            for name in ("port", "scheme"):
                if getattr(keys, name) is not None:
                    self._notes.refuse((*path, name), "means nothing without dns; remove it")
            return None
        if keys.urls is not None:
            self._notes.refuse((*path, "dns"), "stands beside urls; keep one of them")
            return None
        service = keys.dns.startswith("_")
        if service and keys.port is not None:
            self._notes.refuse((*path, "port"), "stands beside a dns that is asked for SRV, which tells it; remove it")
        if not service and keys.port is None and not self._notes.broken((*path, "port")):
            text = "is missing; write the port on which each replica answers, like 8080"
            self._notes.refuse((*path, "port"), text)
        return model.ReplicaDNSConfig(name=keys.dns, port=keys.port, **given(scheme=keys.scheme))

    def _replica(self, path: KeyPath, keys: Replica) -> model.ReplicaConfig | None:
        if self._notes.broken(path):
            return None
        if keys.url is None:
            if not self._notes.broken((*path, "url")):
                self._notes.refuse((*path, "url"), "is missing; write the replica's own URL")
            return None
        deployment = format_path(path[:2])
        url = self._url(path, keys.url)
        first = self._notes.find_first_use(path, "replica URL", deployment, str(url))
        if first != path:
            self._notes.refuse(path, f"has the same URL as {format_path(first)}; list each replica once")
            return None
        if keys.name is None and self._notes.broken((*path, "name")):
            return None
        name = keys.name or _name_replica(keys.url)
        where = (*path, "name") if keys.name is not None else path
        self._notes.check_first_use(where, "replica", deployment, name)
        return model.ReplicaConfig(name=name, url=str(url))

    # maintenance

    def _maintenance(self, path: KeyPath, listed: Sequence[MaintenanceWindow]) -> tuple[Window, ...]:
        if len(listed) > MAX_LISTED:
            self._notes.refuse(path, f"lists {len(listed)} windows; at most {MAX_LISTED}")
            return ()
        windows = [self._window((*path, index), keys) for index, keys in enumerate(listed)]
        return tuple(window for window in windows if window is not None)

    def _window(self, path: KeyPath, keys: MaintenanceWindow) -> Window | None:
        if self._notes.broken(path):
            return None
        if keys.start is None and not self._notes.broken((*path, "start")):
            self._notes.refuse((*path, "start"), f"is missing; {START_WANTED}")
        if keys.duration is None and not self._notes.broken((*path, "duration")):
            self._notes.refuse((*path, "duration"), f"is missing; {DURATION_WANTED}")
        if keys.start is None or keys.duration is None:
            return None
        if not isinstance(keys.start, datetime):
            return WeeklyWindow(
                weekday=keys.start.weekday,
                hour=keys.start.hour,
                minute=keys.start.minute,
                zone=keys.timezone or UTC,
                duration_seconds=keys.duration,
            )
        if keys.timezone is not None:
            self._notes.warn((*path, "timezone"), "means nothing beside a start that has its own offset; remove it")
        window = OnceWindow(start=keys.start, duration_seconds=keys.duration)
        if window.end_timestamp_seconds <= self._now:
            self._notes.warn(path, "is over and does not come again; remove it")
        return window


def _name_replica(url: str) -> str:
    """Return host and port; the name of a pod is at the beginning, where nothing is cut off."""
    origin = parse_origin(url)
    host = f"[{origin.host}]" if ":" in origin.host else origin.host
    return f"{host}:{origin.port}"[:MAX_NAME_CHARACTERS]


def _is_on_this_host(url: str | None, url_file: Path | None) -> bool:
    """Whether the access URL, as it is now, is an address of this host's loopback."""
    try:
        text = url if url is not None else files.read_small_file(url_file, max_bytes=4096).text if url_file else ""
        host = parse_origin(text.strip()).host
    except (files.Unreadable, WireError):
        return False
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _mode(mode: int) -> str:
    return f"mode {mode:04o}"
