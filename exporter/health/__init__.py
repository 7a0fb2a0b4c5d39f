"""Judge what was measured. Pure functions: no I/O, no clock."""
