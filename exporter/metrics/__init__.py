"""Families, and how results become their samples."""
