"""What all tests share: Hypothesis profiles, and ports that are those of one worker.

The profile is chosen by HYPOTHESIS_PROFILE:

`default` draws the same examples on every run, so that a red run stays red, and as many as keep
tests/core under 25 s. `thorough` draws new ones and more; a failure prints the blob that replays it.
"""

from __future__ import annotations

import os

from hypothesis import settings

from kvstore.cli import dev_cluster

settings.register_profile("default", deadline=None, max_examples=60, derandomize=True, print_blob=True)
settings.register_profile("thorough", deadline=None, max_examples=2000, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

# With several workers at once (pytest-xdist) each has ports of its own for clusters of `kvstore dev`.
if (_worker := os.environ.get("PYTEST_XDIST_WORKER", "")).startswith("gw"):
    _apart = 100 * (1 + int(_worker[2:]))
    dev_cluster.HTTP_PORT_FIRST += _apart
    dev_cluster.RPC_PORT_FIRST += _apart
