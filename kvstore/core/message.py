"""What nodes say to each other: frozen values of plain fields, no encoding.

A request and its reply are one pair of classes (`REPLY_OF`). Fields are int, float, str, bytes, bool,
None, tuples of these, or another value of this kind, so that rpc/wire.py can derive the bytes from the
annotations. New fields go last and have a default: an older peer ignores what it does not know, a
newer one fills in what it does not get (B27).

Encoded states and contexts (`bytes`) are those of core/encoding.py.
"""

from __future__ import annotations

from typing import NamedTuple

from kvstore.core.gossip_message import Gossip, Gossiped
from kvstore.core.layout import Layout
from kvstore.core.membership import NodeId
from kvstore.core.upkeep_message import (
    CompareTrees,
    DeliverHints,
    DropTombstones,
    FetchStates,
    Flush,
    HintsDelivered,
    KeysListed,
    ListKeys,
    PartitionsRepaired,
    ProveTombstones,
    RepairPartitions,
    StatesFetched,
    StatesStored,
    StoreStates,
    TombstonesDropped,
    TombstonesProven,
    TreesCompared,
)

# --- what a client asks of a coordinator; forwarded to a home of the key at most once ---------------


class Receipt(NamedTuple):
    """What happened to one request, replica by replica.

    `replicas`: (node, milliseconds, what it did: ok, same, older; hinted for a stand-in) in order of arrival.
    `hinted`: homes that a stand-in answered for. `repairs`: replicas that were sent what they lacked.
    `required` of `n` homes had to answer, `acks` did, stand-ins among them where the request was sloppy.
    """

    coordinator: NodeId
    n: int
    required: int
    acks: int
    replicas: tuple[tuple[NodeId, float, str], ...] = ()
    hinted: tuple[NodeId, ...] = ()
    repairs: int = 0
    layout_version: int = 0


class Get(NamedTuple):
    """Read one key. None means: as the bucket says. `session`: encoded context the answer must cover.

    `sloppy`: stand-ins that hold hints may count where homes do not answer; never for a monotonic read.
    """

    bucket: str
    key: bytes
    n: int | None = None
    r: int | None = None
    pr: int | None = None
    monotonic: bool = False
    session: bytes = b""
    timeout_ms: int = 2000
    forwarded: bool = False
    sloppy: bool | None = None


class Got(NamedTuple):
    """`state` is the merge of R answers, b"" where none of them knows the key."""

    state: bytes
    last_write_wins: bool
    receipt: Receipt


class Put(NamedTuple):
    """Write or delete (`tombstone`) one key.

    `context`: encoded context the writer has seen, None for a blind write, whose meaning is `mode`
    (overwrite, sibling, reject; None: as the bucket says). `if_match`: ETag that must be current, or
    "*" for any value; `if_absent`: no value may be current. `operation_id` names the write: sent
    again, it is the same write. `ttl_ms` None: as the bucket says, 0: never. `sloppy`: a stand-in's copy
    counts towards W where a home does not answer; None: as the bucket says.
    """

    bucket: str
    key: bytes
    value: bytes = b""
    tombstone: bool = False
    content_type: str = "application/octet-stream"
    metadata: tuple[tuple[str, str], ...] = ()
    operation_id: bytes = b""
    context: bytes | None = None
    mode: str | None = None
    if_match: str | None = None
    if_absent: bool = False
    ttl_ms: int | None = None
    durability: str | None = None
    n: int | None = None
    w: int | None = None
    pw: int | None = None
    timeout_ms: int = 2000
    forwarded: bool = False
    sloppy: bool | None = None


class Written(NamedTuple):
    """`context`: the writer's own context and the new dot, encoded. `siblings`: how many a read shows now."""

    context: bytes
    etag: str
    siblings: int
    receipt: Receipt


# --- what a coordinator asks of a replica ---------------------------------------------------------------


class Read(NamedTuple):
    """`known`: digest of the state the asker holds; a replica with that same state need not send it."""

    partition: int
    key: bytes
    known: bytes = b""


KNOWN_BY_NOBODY = b"?"
"""For Read.known: no state has this digest, so the answer is always the state itself."""


class Held(NamedTuple):
    """`same`: as in `known`. Otherwise `state` is what this replica holds, b"" for nothing."""

    same: bool
    state: bytes = b""


class Store(NamedTuple):
    """Merge this state into yours. `sync`: answer when it is durable.

    `hlc_time`: of the newest version inside, 0 where time decides nothing. `base`: head of a state
    (core/encoding.py) that `state` knows all of, with one dot more, by the copy `writer`; b"" where
    there is no such state. A replica whose own state begins so takes `state` as it is.
    """

    partition: int
    key: bytes
    state: bytes
    sync: bool = True
    hlc_time: int = 0
    base: bytes = b""
    writer: int = 0


class Stored(NamedTuple):
    """Applied; durable if that was asked."""


class FetchCopy(NamedTuple):
    """Which dots has your copy of this partition made?"""

    partition: int


class CopyHeld(NamedTuple):
    """The dots of this replica id up to this counter; 0 for none."""

    replica_id: int
    counter: int


class Scan(NamedTuple):
    """Keys of one bucket in these partitions, in order of keys, strictly after `after`."""

    bucket: str
    partitions: tuple[int, ...]
    prefix: bytes = b""
    after: bytes = b""
    limit: int = 1000
    values: bool = False


class Scanned(NamedTuple):
    """(key, encoded state; values emptied unless asked for). `more`: the limit cut the answer."""

    items: tuple[tuple[bytes, bytes], ...]
    more: bool


# --- the cluster about itself ---------------------------------------------------------------------------


class BucketRecord(NamedTuple):
    """Properties as JSON text. The highest (version, author) holds."""

    name: str
    version: int
    author: NodeId
    properties: str


class FetchCluster(NamedTuple):
    """Asks for the layout and every bucket's properties."""


class ClusterState(NamedTuple):
    layout: Layout | None
    buckets: tuple[BucketRecord, ...]


class Propose(NamedTuple):
    """First layout of a new cluster: promise it, and no other, unless `layout.version` is 0."""

    layout: Layout
    proposer: NodeId


class Promised(NamedTuple):
    """`accepted`, or who holds the promise instead; `layout` if the cluster exists already."""

    accepted: bool
    holder: NodeId = ""
    layout: Layout | None = None


class Commit(NamedTuple):
    """Every member promised this layout: it holds from now on."""

    layout: Layout


class Release(NamedTuple):
    """The proposer gives its proposal up."""

    proposer: NodeId


class Done(NamedTuple):
    """Nothing more to say."""


class StoreBucket(NamedTuple):
    record: BucketRecord


class FetchBucket(NamedTuple):
    name: str


class BucketHeld(NamedTuple):
    record: BucketRecord | None


# --- copies kept for nodes that are away ----------------------------------------------------------------


class StoreHint(NamedTuple):
    """Keep this state for `target`, a home that did not take it. Otherwise as Store."""

    partition: int
    key: bytes
    state: bytes
    target: NodeId
    sync: bool = True
    hlc_time: int = 0


class FetchHints(NamedTuple):
    """What a node keeps of one key for others.

    `durable`: answer when it is on disk; a hint that is gone then stays gone through a crash.
    """

    partition: int
    key: bytes
    durable: bool = False


class HintsHeld(NamedTuple):
    """The merge of all hints of the key, and for whom they are; b"" says nothing about the key.

    `marked`: of the key's partition a hint could not be kept, and anti-entropy has not compared since.
    """

    state: bytes
    targets: tuple[NodeId, ...] = ()
    marked: bool = False


Request = (
    Get
    | Put
    | Read
    | Store
    | Scan
    | Gossip
    | FetchCluster
    | Propose
    | Commit
    | Release
    | StoreBucket
    | FetchBucket
    | StoreHint
    | FetchHints
    | CompareTrees
    | ListKeys
    | FetchStates
    | StoreStates
    | RepairPartitions
    | DeliverHints
    | ProveTombstones
    | DropTombstones
    | Flush
    | FetchCopy
)
Reply = (
    Got
    | Written
    | Held
    | Stored
    | Scanned
    | Gossiped
    | ClusterState
    | Promised
    | Done
    | BucketHeld
    | HintsHeld
    | TreesCompared
    | KeysListed
    | StatesFetched
    | StatesStored
    | PartitionsRepaired
    | HintsDelivered
    | TombstonesProven
    | TombstonesDropped
    | CopyHeld
)

REPLY_OF: dict[type[Request], type[Reply]] = {
    Get: Got,
    Put: Written,
    Read: Held,
    Store: Stored,
    Scan: Scanned,
    Gossip: Gossiped,
    FetchCluster: ClusterState,
    Propose: Promised,
    Commit: Done,
    Release: Done,
    StoreBucket: Done,
    FetchBucket: BucketHeld,
    StoreHint: Stored,
    FetchHints: HintsHeld,
    CompareTrees: TreesCompared,
    ListKeys: KeysListed,
    FetchStates: StatesFetched,
    StoreStates: StatesStored,
    RepairPartitions: PartitionsRepaired,
    DeliverHints: HintsDelivered,
    ProveTombstones: TombstonesProven,
    DropTombstones: TombstonesDropped,
    Flush: Done,
    FetchCopy: CopyHeld,
}
"""Order matters: the position is the number on the wire. Append only."""

EMPTY_REPLY: dict[type[Request], Reply] = {
    request: reply() for request, reply in REPLY_OF.items() if not reply._fields
}
"""What a future of None stands for, where a request is answered later."""
