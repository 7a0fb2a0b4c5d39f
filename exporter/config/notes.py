"""What is found wrong while the document is resolved, and where what it says came from.

Problems are collected, not raised, so that all are told at once; a check that needs a broken key is
left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from exporter.config import files
from exporter.config.decode import find_line
from exporter.config.problems import KeyPath, Problem, escape, format_path
from exporter.secret import mask

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


class Notes:
    """`problems` and `warnings` are in the order in which they were found."""

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []
        self._first_use: dict[tuple[str, ...], KeyPath] = {}

    def refuse(self, path: KeyPath, text: str) -> None:
        self.problems.append(Problem(path=path, line=find_line(self.origin.lines, path), text=text))

    def warn(self, path: KeyPath, text: str) -> None:
        self.warnings.append(Problem(path=path, line=find_line(self.origin.lines, path), text=text))

    def broken(self, path: KeyPath) -> bool:
        return path in self.origin.broken

    def broken_within(self, path: KeyPath, *keys: str) -> bool:
        return self.broken(path) or any(self.broken((*path, key)) for key in keys)

    def exclude(self, path: KeyPath, keys: object, name: str) -> bool:
        """Refuse a key that stands beside its `_file` twin; say whether exactly one is there."""
        twin = f"{name}_file"
        both = getattr(keys, name) is not None and getattr(keys, twin) is not None
        if both:
            self.refuse((*path, twin), f"stands beside {name}; keep one of them")
        return not both and not self.broken_within(path, name, twin)

    def locate(self, path: KeyPath, file: Path) -> Path:
        """Return where a file is; a path of the environment begins at the working directory."""
        return self.origin.folder / file if self._is_from_file(path) else file

    def _is_from_file(self, path: KeyPath) -> bool:
        return not self.origin.alone and path not in self.origin.variables

    def read_file(self, path: KeyPath, file: Path, read: Callable[[Path], _Value]) -> tuple[Path, _Value | None]:
        """Find a file and read it."""
        located = self.locate(path, file)
        try:
            return located, read(located)
        except files.Unreadable as error:
            within = self._is_from_file(path) and error.missing
            hint = "; a relative path begins at the configuration's folder" if within else ""
            self.refuse(path, f"the file {error}{hint if not file.is_absolute() else ''}")
            return located, None

    def find_first_use(self, path: KeyPath, *use: str) -> KeyPath:
        """Return where something that must be unique stands first: here, when nowhere before."""
        return self._first_use.setdefault(use, path)

    def check_first_use(self, path: KeyPath, *use: str) -> None:
        """Refuse a name that was used before; what `use` begins with says among which."""
        first = self.find_first_use(path, *use)
        if first != path:
            self.refuse(path, f"{show_name(use[-1])} is used before, by {format_path(first)}; names are unique")


def show_name(name: str) -> str:
    return f'"{mask(escape(name))}"'
