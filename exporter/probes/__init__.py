"""Measure; never judge. One file a section."""
