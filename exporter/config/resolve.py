"""From the document to the Config: what is inherited is filled in, what keys say about one another
is checked, and the files that they name are read.

Problems are collected, not raised; a check that needs a broken key is left out.
"""

from __future__ import annotations

import re
import ssl
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from exporter.config import files, model
from exporter.config.decode import find_line
from exporter.config.document import (
    MAX_NAME_CHARACTERS,
    AccessURLKeys,
    Database,
    Deployment,
    Document,
    Global,
    SectionKeys,
    Sections,
    Settle,
    StaticProxy,
)
from exporter.config.durations import format_duration
from exporter.config.problems import KeyPath, Problem, escape, format_path
from exporter.errors import WireError
from exporter.health.model import Section
from exporter.health.settle import Policy
from exporter.log import mask
from exporter.secret import Secret
from exporter.wire.postgres_url import PostgresURLError, parse_postgres_url
from exporter.wire.url import parse_origin

# Source: coder-interfaces, section 2.8: ten characters, a hyphen, 22 characters.
_TOKEN_FORM = re.compile(r"[A-Za-z0-9]{10}-[A-Za-z0-9]{22}")
_URL_FORM = re.compile(r"[a-z]+://", re.IGNORECASE)
_VISIBLE_ASCII = re.compile(r"[\x21-\x7e]+")
# lone surrogates are what Python makes of bytes in the environment that are not UTF-8
_CONTROL = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")

_Value = TypeVar("_Value")


@dataclass(slots=True, kw_only=True)
class Origin:
    """Where values came from.

    `alone`: the environment, without a file. `variables`: paths that the environment filled in, with
    the variable's name. `folder`: what relative paths of the file are relative to. `file_mode`: the
    file's permission bits, 0 without a file.
    """

    lines: Mapping[KeyPath, int]
    broken: set[KeyPath]
    alone: bool = False
    variables: dict[KeyPath, str] = field(default_factory=dict)
    folder: Path = Path()
    file_mode: int = 0


@dataclass(frozen=True, slots=True)
class _Interval:
    """`origin`: words that say who wrote it; None when what was written cannot be read."""

    seconds: float
    origin: str | None


class Resolver:
    """One pass over a document. `problems` and `warnings` are in the order of the file's parts."""

    def __init__(self, origin: Origin) -> None:
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []
        self._origin = origin
        self._global = Global()
        self._proxy_names: dict[KeyPath, str] = {}
        self._first_use: dict[tuple[str, ...], KeyPath] = {}

    def resolve(self, document: Document) -> tuple[model.DeploymentConfig, ...]:
        """Return the deployments; they are complete only when there are no problems."""
        self._global = document.global_ or Global()
        self._check_global_timeout()
        listed = document.deployments or []
        if not listed and not self._broken(()) and not self._broken(("deployments",)):
            self._refuse(("deployments",), "is missing or empty; list at least one deployment with name and url")
        deployments = [self._deployment(("deployments", index), keys) for index, keys in enumerate(listed)]
        return tuple(deployment for deployment in deployments if deployment is not None)

    # what is wrong, and where

    def _refuse(self, path: KeyPath, text: str) -> None:
        self.problems.append(Problem(path=path, line=find_line(self._origin.lines, path), text=text))

    def _warn(self, path: KeyPath, text: str) -> None:
        self.warnings.append(Problem(path=path, line=find_line(self._origin.lines, path), text=text))

    def _broken(self, path: KeyPath) -> bool:
        return path in self._origin.broken

    def _broken_within(self, path: KeyPath, *keys: str) -> bool:
        return self._broken(path) or any(self._broken((*path, key)) for key in keys)

    def _exclude(self, path: KeyPath, keys: object, name: str) -> bool:
        """Refuse a key that stands beside its `_file` twin; say whether exactly one is there."""
        twin = f"{name}_file"
        both = getattr(keys, name) is not None and getattr(keys, twin) is not None
        if both:
            self._refuse((*path, twin), f"stands beside {name}; keep one of them")
        return not both and not self._broken_within(path, name, twin)

    def _in_file(self, path: KeyPath, file: Path, read: Callable[[Path], _Value]) -> tuple[Path, _Value | None]:
        """Find a file and read it; a path of the environment begins at the working directory."""
        from_file = not self._origin.alone and path not in self._origin.variables
        located = self._origin.folder / file if from_file else file
        try:
            return located, read(located)
        except files.Unreadable as error:
            hint = "; a relative path begins at the configuration's folder" if from_file and error.missing else ""
            self._refuse(path, f"the file {error}{hint if not file.is_absolute() else ''}")
            return located, None

    # deployments

    def _deployment(self, path: KeyPath, keys: Deployment) -> model.DeploymentConfig | None:
        if self._broken(path):
            return None
        url = self._url((*path, "url"), keys.url)
        url_file = self._access_url_file(path, keys)
        name = self._name(path, keys.name, url)
        sections = keys.sections or Sections()
        ca_file = keys.tls.ca_file if keys.tls is not None else None
        return model.DeploymentConfig(
            name=name,
            url=url,
            url_file=url_file,
            session_token=self._session_token(path, keys),
            deployment_id=keys.deployment_id,
            ca_file=self._certificates((*path, "tls", "ca_file"), ca_file),
            database=self._database((*path, "database"), keys.database),
            access_url=self._section(path, Section.ACCESS_URL, sections.access_url, model.AccessURLSectionConfig),
            websocket=self._section(path, Section.WEBSOCKET, sections.websocket),
            database_section=self._section(path, Section.DATABASE, sections.database),
            workspace_proxy=self._section(path, Section.WORKSPACE_PROXY, sections.workspace_proxy),
            static_proxies=self._proxies((*path, "workspace_proxies", "static"), name, keys),
        )

    def _name(self, path: KeyPath, name: str | None, url: str | None) -> str:
        if name is None:
            if self._origin.alone:
                # without a file: the URL's host, as the contract has it
                return parse_origin(url).host[:MAX_NAME_CHARACTERS] if url is not None else ""
            if not self._broken((*path, "name")):
                self._refuse((*path, "name"), "is missing; it becomes the label `deployment`")
            return ""
        self._check_first_use((*path, "name"), ("deployment", name))
        return name

    def _check_first_use(self, path: KeyPath, use: tuple[str, ...]) -> None:
        first = self._first_use.setdefault(use, path)
        if first != path:
            where = format_path(first)
            self._refuse(path, f"{_show(use[-1])} is used before, by {where}; names are unique")

    def _url(self, path: KeyPath, text: str | None) -> str | None:
        if text is None:
            return None
        parts = urlsplit(text)
        if parts.path.strip("/") or parts.query or parts.fragment:
            self._warn(path, "has a path, query or fragment, which is dropped: only scheme, host and port count")
        return str(parse_origin(text))

    def _proxy_url(self, path: KeyPath, text: str | None) -> str | None:
        """A proxy may live below a path, which Coder keeps; a query or fragment means nothing."""
        if text is None:
            return None
        parts = urlsplit(text)
        if parts.query or parts.fragment:
            self._warn(path, "has a query or fragment, which is dropped")
        return f"{parse_origin(text)}{parts.path.rstrip('/')}"

    def _access_url_file(self, path: KeyPath, keys: Deployment) -> Path | None:
        exclusive = self._exclude(path, keys, "url")
        if keys.url_file is None:
            if keys.url is None and exclusive:
                if self._origin.alone:
                    self._refuse((*path, "url"), "is not set; set it to the access URL, like https://coder.example.com")
                else:
                    self._refuse((*path, "url"), "is missing; write the access URL, or url_file")
            return None
        key = (*path, "url_file")
        # what is in it is judged at run time: it may be mended while the exporter runs
        return self._in_file(key, keys.url_file, files.check_readable)[0]

    def _session_token(self, path: KeyPath, keys: Deployment) -> Secret | None:
        if not self._exclude(path, keys, "session_token"):
            return None
        key, token = self._secret(path, "session_token", keys.session_token, keys.session_token_file)
        if token is None:
            return None
        if not _VISIBLE_ASCII.fullmatch(token):
            self._refuse(key, "the token holds a space, a control character or a letter beyond ASCII; write it bare")
            return None
        if not _TOKEN_FORM.fullmatch(token):
            self._warn(key, "the token does not look like one of Coder's: 10 characters, a hyphen, 22 characters")
        return Secret(token)

    def _secret(self, path: KeyPath, name: str, inline: Secret | None, file: Path | None) -> tuple[KeyPath, str | None]:
        """Return the key that holds the secret, and the secret stripped; None when there is none."""
        if file is None:
            key = (*path, name)
            if inline is None:
                return key, None
            if files.open_to_others(self._origin.file_mode) and key not in self._origin.variables:
                mode = _mode(self._origin.file_mode)
                self._warn(
                    key, f"is a secret in a file that others can read ({mode}); chmod it 600, or use {name}_file"
                )
            return key, inline.reveal().strip()
        key = (*path, f"{name}_file")
        located, content = self._in_file(key, file, partial(files.read_small_file, max_bytes=files.MAX_SECRET_BYTES))
        if content is None:
            return key, None
        if files.open_to_others(content.mode):
            self._warn(key, f"{files.show_path(located)} can be read by others ({_mode(content.mode)}); chmod it 600")
        secret = content.text.strip()
        if not secret:
            self._refuse(key, "the file is empty")
            return key, None
        return key, secret

    def _certificates(self, path: KeyPath, file: Path | None) -> Path | None:
        if file is None:
            return None
        read = partial(files.read_small_file, max_bytes=files.MAX_CERTIFICATES_BYTES)
        located, content = self._in_file(path, file, read)
        if content is not None:
            try:
                ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=content.text)
            except (ssl.SSLError, ValueError):
                self._refuse(path, "the file holds no PEM certificates that can be read")
        return located

    def _database(self, path: KeyPath, keys: Database | None) -> model.DatabaseConfig | None:
        if keys is None or not self._exclude(path, keys, "url"):
            return None
        key, text = self._secret(path, "url", keys.url, keys.url_file)
        if text is None:
            if keys.url is None and keys.url_file is None:
                self._refuse((*path, "url"), "is missing; write url_file or url, or remove `database`")
            return None
        if not self._check_database_url(key, text):
            return None
        return model.DatabaseConfig(
            url=Secret(text),
            **_given(
                latency_threshold_seconds=keys.latency_threshold,
                fresh_connection_interval_seconds=keys.fresh_connection_interval,
            ),
        )

    def _check_database_url(self, path: KeyPath, text: str) -> bool:
        """Refuse or warn without quoting any of it, save the names of parameters."""
        if _CONTROL.search(text) or (_URL_FORM.match(text) and any(char.isspace() for char in text)):
            what = "the database URL holds a space, a line break or a control character"
            self._refuse(path, f"{what}; write those as %20 and the like")
            return False
        try:
            url = parse_postgres_url(text)
        except PostgresURLError as error:
            for problem in error.problems:
                self._refuse(path, problem)
            return False
        except WireError as error:
            self._refuse(path, str(error))
            return False
        for name, file in (
            ("sslrootcert", url.tls.root_certificate if url.tls.root_certificate != "system" else None),
            ("sslcert", url.tls.certificate),
            ("sslkey", url.tls.key),
            ("sslcrl", url.tls.revocation_list),
        ):
            if file is not None and not Path(file).is_file():
                self._refuse(path, f"the file that {name} of the database URL names is not there")
        if url.ignored:
            self._warn(path, f"the database URL has parameters that mean nothing here: {', '.join(url.ignored)}")
        return True

    # sections

    def _check_global_timeout(self) -> None:
        timeout = self._global.timeout
        if timeout is not None:
            self._check_timeout(("global", "timeout"), timeout, self._global_interval())

    def _check_timeout(self, path: KeyPath, timeout: float, interval: _Interval) -> None:
        if timeout > interval.seconds and interval.origin is not None:
            limit = format_duration(interval.seconds)
            text = f"{format_duration(timeout)} is longer than the interval {limit} {interval.origin}; at most {limit}"
            self._refuse(path, text)

    def _global_interval(self) -> _Interval:
        if self._global.interval is not None:
            return _Interval(self._global.interval, "of global.interval")
        broken = self._broken_within(("global",), "interval")
        return _Interval(model.DEFAULT_INTERVAL_SECONDS, None if broken else "that is the default")

    def _section_interval(self, path: KeyPath, written: float | None) -> _Interval:
        if written is not None:
            return _Interval(written, "written here")
        inherited = self._global_interval()
        return _Interval(inherited.seconds, None) if self._broken((*path, "interval")) else inherited

    def _section(
        self,
        path: KeyPath,
        section: Section,
        keys: SectionKeys | None,
        kind: type[_SectionConfig] = model.SectionConfig,  # type: ignore[assignment]
    ) -> _SectionConfig:
        keys = keys or SectionKeys()
        path = (*path, "sections", section.value)
        interval = self._section_interval(path, keys.interval)
        certificates: dict[str, Any] = {}
        if isinstance(keys, AccessURLKeys):
            certificates = self._certificate_limits(path, keys)
        return kind(
            **_given(enabled=keys.enabled),
            interval_seconds=interval.seconds,
            timeout_seconds=self._timeout(path, section, keys.timeout, interval),
            settle=_merge_settle(self._global.settle, keys.settle),
            **certificates,
        )

    def _timeout(self, path: KeyPath, section: Section, written: float | None, interval: _Interval) -> float:
        """Return section key, else section default, else global; what nobody wrote gives way to the interval."""
        if written is None:
            default = model.SECTION_TIMEOUT_SECONDS.get(section, self._global.timeout or model.DEFAULT_TIMEOUT_SECONDS)
            # a run that hangs should be over before its next tick
            return min(default, 0.9 * interval.seconds)
        self._check_timeout((*path, "timeout"), written, interval)
        return written

    def _certificate_limits(self, path: KeyPath, keys: AccessURLKeys) -> dict[str, Any]:
        limits = _given(
            certificate_warning_seconds=keys.certificate_warning, certificate_error_seconds=keys.certificate_error
        )
        resolved = model.AccessURLSectionConfig(**limits)
        warning, error = resolved.certificate_warning_seconds, resolved.certificate_error_seconds
        if error > warning and not self._broken_within(path, "certificate_warning", "certificate_error"):
            key = "certificate_error" if keys.certificate_error is not None else "certificate_warning"
            text = f"an error from {format_duration(error)} on would come before the warning from "
            self._refuse((*path, key), f"{text}{format_duration(warning)} on; certificate_error is the shorter one")
        return limits

    # workspace proxies

    def _proxies(self, path: KeyPath, deployment: str, keys: Deployment) -> tuple[model.ProxyConfig, ...]:
        listed = (keys.workspace_proxies and keys.workspace_proxies.static) or []
        proxies = [self._proxy((*path, index), deployment, proxy) for index, proxy in enumerate(listed)]
        return tuple(proxy for proxy in proxies if proxy is not None)

    def _proxy(self, path: KeyPath, deployment: str, keys: StaticProxy) -> model.ProxyConfig | None:
        if self._broken(path):
            return None
        if keys.name is None and not self._broken((*path, "name")):
            self._refuse((*path, "name"), "is missing; it becomes the label `proxy`")
        if keys.url is None and not self._broken((*path, "url")):
            self._refuse((*path, "url"), "is missing; write the proxy's access URL")
        url = self._proxy_url((*path, "url"), keys.url)
        if keys.name is not None:
            self._check_first_use((*path, "name"), ("proxy", format_path(path[:2]), keys.name))
        if keys.name is None or url is None or not deployment:
            return None
        known_as = f"{deployment}/{keys.name}"
        proxy_id = keys.id or str(uuid.uuid5(uuid.NAMESPACE_URL, known_as))
        self._proxy_names[path] = known_as
        first = self._first_use.setdefault(("id", proxy_id), path)
        if first != path and (keys.id is not None or self._proxy_names[first] != known_as):
            names = f"{_show(self._proxy_names[first])} and {_show(known_as)}"
            self._refuse((*path, "id"), f"{proxy_id} is the id of two proxies, {names}; ids are unique")
        return model.ProxyConfig(id=proxy_id, name=keys.name, url=url)


_SectionConfig = TypeVar("_SectionConfig", bound=model.SectionConfig)


def _given(**values: Any) -> dict[str, Any]:
    """Keep what was written; the rest keeps the default beside its field in model.py."""
    return {name: value for name, value in values.items() if value is not None}


def _merge_settle(*layers: Settle | None) -> Policy:
    """Lay single keys over the defaults, the last layer on top."""
    merged: dict[str, Any] = {}
    for keys in layers:
        if keys is not None:
            merged |= _given(
                raise_after=keys.raise_,
                clear_after=keys.clear,
                startup_grace_seconds=keys.startup_grace,
                version_grace_seconds=keys.version_grace,
            )
    return Policy(**merged)


def _mode(mode: int) -> str:
    return f"mode {mode:04o}"


def _show(name: str) -> str:
    return f'"{mask(escape(name))}"'
