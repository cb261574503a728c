"""What this client read last of each key, for when no node answers any more. Pure."""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock

from kvstore.client.protocol import Reply

KEYS_MAX = 1000
VALUE_BYTES_MAX = 64 * 1024


class LastSeen:
    """The latest answers of a bucket's reads: at most KEYS_MAX, and none with a larger body.

    The oldest goes first. Threads may share it.
    """

    def __init__(self) -> None:
        self._replies: OrderedDict[bytes, Reply] = OrderedDict()
        self._lock = Lock()

    def remember(self, key: bytes, reply: Reply | None) -> None:
        """None: it was written, so what was read before is not what is there."""
        with self._lock:
            self._replies.pop(key, None)
            if reply is not None and len(reply.body) <= VALUE_BYTES_MAX:
                self._replies[key] = reply
                if len(self._replies) > KEYS_MAX:
                    self._replies.popitem(last=False)

    def recall(self, key: bytes) -> Reply | None:
        """With its origin in place of what a node said of how it was read."""
        with self._lock:
            reply = self._replies.get(key)
        if reply is None:
            return None
        headers = {name.lower(): text for name, text in reply.headers.items()}
        return reply._replace(headers={**headers, "kv-served": "remembered"})
