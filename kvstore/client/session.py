"""What one client has seen, key by key: read-your-writes and monotonic reads (Terry et al. 1994).

A get sends what was seen of its key, and the node asks replicas until its answer covers that, or says
`stale`. A put without a context sends it too: it supersedes what this session has seen. Contexts are
opaque, so of answers that need not cover each other (to operations at the same time, or to a write with an
older context) all are kept, and sent with commas between them, until the answer to that covers them.
"""

from __future__ import annotations

from collections import OrderedDict

KEYS_MAX = 10_000
CONTEXTS_MAX = 16
"""Of one key; a node takes so many in one header."""


class Session:
    """Bounded: the keys not used for longest are forgotten, and with them the guarantee for these keys.

    So are the oldest of more than CONTEXTS_MAX contexts; it takes as many writes of one key at the same time.
    """

    __slots__ = ("_contexts", "_keys_max")

    def __init__(self, keys_max: int = KEYS_MAX) -> None:
        self._contexts: OrderedDict[bytes, str] = OrderedDict()
        self._keys_max = keys_max

    def seen(self, key: bytes) -> str:
        """The contexts of this key, with commas between them; "" for none."""
        return self._contexts.get(key, "")

    def remember(self, key: bytes, context: str, sent: str = "") -> None:
        """`context` came back from a request that carried `sent`, and covers it."""
        if not context:
            return
        contexts = self._contexts
        known = contexts.get(key, "")
        if known and known != sent:
            covered = sent.split(",")
            others = [one for one in known.split(",") if one not in covered and one != context]
            context = ",".join([*others, context][-CONTEXTS_MAX:])
        contexts[key] = context
        contexts.move_to_end(key)
        while len(contexts) > self._keys_max:
            contexts.popitem(last=False)

    def __len__(self) -> int:
        return len(self._contexts)
