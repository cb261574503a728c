"""Hypothesis profiles, chosen by HYPOTHESIS_PROFILE.

`default` draws the same examples on every run, so that a red run stays red, and as many as keep
tests/core under 25 s. `thorough` draws new ones and more; a failure prints the blob that replays it.
"""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("default", deadline=None, max_examples=60, derandomize=True, print_blob=True)
settings.register_profile("thorough", deadline=None, max_examples=2000, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
