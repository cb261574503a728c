"""The two clients differ in how they wait and in nothing else: one is the other with its waits left out.

Two typed classes instead of one that returns a value or something to await; this keeps them equal.
"""

from __future__ import annotations

import ast
import inspect
import re
from types import ModuleType

import pytest

from kvstore.client import async_batch, asynchronous, sync_batch, synchronous

LEFT_OUT = [
    (r"\basync (def|with|for)\b", r"\1"),
    (r"\bawait ", ""),
    (r"__a(enter|exit)__", r"__\1__"),
    (r"\bAsync(Client|Bucket|Batch)\b", r"\1"),
    (r"\bAsyncIterator\b", "Iterator"),
    (r"\bAsync(Runner|Ports|Transport)\b", r"Sync\1"),
    (r"\bAiohttpTransport\b", "Urllib3Transport"),
    (r"\baiohttp_transport\b", "urllib3_transport"),
    (r"\basync_(batch|runner)\b", r"sync_\1"),
    (r"\basynchronous\b", "synchronous"),
    ("client, over aiohttp", "client, over urllib3"),
    (
        "Many tasks may share one; it belongs to the event loop that first uses it.",
        "Many threads may share one.",
    ),
]


def normal(source: str) -> str:
    """Without formatting and without the order of imports."""
    tree = ast.parse(source)
    imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    for node in imports:
        node.names.sort(key=lambda alias: alias.name)
    tree.body = sorted(imports, key=ast.unparse) + [node for node in tree.body if node not in imports]
    return ast.unparse(tree)


TWINS = [(asynchronous, synchronous), (async_batch, sync_batch)]


@pytest.mark.parametrize("twins", TWINS, ids=["client", "batch"])
def test_the_synchronous_client_is_the_asynchronous_one_without_its_waits(
    twins: tuple[ModuleType, ModuleType],
) -> None:
    source = inspect.getsource(twins[0])
    for pattern, replacement in LEFT_OUT:
        source = re.sub(pattern, replacement, source)
    assert normal(source).splitlines() == normal(inspect.getsource(twins[1])).splitlines()


def test_nothing_is_left_out_that_is_not_there() -> None:
    everything = "".join(inspect.getsource(first) for first, _ in TWINS)
    for pattern, _ in LEFT_OUT:
        assert re.search(pattern, everything), f"{pattern} occurs no more"
