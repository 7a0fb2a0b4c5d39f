"""A simulated Coder deployment with real protocols, for trying things and for the tests."""
