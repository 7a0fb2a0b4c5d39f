"""How many examples the properties and state machines are given, and whether always the same ones.

Where skips are forbidden (CI), the examples follow from the test's own code, so that a change is judged by
what it changed. Elsewhere they are new in each run; to look for what nobody met yet, multiply them:
`CODER_HEALTH_EXPORTER_EXPLORE=20 pytest tests/health`.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

EXPLORE = "CODER_HEALTH_EXPORTER_EXPLORE"
_EXAMPLES = 100  # hypothesis's own default


def examples(count: int) -> int:
    """Return how many examples to try of a test that usually tries `count`."""
    return count * int(os.environ.get(EXPLORE) or 1)


def load(*, reproducible: bool) -> None:
    """Set the defaults of hypothesis, before any test module is imported. No test asserts how long it takes."""
    untimed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
    settings.register_profile("reproducible", untimed, derandomize=True, database=None)
    settings.register_profile("exploring", untimed, max_examples=examples(_EXAMPLES))
    settings.load_profile("reproducible" if reproducible else "exploring")
