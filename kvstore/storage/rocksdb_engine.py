"""RocksDB as it is used here: one column family per kind, every size bounded, an idle node small."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from rocksdict import (
    BlockBasedIndexType,
    BlockBasedOptions,
    Cache,
    DbClosedError,
    DBCompressionType,
    DBRecoveryMode,
    Options,
    Rdict,
    WriteOptions,
)

from kvstore.errors import ConfigError, StorageFailed
from kvstore.node.ports import Kind
from kvstore.storage.directory import START_EMPTY, DataDirectory
from kvstore.storage.record import seal, unseal

KIB = 1024
MIB = 1024 * KIB

_FORMAT, _CLEAN = b"format", b"clean"  # in the root: whose directory this is, and how it was left

_WRITE_BUFFERS = 3  # per family; from four on the engine slows down before it stops
_SMALL_BUFFER_BYTES = 1 * MIB  # copies and meta: a few hundred records, overwritten
_LOG_BYTES_MAX = 64 * MIB  # write-ahead log; beyond it the oldest buffers are flushed; bounds the replay
_OPEN_FILES_MAX = 256
_LEVEL_0_STOP = 40  # tables; slowing down is set to the same, because no_slowdown turns both into errors


class Engine:
    """An open database. `families` and `handles` are indexed by Kind; `root` holds nothing of the node.

    Raises what the binding raises: plain `Exception` with a text.
    """

    def __init__(self, path: Path, *, cache_bytes: int, write_buffer_bytes: int) -> None:
        cache = Cache(cache_bytes)
        sizes = dict.fromkeys(Kind, _SMALL_BUFFER_BYTES) | dict.fromkeys(
            (Kind.DATA, Kind.HINT), write_buffer_bytes
        )
        families = {kind.name.lower(): _family(cache, size) for kind, size in sizes.items()}
        self.root: Any = Rdict(str(path), _shared(cache), families)
        write_options = WriteOptions()
        write_options.no_slowdown = True  # a stalled engine raises instead of sleeping with the GIL held
        self.root.set_write_options(write_options)  # before the families, which copy it
        self.families: tuple[Any, ...] = tuple(self.root.get_column_family(k.name.lower()) for k in Kind)
        self.handles: tuple[Any, ...] = tuple(
            self.root.get_column_family_handle(k.name.lower()) for k in Kind
        )

    def last_sequence(self) -> int:
        """Number of the last change, counted over the life of the directory."""
        sequence: int = self.root.latest_sequence_number()
        return sequence

    def flush_log(self) -> None:
        """fsync of the write-ahead log; releases the GIL."""
        self.root.flush_wal(True)

    def close(self) -> None:
        """Flushes the write buffers. Any handle or iterator that is left keeps the files open."""
        self.handles = ()
        for part in (*self.families, self.root):
            with suppress(Exception):  # what cannot be flushed is in the log
                part.close()


class ClosedEngine:
    """Stands in for an engine and each of its parts once these are gone: every use raises DbClosedError."""

    @property
    def families(self) -> tuple[Any, ...]:
        return (self,) * len(Kind)

    @property
    def handles(self) -> tuple[Any, ...]:
        return ()

    def close(self) -> None:
        """Nothing is open."""

    def __getattr__(self, name: str) -> Any:
        raise DbClosedError(name)


def check_in(engine: Engine, directory: DataDirectory) -> bool:
    """Whether the last user closed the directory; from here on it counts as not closed.

    Raises ConfigError for a directory that lost synced changes, is not ours, or is of another release.
    """
    found, promised = engine.last_sequence(), directory.synced_through
    if found < promised:
        raise ConfigError(
            f"data directory {directory.path} is damaged ({promised - found} synced changes are missing from "
            f"its log): {START_EMPTY}"
        )
    sealed = engine.root.get(_FORMAT)
    if sealed is None:
        if found:
            raise ConfigError(
                f"data directory {directory.path} holds another program's database: name another"
            )
        clean = True
        engine.root.put(_FORMAT, seal(_FORMAT, b"1"))
    else:
        if unseal(_FORMAT, sealed) != b"1":
            raise ConfigError(
                f"data directory {directory.path} is of a later release: start that release, "
                "or start with an empty directory"
            )
        clean = engine.root.get(_CLEAN) is not None
        engine.root.delete(_CLEAN)
    engine.flush_log()
    directory.mark_synced(engine.last_sequence())
    return clean


def check_out(engine: Engine, directory: DataDirectory, flush_log: Callable[[Engine], None]) -> None:
    """Sync everything, then the mark of a clean stop. Raises StorageFailed, and leaves no mark then.

    Two syncs, because the mark must not be found if what it vouches for was not synced.
    """
    try:
        flush_log(engine)
        engine.root.put(_CLEAN, seal(_CLEAN, b""))
        sequence = engine.last_sequence()
        flush_log(engine)
        directory.mark_synced(sequence)
    except Exception as error:
        raise StorageFailed(f"the last sync failed: {error}") from None


def open_error(path: Path, error: Exception) -> ConfigError | StorageFailed:
    """What opening raises: one line, with the remedy."""
    if isinstance(error, (ConfigError, StorageFailed)):
        return error
    text = " ".join(str(error).split())
    if is_no_space(text):
        return StorageFailed(f"data directory {path} has no space left: make room on that disk")
    if text.startswith("IO error") and "No such file" not in text:
        return StorageFailed(f"data directory {path} cannot be opened: {text}")
    return ConfigError(f"data directory {path} is damaged ({text}): {START_EMPTY}")


def is_no_space(text: str) -> bool:
    return "No space left" in text or "quota exceeded" in text


def _shared(cache: Cache) -> Options:
    options = _family(cache, _SMALL_BUFFER_BYTES)
    options.create_if_missing(True)
    options.create_missing_column_families(True)
    options.set_wal_recovery_mode(DBRecoveryMode.point_in_time())  # why: storage/rocksdb.py
    options.set_max_total_wal_size(_LOG_BYTES_MAX)
    options.set_max_open_files(_OPEN_FILES_MAX)
    options.set_max_manifest_file_size(16 * MIB)
    options.set_manifest_preallocation_size(64 * KIB)
    options.set_keep_log_file_num(2)  # the engine's own text log
    options.set_max_log_file_size(1 * MIB)
    options.set_stats_dump_period_sec(0)
    options.set_stats_persist_period_sec(0)
    return options


def _family(cache: Cache, write_buffer_bytes: int) -> Options:
    tables = BlockBasedOptions()
    tables.set_block_cache(cache)
    tables.set_bloom_filter(10, False)  # bits per key: 1 % false positives; a miss reads no table
    tables.set_cache_index_and_filter_blocks(True)  # else they grow with the keys, outside the cache
    tables.set_pin_l0_filter_and_index_blocks_in_cache(True)
    # In pieces: the filter of a table of 1,000,000 keys has 1.2 MB, more than a shard of the cache takes.
    # Whole, it is read and checked again for every get: 558 µs instead of 7.
    tables.set_index_type(BlockBasedIndexType.two_level_index_search())
    tables.set_partition_filters(True)
    tables.set_metadata_block_size(4 * KIB)
    tables.set_pin_top_level_index_and_filter(True)
    tables.set_format_version(6)
    options = Options(raw_mode=True)
    options.set_block_based_table_factory(tables)
    options.set_compression_type(DBCompressionType.lz4())
    options.set_write_buffer_size(write_buffer_bytes)
    options.set_max_write_buffer_number(_WRITE_BUFFERS)
    options.set_level_zero_slowdown_writes_trigger(_LEVEL_0_STOP)
    options.set_level_zero_stop_writes_trigger(_LEVEL_0_STOP)
    options.set_soft_pending_compaction_bytes_limit(0)  # 0: none; the count of level-0 tables is the bound
    options.set_hard_pending_compaction_bytes_limit(0)
    return options
