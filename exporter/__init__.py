"""Prometheus exporter for the health of Coder deployments."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("coder-health-exporter")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0.0.0"

__all__ = ["__version__"]
