"""Ways to break the simulated deployment, each as an async context manager that mends it at its end.

Nothing here touches the exporter: what breaks is a server, a port, a certificate, a row, a role or
a file that somebody else would own.
"""
