"""What the settings of core/ mean to an operator: (what it is, what a wrong one costs).

Their types, defaults and invariants are those of core/bucket.py and core/limits.py.
"""

from __future__ import annotations

from kvstore.core.bucket import BLIND_MODES, CONFLICTS, DURABILITIES, RATE_MAX

NODES_MAX = 1024

BUCKET_WORDS = {
    "n": (
        "on how many nodes a key lives",
        "1 loses data with a disk; more than there are nodes: refused",
    ),
    "r": (
        "how many must answer a read; 0: the majority of n",
        "r+w <= n: a read may miss an acknowledged write",
    ),
    "w": ("how many must have a write; 0: the majority of n", "1 loses acknowledged writes with one disk"),
    "pr": ("how many of r must be homes of the key", "above 0: reads fail while too many homes are down"),
    "pw": ("how many of w must be homes of the key", "above 0: writes fail while too many homes are down"),
    "conflict": (
        "what a read shows of concurrent writes",
        "last-write-wins loses all but one of them, by definition",
    ),
    "blind": (
        "what a put without a context does to what is there",
        "overwrite: replaces what its writer never read; sibling: piles up for who never resolves",
    ),
    "durability": (
        "whether a vote is a synced copy or one in the engine",
        "async: a power cut of all holders within moments loses acknowledged writes",
    ),
    "requests_per_s": (
        "requests that each node takes per second for a bucket, 0 for as many as there is room for",
        "too low: its clients are refused (429) while the node idles",
    ),
    "ttl_s": ("age at which values expire, 0 for never", "too low: data vanishes"),
    "sloppy": (
        "whether stand-ins may answer for homes that are away",
        "false: writes fail while too many homes are down; true: a read may miss the newest write then",
    ),
}
BUCKET_CHOICES = {"conflict": CONFLICTS, "blind": BLIND_MODES, "durability": DURABILITIES}
BUCKET_BOUNDS: dict[str, tuple[float, float]] = {
    "n": (1, NODES_MAX),
    "ttl_s": (0, 100 * 365 * 86_400),
    "requests_per_s": (0, RATE_MAX),
    **dict.fromkeys(("r", "w", "pr", "pw"), (0, NODES_MAX)),
}

LIMIT_WORDS = {
    "value_bytes_max": ("largest value", "N replicas and each request in flight hold one in memory"),
    "key_bytes_max": ("longest key", "keys live in every index block and every tree leaf"),
    "bucket_bytes_max": ("longest name of a bucket", "names of more than 256 bytes are refused anyway"),
    "token_bytes_max": ("longest causal context", "too low: writes to keys with a long history are refused"),
    "content_type_bytes_max": ("longest content type", "stored with every version"),
    "metadata_bytes_max": ("all metadata of one version", "stored with every version"),
    "operation_id_bytes_max": ("longest operation id", "stored with every version"),
    "siblings_warn": ("siblings of a key from which on it is logged", "too high: unresolved keys go unseen"),
    "siblings_max": (
        "siblings of a key beyond which it takes no more",
        "too high: such keys are slow to read",
    ),
    "state_bytes_max": ("all siblings of one key together", "must fit a frame between nodes"),
    "batch_items_max": ("items of one batch", "too high: one client delays the others"),
    "batch_bytes_max": ("bytes of one batch", "held in memory by each batch in flight"),
    "scan_items_max": ("items of one page of a scan", "too high: one scan delays the others"),
    "scan_bytes_max": ("bytes of one replica's answer to a scan", "must fit a frame"),
    "in_flight_max": (
        "requests a node works on at once",
        "too high: latency and memory; too low: idle",
    ),
    "in_flight_min": (
        "to how many of them slowness may bring the node down",
        "too low: a slow disk leaves most clients out; too high: all of them wait for it",
    ),
    "batches_in_flight_max": (
        "batches a node works on at once",
        "too high: all of them are late; too low: idle while it waits for other nodes",
    ),
    "scans_in_flight_max": (
        "pages of listings a node works on at once",
        "too high: all of them are late; too low: idle while it waits for other nodes",
    ),
    "latency_target_s": (
        "the node works on less at once while a tenth of the requests takes longer",
        "below what the disks can do: clients are refused for nothing",
    ),
    "queue_timeout_s": ("how long a request waits for a place", "too high: work for clients that gave up"),
    "queue_timeout_standing_s": (
        "how long instead, once the queue has stood for queue_timeout_s",
        "too high: in overload every request is late; too low: more are shed",
    ),
    "queue_few_max": (
        "gets, puts and deletes at the front of the queue that wait as long as queue_few_timeout_s",
        "too low: clients that ask one after the other are shed; too high: in overload every request is late",
    ),
    "queue_few_timeout_s": (
        "how long the first queue_few_max gets, puts and deletes of the queue wait for a place",
        "too low: clients with large values are shed; too high: work for clients that gave up",
    ),
    "client_requests_per_s": (
        "requests per second that each node takes from one client, 0 for any; more: 429",
        "too low: clients are refused while the node idles; too high: one of them takes all of it",
    ),
    "rate_burst_s": (
        "how many seconds' worth of requests may come at once after a rest",
        "too low: clients that come in bursts are refused; too high: others wait behind them",
    ),
    "connections_per_address_max": (
        "connections from one address (IPv6: from one /64)",
        "too low: clients behind one proxy are refused; too high: one machine takes all connections",
    ),
    "loop_turn_s": (
        "how much work may begin in one turn of the event loop; what is more waits in the queue",
        "too high: refusals come late; too low: many clients at once cost more",
    ),
    "degradation_window_s": (
        "how long a tier of requests gets nothing before it is refused at once",
        "too low: a burst refuses a whole tier; too high: its clients wait in vain",
    ),
    "degradation_calm_s": (
        "how long nobody is shed before one more tier of requests is let in",
        "too low: tiers come and go; too high: a node is long back before all of them are served",
    ),
    "admin_in_flight_max": (
        "requests to administration routes at once",
        "too low: operators are refused when they look closest",
    ),
    "queue_max": (
        "requests that wait for a place; more are shed",
        "too high: work for clients that gave up",
    ),
    "connections_max": ("connections of clients", "each takes a descriptor and about 50 KiB"),
    "frame_bytes_max": (
        "largest message between nodes",
        "unequal on nodes: large keys do not replicate",
    ),
    "peer_in_flight_max": ("calls without an answer to one peer", "memory spent on a peer that hangs"),
    "peer_outbox_bytes_max": ("bytes to one peer not yet sent", "memory spent on a peer that hangs"),
    "disk_free_warn_bytes": (
        "free space of the data directory's disk below which the log warns",
        "too low: nobody hears of it in time",
    ),
    "disk_free_background_bytes": (
        "free space below which background writes and repairs stop",
        "too low: they take the room that clients need",
    ),
    "disk_free_read_only_bytes": (
        "free space below which writes get 507, while reads and deletes go on",
        "below the 64 MiB that the engine keeps: deletes are refused with all other writes",
    ),
    "descriptors_kept": (
        "descriptors that clients' connections do not get",
        "too low: with many clients the engine opens no file any more, and the node stops",
    ),
    "memory_max_bytes": (
        "memory that the process may take, 0 for what its control group allows; from 95 % on no writes",
        "too low: writes are refused for nothing; too high: killed by the kernel",
    ),
    "clock_drift_warn_s": (
        "difference to the clock of another node beyond which the log warns",
        "too high: last-write-wins buckets pick the wrong one unnoticed",
    ),
    "hint_bytes_max": (
        "hints kept for nodes that are away",
        "too low: they come back and need anti-entropy; too high: fills the disk",
    ),
    "hints_max": ("how many hints are kept", "as hint_bytes_max"),
    "handoff_in_flight_max": ("hints on their way at once", "too high: a node that comes back is flooded"),
    "handoff_bytes_per_s": (
        "hints delivered per second",
        "too high: takes from clients; too low: nodes that were away stay behind for long",
    ),
    "heads_max": (
        "causal parts of states that are kept in memory",
        "too low: writes read what they replace; too high: memory, 250 bytes each",
    ),
    "header_timeout_s": ("wait for a request's header", "too high: slow clients hold connections"),
    "body_timeout_s": ("wait for a request's body", "too low: large values over slow links fail"),
    "idle_timeout_s": (
        "wait for the next request on a connection",
        "too low: clients always reconnect",
    ),
    "request_timeout_s": ("time for a request that names none", "too high: clients hang when nodes do"),
    "request_timeout_max_s": ("longest time a request may ask for", "too high: requests pile up"),
    "peer_deadline_s": (
        "wait for one replica's answer",
        "below a slow fsync: healthy replicas seem down",
    ),
    "hedge_delay_s": (
        "how long a read waits before one more home is asked; 0: as long as peers usually take, at least "
        "10 ms; peer_deadline_s or more: it never is",
        "too low: hedges are spent on reads that are not late; too high: one slow replica slows reads",
    ),
    "hedge_share_max": (
        "hedges per read in the long run",
        "too high: when all replicas are slow they get more to do; too low: slow reads stay slow",
    ),
    "slow_peer_factor": (
        "how many times slower than the others a peer must be to be asked last in reads",
        "too low: healthy peers are left out in turn; too high: a slow one slows reads",
    ),
    "slow_peer_answers_min": (
        "answers of a peer, within a tenth of a second or longer, that tell whether it is slow",
        "too low: one late answer counts; too high: with few reads a slow peer is not noticed",
    ),
    "connect_timeout_s": ("wait for a connection to another node", "too low: far nodes count as down"),
    "drain_timeout_s": ("time for requests in flight at a stop", "above the supervisor's patience: killed"),
    "clock_skew_max_s": (
        "how far ahead a last-write-wins time may lie",
        "too high: a wrong clock wins for long",
    ),
    "anti_entropy_interval_s": (
        "how often a partition is compared with each other home of it",
        "too high: what a replica missed stays missing for long",
    ),
    "anti_entropy_records_per_s": (
        "records read per second to build and list trees",
        "too high: clients wait; too low: a node is long back before it is compared",
    ),
    "anti_entropy_bytes_per_s": (
        "bytes per second sent to and fetched from other homes to make them equal",
        "too high: clients wait; too low: an emptied disk takes long to fill",
    ),
    "tombstone_interval_s": (
        "how often a node looks for tombstones and expired values that may go",
        "too high: they take disk space for longer; too low: everything held is read all the time",
    ),
    "tombstone_pause_s": (
        "rest between the steps of proving that nothing older than a tombstone is left",
        "too high: they take disk space for longer; too low: members are asked more often than needed",
    ),
    "scrub_interval_s": (
        "how often every record at rest is read again",
        "too high: rot is found when the other copies have gone, too",
    ),
    "scrub_bytes_per_s": ("bytes per second that the scrub reads", "too high: clients wait for the disk"),
}
