"""Rooms: how each section is probed and judged, and what its probes keep from run to run."""
