"""`python -m exporter.demo`: the command `demo` by itself."""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn

from exporter.demo import command

_USAGE_ERROR = 3


class _Parser(argparse.ArgumentParser):
    """Usage errors end as those of the command do."""

    def error(self, message: str) -> NoReturn:
        self.exit(_USAGE_ERROR, f"{self.prog}: {message}; see {self.prog} --help\n")


def main() -> int:
    parser = _Parser(
        prog="python -m exporter.demo",
        description="A simulated Coder deployment with real protocols, and the exporter pointed at it.",
        allow_abbrev=False,
    )
    command.add_arguments(parser)
    return command.main(parser.parse_args(), parser)


if __name__ == "__main__":
    sys.exit(main())
