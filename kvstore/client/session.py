"""What one client has seen, key by key: read-your-writes and monotonic reads (Terry et al. 1994).

A get sends the last context of its key, and the node asks replicas until its answer covers that, or
says `stale`. A put without a context sends it too: it supersedes what this session has seen, and its
answer then covers both, so that one context per key is enough.
"""

from __future__ import annotations

from collections import OrderedDict

KEYS_MAX = 10_000


class Session:
    """Bounded: the keys not used for longest are forgotten, and with them the guarantee for these keys."""

    __slots__ = ("_contexts", "_keys_max")

    def __init__(self, keys_max: int = KEYS_MAX) -> None:
        self._contexts: OrderedDict[bytes, str] = OrderedDict()
        self._keys_max = keys_max

    def seen(self, key: bytes) -> str:
        """The last context of this key, "" for none."""
        return self._contexts.get(key, "")

    def remember(self, key: bytes, context: str) -> None:
        if not context:
            return
        contexts = self._contexts
        contexts[key] = context
        contexts.move_to_end(key)
        while len(contexts) > self._keys_max:
            contexts.popitem(last=False)

    def __len__(self) -> int:
        return len(self._contexts)
