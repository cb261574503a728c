"""Which node is asked: homes first, seeds always, nobody twice while there is another."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore.client.routing import HASH, Router
from kvstore.core.layout import first_layout
from kvstore.core.membership import Member
from kvstore.core.ring import PARTITIONS, full_key, partition_of

SEEDS = ["http://127.0.0.1:1", "http://127.0.0.1:2"]


def document(addresses: list[str], version: int = 1) -> dict[str, Any]:
    """As a node tells it."""
    members = [Member(f"{i:032}", f"n{i}", "", address) for i, address in enumerate(addresses)]
    layout = first_layout(members)
    return {
        "version": version,
        "partitions": PARTITIONS,
        "hash": HASH,
        "members": [{"id": m.node_id, "http": m.http_address} for m in layout.members],
        "walks": [list(walk) for walk in layout.walks],
    }


def proven(router: Router) -> Router:
    for node in router.nodes:
        node.breaker.asked(0.0)
        node.breaker.succeeded()
    return router


@given(
    st.text(st.sampled_from("abc.-_~9"), min_size=1).map("b".__add__),
    st.binary(min_size=1),
    st.integers(1, 5),
)
def test_a_key_goes_to_its_homes_in_turn(bucket: str, key: bytes, n: int) -> None:
    addresses = [f"127.0.0.1:{i}" for i in range(1, 8)]
    router = Router(SEEDS)
    told = document(addresses)
    assert router.learn(told)
    proven(router)
    walk = told["walks"][partition_of(full_key(bucket, key))]
    homes = {f"http://{told['members'][i]['http']}" for i in walk[:n]}
    chosen = Counter(router.choose(bucket, key, n, (), 0.0).origin for _ in range(2 * n))
    assert chosen == Counter(dict.fromkeys(homes, 2))


def test_without_a_key_or_layout_the_seeds_take_turns() -> None:
    router = Router(SEEDS)
    assert {router.choose("", b"", 0, (), 0.0).origin for _ in range(2)} == set(SEEDS)
    assert {router.choose("b", b"k", 0, (), 0.0).origin for _ in range(2)} == set(SEEDS)


def test_an_address_only_learned_carries_one_trial_at_a_time() -> None:
    router = Router(SEEDS)
    router.learn(document(["127.0.0.1:7"]))
    learned = router.choose("b", b"k", 1, (), 0.0)
    assert learned.origin == "http://127.0.0.1:7"
    router.asked(learned, 0.0)
    for _ in range(4):
        assert router.choose("b", b"k", 1, (), 0.0).origin in SEEDS
    router.answered(learned, "1", 0.0)
    assert router.choose("b", b"k", 1, (), 0.0) is learned


def test_a_conditional_write_is_no_trial() -> None:
    router = Router(SEEDS)
    router.learn(document(["127.0.0.1:7"]))
    assert router.choose("b", b"k", 1, (), 0.0, trials=False).origin in SEEDS


def test_loopback_of_another_machine_is_not_taken_for_ours() -> None:
    """A node that advertises 127.0.0.1 means itself; here that would be somebody else's store."""
    router = Router(["http://10.0.0.1:8001"])
    router.learn(document(["127.0.0.1:8001", "0.0.0.0:8001", "localhost:8001", "10.0.0.2:8001"]))
    assert {node.origin for node in router.nodes} == {"http://10.0.0.1:8001", "http://10.0.0.2:8001"}


def test_a_newer_layout_replaces_what_was_learned_and_keeps_what_is_known_of_nodes() -> None:
    router = Router(SEEDS)
    router.learn(document(["127.0.0.1:7", "127.0.0.1:1"]))
    kept = proven(router).nodes[-1]
    router.learn(document(["127.0.0.1:7", "127.0.0.1:8"], version=2))
    assert [node.origin[-1] for node in router.nodes] == ["1", "2", "7", "8"]
    assert router.nodes[2] is kept
    assert router.layout_version == "2"


def test_the_layout_is_asked_for_when_it_is_news_and_not_all_the_time() -> None:
    router = Router(SEEDS)
    node = router.nodes[0]
    assert not router.answered(node, None, 0.0)
    assert router.answered(node, "1", 0.0)
    assert not router.answered(node, "1", 0.5)
    assert router.answered(node, "1", 1.0)
    assert not router.answered(node, "1", 2.5)
    router.learn(document(["127.0.0.1:1"]))
    assert not router.answered(node, "1", 100.0)
    assert router.answered(node, "2", 100.0)


def test_a_node_that_is_gone_makes_the_layout_suspect() -> None:
    """It may have come back at another address, which changes the document and not its version."""
    router = Router(SEEDS)
    router.learn(document(["127.0.0.1:7"]))
    router.failed(router.nodes[-1], 0.0, connected=False)
    assert router.answered(router.nodes[0], "1", 10.0)


def test_a_pause_that_a_node_asked_for_is_kept_while_others_serve() -> None:
    router = Router(SEEDS)
    router.refused(router.nodes[0], 1.0, 0.0)
    assert {router.choose("", b"", 0, (), 0.5).origin for _ in range(4)} == {SEEDS[1]}
    assert {router.choose("", b"", 0, (), 1.0).origin for _ in range(4)} == set(SEEDS)


states = st.lists(st.sampled_from(["fine", "open", "paused"]), min_size=1, max_size=6)


@given(states, st.data())
def test_there_is_always_somebody_and_nobody_twice(states: list[str], data: st.DataObject) -> None:
    router = Router([f"http://n{i}" for i in range(len(states))])
    for node, state in zip(router.nodes, states, strict=True):
        if state == "open":
            router.failed(node, 0.0, connected=False)
        elif state == "paused":
            router.refused(node, 3.0, 0.0)
    tried: list[Any] = []
    for _ in range(2 * len(states)):
        node = router.choose("b", b"k", 0, tried, 0.1, trials=data.draw(st.booleans()))
        if len(tried) < len(states):
            assert node not in tried
        assert node.origin
        if not tried and "fine" in states:
            assert states[router.nodes.index(node)] == "fine"
        tried.append(node)


json_values: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.data(), json_values)
def test_a_document_that_is_no_layout_changes_nothing(data: st.DataObject, junk: Any) -> None:
    told = document(["127.0.0.1:7"])
    field = data.draw(st.sampled_from([*told, "member", "walk", "all"]))
    match field:
        case "all":
            broken: Any = junk
        case "member":
            broken = {**told, "members": [junk]}
        case "walk":
            broken = {**told, "walks": [junk] * PARTITIONS}
        case _:
            broken = {**told, field: junk}
    router = Router(SEEDS)
    before = router.nodes
    if not router.learn(broken):
        assert router.nodes is before
    router.choose("b", b"k", 3, (), 0.0)


@pytest.mark.parametrize("walk", [[1], [-1], [0, 0], [True], ["0"], None])
def test_a_walk_of_nobody_is_refused(walk: Any) -> None:
    told = document(["127.0.0.1:7"])
    assert not Router(SEEDS).learn({**told, "walks": [walk] * PARTITIONS})


def test_an_operation_spends_one_attempt_on_addresses_that_were_only_learned() -> None:
    """Container names lead nowhere from outside: all five of them, and an operation has few attempts."""
    router = Router(SEEDS)
    assert router.learn(document([f"127.0.0.1:{i}" for i in range(11, 16)]))
    tried = [router.choose("b", b"k", 3, (), 0.0)]
    assert not tried[0].is_seed
    router.asked(tried[0], 0.0)
    router.failed(tried[0], 0.0, connected=False)
    for _ in SEEDS:
        tried.append(router.choose("b", b"k", 3, tried, 0.0))
    assert {node.origin for node in tried[1:]} == set(SEEDS)
