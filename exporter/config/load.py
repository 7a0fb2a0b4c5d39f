"""From a file and the environment to the Config; the public side of this package.

Both go the same way: text -> values with lines (yaml_nodes) -> environment laid over them (here) ->
keys (decode, document, values) -> inherited, compared and read (resolve, sections) -> Config. Nothing
that leaves, as result or error, shows a secret.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from exporter.clock import Clock, SystemClock
from exporter.config.decode import decode_document, find_line
from exporter.config.files import MAX_CONFIG_BYTES, Unreadable, read_small_file, show_path
from exporter.config.model import Config
from exporter.config.notes import Origin
from exporter.config.problems import KeyPath, Problem, format_path
from exporter.config.resolve import Resolver
from exporter.config.show import defaults_yaml, redacted, reference
from exporter.config.yaml_nodes import Tree, parse_yaml
from exporter.errors import ConfigError

__all__ = ["VARIABLES", "defaults_yaml", "load_config", "redacted", "reference"]

# Coder's own names, and below a deployment the key that each one fills in.
VARIABLES: Mapping[str, tuple[str, ...]] = {
    "CODER_HEALTH_DEPLOYMENT": ("name",),
    "CODER_URL": ("url",),
    "CODER_SESSION_TOKEN": ("session_token",),
    "CODER_SESSION_TOKEN_FILE": ("session_token_file",),
    "CODER_PG_CONNECTION_URL": ("database", "url"),
    "CODER_PG_CONNECTION_URL_FILE": ("database", "url_file"),
}
_FIRST: KeyPath = ("deployments", 0)
_NAMES: Mapping[KeyPath, str] = {(*_FIRST, *keys): name for name, keys in VARIABLES.items()}
_ENVIRONMENT = "environment"
_NOTHING = (
    "no configuration: set CODER_URL to the access URL of a Coder deployment, or name a file with --config.file "
    "(--config.print-defaults writes one)"
)
_MAX_PROBLEMS = 1000
_CLOCK = SystemClock()


def load_config(path: Path | None, environ: Mapping[str, str], *, clock: Clock = _CLOCK) -> Config:
    """Return the configuration of a file, of the environment, or of a file that the environment completes.

    Args:
        path: None: the environment alone.
        environ: Only the names in VARIABLES are looked at; an empty or blank value counts as not set.
        clock: Tells which maintenance windows are over.

    Raises:
        ConfigError: With every problem at once, one line each, sorted by line.
    """
    given = {name: value.strip() for name in VARIABLES if (value := environ.get(name, "")).strip()}
    if path is None:
        if not given:
            raise ConfigError([_NOTHING])
        tree = Tree(value={"deployments": [{}]})
        origin = Origin(lines=tree.lines, broken=tree.broken, alone=True)
        return _finish(_ENVIRONMENT, tree, origin, given, clock)
    source = show_path(path)
    try:
        file = read_small_file(path, MAX_CONFIG_BYTES)
    except Unreadable as error:
        problem = f"{source}: {error}"
    else:
        tree = parse_yaml(file.text)
        origin = Origin(lines=tree.lines, broken=tree.broken, folder=path.parent, file_mode=file.mode)
        return _finish(source, tree, origin, given, clock)
    raise ConfigError([problem])


def _finish(source: str, tree: Tree, origin: Origin, given: Mapping[str, str], clock: Clock) -> Config:
    clashes = _lay_over(source, tree, origin, given)
    document = decode_document(tree)
    resolver = Resolver(origin, now=clock.now())
    deployments = resolver.resolve(document)
    problems = _render(source, origin, [*tree.problems, *resolver.problems]) + clashes
    if problems:
        shown = problems[:_MAX_PROBLEMS]
        if len(problems) > len(shown):
            shown.append(f"and {len(problems) - len(shown)} more")
        raise ConfigError(shown)
    warnings = _render(source, origin, resolver.warnings)
    reference = document.global_.reference if document.global_ is not None else None
    return Config(deployments=deployments, reference=reference, warnings=tuple(warnings), source=source)


def _render(source: str, origin: Origin, problems: Iterable[Problem]) -> list[str]:
    rendered = []
    for problem in sorted(problems, key=lambda problem: problem.line or 0):
        variable = (_NAMES if origin.alone else origin.variables).get(problem.path)
        rendered.append(f"{variable}: {problem.text}" if variable is not None else problem.render(source))
    return rendered


def _lay_over(source: str, tree: Tree, origin: Origin, given: Mapping[str, str]) -> list[str]:
    """Put what the environment gives into the tree of a single deployment; return what clashes."""
    if not given or not isinstance(tree.value, dict):
        return []
    listed = tree.value.get("deployments")
    if isinstance(listed, list) and len(listed) != 1:
        return [
            f"{name}: is set, but {source} lists {len(listed)} deployments, and the environment can complete "
            "only a single one; unset the variable"
            for name in given
        ]
    if not isinstance(listed, list) or not isinstance(listed[0], dict):
        return []  # told already: the file itself is wrong there
    clashes = []
    for name, value in given.items():
        clash = _find_clash(source, tree, given, name)
        if clash is not None:
            clashes.append(f"{name}: {clash}")
        else:
            _fill_in(tree, origin, name, value)
    return clashes


def _find_clash(source: str, tree: Tree, given: Mapping[str, str], name: str) -> str | None:
    path = (*_FIRST, *VARIABLES[name])
    twin = name.removesuffix("_FILE") if name.endswith("_FILE") else f"{name}_FILE"
    if twin in given:
        # both are left out, and nothing is said to be missing
        tree.broken.add(path)
        return f"is set, and {twin} too; unset one of them"
    for key in _twins(path):
        if _has(tree.value, key) or key in tree.broken:
            where = f"{format_path(key)} ({source}:{find_line(tree.lines, key)})"
            return f"clashes with {where}; unset the variable, or remove the key"
    return None


def _twins(path: KeyPath) -> tuple[KeyPath, ...]:
    key = str(path[-1])
    if key == "name":
        return (path,)
    stem = key.removesuffix("_file")
    return (*path[:-1], stem), (*path[:-1], f"{stem}_file")


def _has(value: object, path: KeyPath) -> bool:
    for step in path:
        if isinstance(value, dict):
            value = value.get(step)
        elif isinstance(value, list) and isinstance(step, int) and step < len(value):
            value = value[step]
        else:
            return False
    return value is not None


def _fill_in(tree: Tree, origin: Origin, name: str, value: str) -> None:
    *parents, key = VARIABLES[name]
    target = tree.value["deployments"][0]  # type: ignore[index]
    for parent in parents:
        target = target.setdefault(parent, {})
        if not isinstance(target, dict):
            return  # told by decode_document
    target[key] = value
    origin.variables[(*_FIRST, *VARIABLES[name])] = name
