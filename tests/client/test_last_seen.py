"""What a client remembers of its reads is bounded, and never older than its own write."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kvstore.client import last_seen
from kvstore.client.last_seen import LastSeen
from kvstore.client.protocol import Reply

SMALL, LARGE = b"v", b"v" * (last_seen.VALUE_BYTES_MAX + 1)


@given(st.lists(st.tuples(st.integers(0, 1500), st.sampled_from([SMALL, LARGE, None])), max_size=60))
def test_it_is_a_list_of_which_the_oldest_go(steps: list[tuple[int, bytes | None]]) -> None:
    seen, model = LastSeen(), list[int]()
    for number in range(last_seen.KEYS_MAX):
        seen.remember(b"%d" % (10_000 + number), Reply(200, {}, SMALL))
        model.append(10_000 + number)
    for key, body in steps:
        seen.remember(b"%d" % key, None if body is None else Reply(200, {"ETag": f'"{key}"'}, body))
        model = [known for known in model if known != key] + ([key] if body == SMALL else [])
        model = model[-last_seen.KEYS_MAX :]
    for key in [*model, *(key for key, _ in steps)]:
        reply = seen.recall(b"%d" % key)
        assert (reply is not None) == (key in model)
        if reply is not None:
            assert reply.headers["kv-served"] == "remembered"
            assert key >= 10_000 or reply.headers["etag"] == f'"{key}"'
