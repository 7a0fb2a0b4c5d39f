"""The sections that are known: their codes stand on /metrics before anything is measured, and leave with
the last target that tells of them.

In: what is planned, and the targets that come and go. Out: sections declared to snapshot and board.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from exporter.health import codes
from exporter.health.model import REPORT_SECTIONS, OffReason, Section, Witness
from exporter.health.settle import Policy
from exporter.metrics.board import Board
from exporter.snapshot import Snapshot
from exporter.targets.model import ReplicaTarget, ReportTarget, SectionKey, Target


class Declared:
    """What is planned is known for good; the rest as long as somebody tells of it.

    Args:
        policies: How the planned sections settle.
        off: Why one of them is off from the start.
        report_policies: By deployment, how what Coder's report says settles.
    """

    def __init__(
        self,
        policies: Mapping[SectionKey, Policy],
        *,
        off: Mapping[SectionKey, OffReason],
        report_policies: Mapping[str, Policy],
        snapshot: Snapshot,
        board: Board,
    ) -> None:
        self._policies = policies
        self._report_policies = report_policies
        self._snapshot = snapshot
        self._board = board
        self._found: dict[SectionKey, set[str]] = {}
        for key, policy in policies.items():
            snapshot.declare(key, codes.section_codes(key.section, key.witness), policy)
            board.declare(key, off.get(key))

    def add_target(self, target: Target) -> None:
        """Make known the sections that a target found later tells of."""
        for key in _tell_sections(target):
            self.add(key, target.schedule_name)

    def add(self, key: SectionKey, schedule_name: str) -> None:
        """Make known one section that a schedule entry tells of."""
        if key in self._policies:
            return
        if key not in self._found:
            self._snapshot.declare(key, codes.section_codes(key.section, key.witness), self._policy(key))
            self._board.declare(key)
        self._found.setdefault(key, set()).add(schedule_name)

    def remove_target(self, schedule_name: str) -> None:
        """Forget the sections of which nobody tells any more: of a replica that is gone, say."""
        for key, names in list(self._found.items()):
            names.discard(schedule_name)
            if not names:
                self._forget(key)

    def forget_unreported(self, keys: Iterable[SectionKey]) -> None:
        """Forget sections unknown to us that the report in hand does not tell of any more."""
        for key in keys:
            if not isinstance(key.section, Section) and not self._snapshot.sections[key].entry_count:
                self._forget(key)

    def _forget(self, key: SectionKey) -> None:
        self._found.pop(key, None)
        self._board.forget_section(key)
        self._snapshot.forget_section(key)

    def _policy(self, key: SectionKey) -> Policy:
        if key.witness is Witness.REPORT or key.section == Section.REPORT:
            return self._report_policies[key.deployment]
        return self._policies[key._replace(coder_replica="")]


def _tell_sections(target: Target) -> Iterator[SectionKey]:
    """Return the sections that a target tells of, beside that of its deployment as a whole."""
    if isinstance(target, ReportTarget):
        for section in REPORT_SECTIONS:
            yield SectionKey(
                deployment=target.deployment,
                section=section,
                witness=Witness.REPORT,
                coder_replica=target.coder_replica,
            )
    if isinstance(target, ReportTarget | ReplicaTarget):
        yield target.section_key
