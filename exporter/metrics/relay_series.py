"""What relays show together: series that no single target owns.

In: each finished run over one transport of a relay. Out: pieces in the exposition, owned here: the
histogram of all message round trips of a region, which lives as long as any of its relays, and how
many processes answer for a relay, of which both its transports know.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import NamedTuple

from exporter.health.derp import RAW, TransportResult
from exporter.metrics.exposition import Exposition
from exporter.metrics.labels import label_text, sample
from exporter.metrics.relay_samples import name_relay
from exporter.metrics.series import Histogram

_ROUND_TRIPS = "coder_health_derp_round_trip_duration_seconds"
_PROCESSES = "coder_health_derp_relay_processes"


class _RegionKey(NamedTuple):
    """Label values, so that regions of the same name are one series."""

    deployment: str
    derp_region: str
    transport: str


class _NodeKey(NamedTuple):
    deployment: str
    derp_region: str
    derp_node: str


class _Region:
    """A histogram, and the targets that it lives for; owner of its piece by identity."""

    __slots__ = ("histogram", "targets")

    def __init__(self, values: Mapping[str, str]) -> None:
        self.histogram = Histogram(_ROUND_TRIPS, label_text(_ROUND_TRIPS, values))
        self.targets: set[Hashable] = set()


class _Node:
    """What each target told of the processes behind one relay, as (transport, count); owner of its
    piece by identity."""

    __slots__ = ("told", "values")

    def __init__(self, values: Mapping[str, str]) -> None:
        self.values = values
        self.told: dict[Hashable, tuple[str, int]] = {}

    def render(self) -> dict[str, str]:
        """The raw transport's word counts where it has one; without any the series is absent."""
        counts = sorted((transport != RAW, count) for transport, count in self.told.values() if count > 0)
        return {_PROCESSES: sample(_PROCESSES, self.values, counts[0][1])} if counts else {}


class RelaySeries:
    """The shared series of all relays. A target is whatever the caller tells it apart by."""

    def __init__(self, exposition: Exposition) -> None:
        self._exposition = exposition
        self._regions: dict[_RegionKey, _Region] = {}
        self._nodes: dict[_NodeKey, _Node] = {}
        self._region_of: dict[Hashable, _RegionKey] = {}
        self._node_of: dict[Hashable, _NodeKey] = {}

    def observe(
        self, target: Hashable, result: TransportResult | None, values: Mapping[str, str], *, hidden: bool
    ) -> None:
        """Count a finished run of a target.

        Args:
            result: None when the probe broke: its region's histogram stays, its count is not known.
            values: The escaped values of the target's labels.
            hidden: Another target has this node's labels. The histogram has no label for the node,
                so the round trips count all the same.
        """
        if result is None:
            self._leave_node(target)
            return
        named = name_relay(result.name, result.transport, values)
        self._count_round_trips(target, result.round_trip_seconds, named)
        if hidden:
            self._leave_node(target)
        else:
            self._note_processes(target, result, named)

    def forget(self, target: Hashable) -> None:
        """Take a target out; what lived for it alone is gone. Nothing happens when it is not known."""
        self._leave_region(target)
        self._leave_node(target)

    def _count_round_trips(self, target: Hashable, seconds: tuple[float, ...], named: Mapping[str, str]) -> None:
        key = _RegionKey(named["deployment"], named["derp_region"], named["transport"])
        if self._region_of.get(target) != key:
            self._leave_region(target)  # the map gave the region another name
            self._region_of[target] = key
        region = self._regions.get(key)
        if region is None:
            region = self._regions[key] = _Region(named)
        elif target in region.targets and not seconds:
            return
        region.targets.add(target)
        for one in seconds:
            region.histogram.observe(one)
        self._exposition.replace(region, {_ROUND_TRIPS: region.histogram.render()})

    def _note_processes(self, target: Hashable, result: TransportResult, named: Mapping[str, str]) -> None:
        key = _NodeKey(named["deployment"], named["derp_region"], named["derp_node"])
        if self._node_of.get(target) != key:
            self._leave_node(target)
            self._node_of[target] = key
        node = self._nodes.get(key)
        if node is None:
            node = self._nodes[key] = _Node(named)
        told = (result.transport, result.relay_processes)
        if node.told.get(target) != told:
            node.told[target] = told
            self._exposition.replace(node, node.render())

    def _leave_region(self, target: Hashable) -> None:
        key = self._region_of.pop(target, None)
        if key is None:
            return
        region = self._regions[key]
        region.targets.remove(target)
        if not region.targets:
            del self._regions[key]
            self._exposition.remove(region)

    def _leave_node(self, target: Hashable) -> None:
        key = self._node_of.pop(target, None)
        if key is None:
            return
        node = self._nodes[key]
        del node.told[target]
        if node.told:
            self._exposition.replace(node, node.render())
        else:
            del self._nodes[key]
            self._exposition.remove(node)
