"""A leaderless, quorum-replicated key-value store; this import is its client and loads nothing of a node.

    async with AsyncClient("http://127.0.0.1:8001") as kv:
        users = kv.bucket("users", codec="json")
        await users.put("ann", {"friends": ["bob"]})

A tour of the code, in reading order:

    core/vector_clock.py    what a write is called, and what somebody has seen
    core/sibling.py         what a replica holds of one key: write, merge, show
    core/quorum.py          how many must answer, and whether they have
    node/coordinator.py     a get and a put, read from top to bottom
    node/replica.py         what a node does with its own copies, and when it gives up its name
    node/stand_ins.py       who takes the copy of a home that is away
    node/hinted_handoff.py  how it gets there in the end
    node/anti_entropy.py    how replicas become equal that nobody reads; node/exchange.py is one comparison
    node/tombstone_collector.py    how what was deleted goes for good, and why it may
    node/ports.py           what a node needs of the world
    node/formation.py       how a new cluster agrees on its first layout
    storage/, rpc/, httpapi/    the ports and the door, made of RocksDB, TCP and HTTP
    client/call.py          one operation of a client, attempt after attempt
    bench/drive.py          a load on a cluster, and why latency counts from when an operation was due

The words, each with its file:

    admission         who is worked on, who waits, who is shed                  core/admission.py
    anti-entropy      comparing replicas in the background, healing what differs  node/anti_entropy.py
    barrier           returns when what was acknowledged is on all live homes   node/repair.py
    bucket            a named set of keys with properties of its own            core/bucket.py
    causal context    the exact set of dots somebody knows of one key           core/vector_clock.py
    coordinator       the home that carries out one request                     node/coordinator.py
    copy              one partition on one node; has a replica id               node/replica.py
    credential        who sends a request, and what that one may do             core/credential.py
    dot               (replica id, counter): the name of one write, ever        core/vector_clock.py
    grace period      lasts until nothing begun before can send what it has read  node/grace.py
    hint              a state kept for a home that is away                      core/hint.py
    hinted handoff    bringing hints to where they belong                       node/hinted_handoff.py
    home              one of the N nodes that hold a key                        core/layout.py
    layout            who owns which partition; versioned, agreed               core/layout.py
    Merkle tree       hashes of a partition: finds in few bytes what differs    core/merkle_tree.py
    partition         one of 256 equal slices of the ring                       core/ring.py
    preference list   the homes of a key in the order in which to ask them      core/preference_list.py
    progress          how far a data directory has come; peers remember it      core/generation.py
    outcome           of a write: ok, failed or unknown; and what is told later  core/outcome.py
    quorum            R answers to a read, W durable copies of a write          core/quorum.py
    read repair       sending a replica what its answer showed it lacks         core/read_repair.py
    recognition       a majority remembers this run of a node: now it serves    node/recognition.py
    recovery          filling copies that lost something: no votes till then    node/recovery.py
    receipt           what each replica did for one request                     core/message.py
    scrub             reading records at rest to find rot                       node/scrub.py
    sibling           one of several concurrent versions of a key               core/sibling.py
    sloppy quorum     W and R with stand-ins where homes do not answer          node/stand_ins.py
    stand-in          a node that keeps hints for a home of the key             node/stand_ins.py
    token             a causal context as clients carry it: signed, opaque      core/token.py
    token bucket      how often something may be done: a rate and a burst        core/token_bucket.py
    tombstone         the version that a delete writes                          core/sibling.py
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kvstore.client import (
        ALL,
        ANY,
        ONE,
        QUORUM,
        AsyncBatch,
        AsyncBucket,
        AsyncClient,
        Batch,
        BatchGet,
        BatchWrite,
        Bucket,
        Client,
        Codec,
        Outcome,
        Policy,
        Receipt,
        Record,
        Resolver,
        ScanItem,
        Sibling,
        codecs,
        resolvers,
    )
    from kvstore.errors import (
        BatchError,
        ConfigError,
        Conflict,
        ConnectError,
        ContextRequired,
        Forbidden,
        InvalidContext,
        InvalidRequest,
        KVStoreError,
        NotFound,
        NotReady,
        Overloaded,
        PreconditionFailed,
        QuorumNotMet,
        QuorumUnavailable,
        RateLimited,
        RequestTimeout,
        SiblingsError,
        StaleRead,
        TooLarge,
        Unauthorized,
        Unavailable,
    )

__version__ = "0.1.0"

__all__ = [
    "ALL",
    "ANY",
    "ONE",
    "QUORUM",
    "AsyncBatch",
    "AsyncBucket",
    "AsyncClient",
    "Batch",
    "BatchError",
    "BatchGet",
    "BatchWrite",
    "Bucket",
    "Client",
    "Codec",
    "ConfigError",
    "Conflict",
    "ConnectError",
    "ContextRequired",
    "Forbidden",
    "InvalidContext",
    "InvalidRequest",
    "KVStoreError",
    "NotFound",
    "NotReady",
    "Outcome",
    "Overloaded",
    "Policy",
    "PreconditionFailed",
    "QuorumNotMet",
    "QuorumUnavailable",
    "RateLimited",
    "Receipt",
    "Record",
    "RequestTimeout",
    "Resolver",
    "ScanItem",
    "Sibling",
    "SiblingsError",
    "StaleRead",
    "TooLarge",
    "Unauthorized",
    "Unavailable",
    "codecs",
    "resolvers",
]


def __getattr__(name: str) -> Any:
    """Loads the client with its first use (PEP 562): a health check has no 0.3 s for aiohttp."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    errors = import_module("kvstore.errors")
    value = getattr(errors, name) if hasattr(errors, name) else getattr(import_module("kvstore.client"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
