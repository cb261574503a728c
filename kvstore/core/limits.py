"""Every bound of a node in one value, each with its unit."""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True, slots=True)
class Limits:
    """Nothing waits without a deadline, nothing queues without a bound; checked before memory is taken."""

    # What a client may send.
    value_bytes_max: int = 1 * MIB  # one value is copied by N replicas and held by each request in flight
    key_bytes_max: int = 1 * KIB  # keys live in every index block and every tree leaf
    bucket_bytes_max: int = 256
    token_bytes_max: int = 4 * KIB  # encoded; an honest context of 100 replica ids takes 2 KiB
    content_type_bytes_max: int = 256
    metadata_bytes_max: int = 4 * KIB  # all names and values of one version together
    operation_id_bytes_max: int = 64
    siblings_warn: int = 10  # more than this is a client that never resolves
    siblings_max: int = 100  # a write that would leave more is refused until somebody resolves
    state_bytes_max: int = 7 * MIB  # all siblings of one key: they travel in one frame
    batch_items_max: int = 1000
    batch_bytes_max: int = 8 * MIB
    scan_items_max: int = 1000  # per page
    scan_bytes_max: int = 4 * MIB  # of one replica's answer; must fit a frame

    # What is kept in memory.
    heads_max: int = 65_536  # causal parts of states: a write then reads no record; about 250 B each

    # How much work at once.
    in_flight_max: int = 256  # requests a node works on
    in_flight_min: int = 16  # what slowness leaves of it: enough to see that it is over
    batches_in_flight_max: int = 8  # each of up to 32 operations at once
    scans_in_flight_max: int = 4  # pages: made one after the other anyway, each by all homes it asks
    latency_target_s: float = 0.25  # slower than this in a tenth of the requests: fewer at once
    queue_max: int = 1024  # requests that wait for a place; beyond: shed
    queue_timeout_s: float = 0.04  # a burst waits as long as this
    queue_timeout_standing_s: float = 0.015  # once nobody has been without a queue for queue_timeout_s
    queue_few_max: int = 64  # gets, puts and deletes at its front: no overload, clients that take turns
    queue_few_timeout_s: float = 0.5  # as long as this they wait: a quarter of a request
    client_requests_per_s: float = 0.0  # of one client, on each node; 0: as many as there is room for
    rate_burst_s: float = 1.0  # after a rest a client or bucket may do the work of so many seconds at once
    connections_per_address_max: int = 384  # three quarters: nobody takes the last ones from all others
    loop_turn_s: float = 0.008  # work that begins in one turn of the loop; what is more waits in the line
    degradation_window_s: float = 0.25  # a tier that gets nothing for so long is refused at once
    degradation_calm_s: float = 1.0  # nobody shed for so long: one more tier is let in
    admin_in_flight_max: int = 64  # administration never waits behind data, and is bounded by itself
    connections_max: int = 512  # of clients; each takes a descriptor and about 50 KiB
    frame_bytes_max: int = 8 * MIB  # between nodes; the length field is checked before reading (B30)
    peer_in_flight_max: int = 4096  # calls without an answer to one peer; more is PeerUnreachable at once
    peer_outbox_bytes_max: int = 16 * MIB  # bytes not yet taken by the kernel, per peer

    # What is kept free: to serve reads and deletes, to compact, to come back without a restart.
    disk_free_warn_bytes: int = 1024 * MIB
    disk_free_background_bytes: int = 256 * MIB  # below: no growth in the background
    disk_free_read_only_bytes: int = 96 * MIB  # below: no writes but deletes; the engine stops at 64 MiB
    descriptors_kept: int = 24  # not for clients: files of the engine, and peers that connect again
    memory_max_bytes: int = 0  # of the process; 0: what its control group allows

    # What is kept for nodes that are away.
    hint_bytes_max: int = 1024 * MIB  # on this node's disk; at the cap hints are refused
    hints_max: int = 1_000_000  # each takes a key in the engine's index
    handoff_in_flight_max: int = 64  # hints on their way at once; each is merged and synced at its target
    handoff_bytes_per_s: int = 16 * MIB  # a node that comes back has clients to serve as well

    # How long.
    header_timeout_s: float = 5.0
    body_timeout_s: float = 30.0
    idle_timeout_s: float = 60.0
    request_timeout_s: float = 2.0  # of a client's request unless it names one
    request_timeout_max_s: float = 60.0
    peer_deadline_s: float = 0.5  # for one answer; above the slowest honest fsync, below half a request
    connect_timeout_s: float = 1.0
    drain_timeout_s: float = 10.0
    hedge_delay_s: float = 0.0  # a read is late after it; 0: after what peers usually take
    hedge_share_max: float = 0.05  # of reads for which one home more is asked than needed
    slow_peer_factor: float = 5.0  # a peer so many times slower than the others is asked last
    slow_peer_answers_min: int = 8  # of a peer; fewer are no sample
    clock_drift_warn_s: float = 1.0  # between the clocks of two nodes; beyond: said in log and metrics
    clock_skew_max_s: float = 60.0  # a last-write-wins time further ahead is refused and counted

    # Background work: it keeps replicas equal, and yields to clients.
    anti_entropy_interval_s: float = 60.0  # every partition is compared with each of its homes so often
    anti_entropy_records_per_s: int = 50_000  # read for trees and lists; 3 µs each, so 15 % of a core
    anti_entropy_bytes_per_s: int = 16 * MIB  # of states sent and fetched
    tombstone_interval_s: float = 600.0  # what is held is looked through for tombstones so often
    tombstone_pause_s: float = 5.0  # between the steps of a proof
    scrub_interval_s: float = 86_400.0  # every record at rest is read again so often
    scrub_bytes_per_s: int = 4 * MIB


DEFAULT_LIMITS = Limits()
