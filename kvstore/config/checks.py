"""What single values cannot tell: settings that contradict each other, refused before a node starts (B22).

Each function yields problems that name both settings, where each came from, and the remedy.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from pathlib import Path

from kvstore.config.sources import Problem, Settings
from kvstore.config.tokens import read_tokens
from kvstore.config.values import is_address, is_loopback, is_wildcard, parse_cluster_key, split_address
from kvstore.core.bucket import RATE_MIN
from kvstore.core.quorum import majority
from kvstore.errors import ConfigError

TOKEN_CHARACTERS_MIN = 16
SECRET_FILE_BYTES_MAX = 4096
TTL_MIN_S = 0.001

_NODE_ID = re.compile("[0-9a-f]{32}")
KEYGEN = "make one with `kvstore keygen cluster.key`, copy it to every node, set cluster_key_file"


def contradictions(settings: Settings) -> list[Problem]:
    """All of them, in the order in which one would fix them."""
    checks = (
        _quorums,
        _cluster_size,
        _conflicts,
        _addresses,
        _exposure,
        _tls,
        _seeds,
        _data_dir,
        _identity,
        _sizes,
        _times,
    )
    return [problem for check in checks for problem in check(settings)]


def _quorums(settings: Settings) -> Iterator[Problem]:
    said, n = settings.said, settings["n"].value
    for key, what in (("r", "answer a read"), ("w", "have a write")):
        if settings[key].value > n:
            yield Problem(
                f"{said(key)} is more than {said('n')}: at most n nodes can {what}",
                f"set {key} to at most {n}, or n to at least {settings[key].value}",
            )
    for key, whole in (("pr", "r"), ("pw", "w")):
        count = settings[whole].value or majority(n)
        if settings[key].value > count:
            meaning = "" if settings[whole].value else f", the majority {count} of n,"
            yield Problem(
                f"{said(key)} is more than {said(whole)}{meaning} of which it is a part",
                f"set {key} to at most {count}, or raise {whole}",
            )


def _cluster_size(settings: Settings) -> Iterator[Problem]:
    n, expect = settings["n"].value, settings["bootstrap_expect"].value
    if n > expect:
        yield Problem(
            f"{settings.said('n')} needs at least {n} nodes, {settings.said('bootstrap_expect')}",
            f"set n={expect} or bootstrap_expect={n}",
        )


def _conflicts(settings: Settings) -> Iterator[Problem]:
    if settings["conflict"].value == "last-write-wins" and settings["blind"].value != "overwrite":
        yield Problem(
            f"{settings.said('conflict')} keeps no siblings and takes no contexts, "
            f"{settings.said('blind')} needs them",
            "set blind=overwrite, or conflict=siblings",
        )
    if 0 < settings["ttl_s"].value < TTL_MIN_S:
        yield Problem(f"{settings.said('ttl_s')} is less than a millisecond", "set 0 for never")
    if 0 < settings["requests_per_s"].value < RATE_MIN:
        yield Problem(f"{settings.said('requests_per_s')} is less than {RATE_MIN}", "set 0 for any number")


def _addresses(settings: Settings) -> Iterator[Problem]:
    for kind in ("rpc", "http"):
        listen, advertise = f"{kind}_listen", f"advertise_{kind}"
        host, _ = split_address(settings[listen].value)
        if is_wildcard(host) and not settings[advertise].value:
            yield Problem(
                f"{settings.said(listen)} is a wildcard and {advertise} is not set: nobody can connect to it",
                f"set {advertise} to the host:port by which others reach this node",
            )
    rpc, http = (split_address(settings[key].value) for key in ("rpc_listen", "http_listen"))
    same_host = rpc[0] == http[0] or is_wildcard(rpc[0]) or is_wildcard(http[0])
    if rpc[1] == http[1] != 0 and same_host:
        yield Problem(
            f"{settings.said('rpc_listen')} and {settings.said('http_listen')} are one port",
            "give each its own port",
        )


def _exposure(settings: Settings) -> Iterator[Problem]:
    """Who can connect must prove something. Loopback is as safe as the machine."""
    keyed = any(settings[key].value for key in ("cluster_key", "cluster_key_file"))
    token = any(settings[key].value for key in ("client_token", "client_token_file", "client_tokens_file"))
    for listen in ("rpc_listen", "http_listen"):
        host, port = split_address(settings[listen].value)
        named = (("cluster_key_file", keyed), ("client_tokens_file or client_token_file", token))
        missing = [name for name, there in named if not there]
        if not is_loopback(host) and missing:
            what = " and ".join(missing)
            yield Problem(
                f"{settings.said(listen)} is open to other machines, {what} not set",
                f"set {what} (made by `kvstore keygen` and `kvstore token new`), "
                f"or listen on 127.0.0.1:{port}",
            )


TLS_FILES = {
    "http": ("http_certificate_file", "http_key_file"),
    "rpc": ("rpc_certificate_file", "rpc_key_file", "rpc_ca_file"),
}


def _tls(settings: Settings) -> Iterator[Problem]:
    """Half of what TLS takes would be none, or one that trusts everybody."""
    for files in TLS_FILES.values():
        there = [key for key in files if settings[key].value is not None]
        missing = [key for key in files if settings[key].value is None]
        if there and missing:
            yield Problem(
                f"{settings.said(there[0])} without {' and '.join(missing)}",
                f"set {' and '.join(missing)}, or none of {', '.join(files)}",
            )


def _seeds(settings: Settings) -> Iterator[Problem]:
    """A node that tells others to come to 127.0.0.1 cannot be reached by seeds elsewhere."""
    key = "advertise_rpc" if settings["advertise_rpc"].value else "rpc_listen"
    host, _ = split_address(settings[key].value)
    if not is_loopback(host):
        return
    for seed in settings["seeds"].value:
        seed_host, _ = split_address(seed)
        # Names may mean this machine; only an address elsewhere is certain.
        if is_address(seed_host) and not is_loopback(seed_host):
            yield Problem(
                f"{settings.said('seeds')}: {seed} is elsewhere, where {settings.said(key)} means itself",
                "set advertise_rpc to an address of this machine that the seed can connect to",
            )
            return


def _data_dir(settings: Settings) -> Iterator[Problem]:
    path: Path | None = settings["data_dir"].value
    if path is None:
        yield Problem("data_dir is not set", "set --data-dir, KVSTORE_DATA_DIR or data_dir in the file")
        return
    try:
        if path.exists() and not path.is_dir():
            yield Problem(f"{settings.said('data_dir')} is not a directory", "name a directory")
    except OSError as error:
        yield Problem(f"{settings.said('data_dir')}: {error.strerror}", "let this user read and write it")


def _identity(settings: Settings) -> Iterator[Problem]:
    if settings["recover_as"].value and not _NODE_ID.fullmatch(settings["recover_as"].value):
        yield Problem(
            f"{settings.said('recover_as')} is no node id, which has 32 hex digits",
            "`kvstore status -o json` at another node lists the members with their ids",
        )


_AT_MOST = (
    ("siblings_warn", "siblings_max", "the warning would come after the refusal"),
    ("value_bytes_max", "state_bytes_max", "the largest value fits no key"),
    ("value_bytes_max", "batch_bytes_max", "the largest value fits no batch"),
    ("value_bytes_max", "scan_bytes_max", "the largest value fits no page"),
    ("scan_bytes_max", "frame_bytes_max", "a replica's page fits no frame"),
    ("frame_bytes_max", "peer_outbox_bytes_max", "the largest frame fits no outbox"),
    ("request_timeout_s", "request_timeout_max_s", "the default is more than may be asked for"),
    ("disk_free_read_only_bytes", "disk_free_background_bytes", "writes would stop before background work"),
    ("disk_free_background_bytes", "disk_free_warn_bytes", "background work would stop before the warning"),
)
"""(smaller, larger, what happens otherwise)"""


def _sizes(settings: Settings) -> Iterator[Problem]:
    for smaller, larger, otherwise in _AT_MOST:
        if settings[smaller].value > settings[larger].value:
            yield Problem(
                f"{settings.said(smaller)} is more than {settings.said(larger)}: {otherwise}",
                f"lower {smaller} or raise {larger}",
            )
    version = sum(
        settings[key].value
        for key in ("value_bytes_max", "key_bytes_max", "metadata_bytes_max", "content_type_bytes_max")
    )
    if version >= settings["frame_bytes_max"].value:
        yield Problem(
            f"{settings.said('value_bytes_max')} with its key and metadata fits no frame: "
            f"{settings.said('frame_bytes_max')}",
            f"raise frame_bytes_max above {version} on every node, or lower value_bytes_max",
        )


def _times(settings: Settings) -> Iterator[Problem]:
    """A request that waits for one slow replica must have time left to ask another."""
    if settings["peer_deadline_s"].value * 2 > settings["request_timeout_s"].value:
        yield Problem(
            f"{settings.said('peer_deadline_s')} is more than half of {settings.said('request_timeout_s')}: "
            "no time is left to ask another replica",
            "lower peer_deadline_s or raise request_timeout_s",
        )


# --- secrets --------------------------------------------------------------------------------------


def secrets_of(settings: Settings, problems: list[Problem]) -> tuple[bytes | None, str]:
    """(cluster key, client token), from the setting or from its file. Adds what is wrong to `problems`."""
    cluster_key = None
    text = _secret(settings, "cluster_key", problems)
    if text is None and not any(settings[key].value for key in ("cluster_key", "cluster_key_file")):
        problems.append(Problem("no cluster key is set; there is no default", KEYGEN))
    elif text is not None:
        try:
            cluster_key = parse_cluster_key(text)
        except ValueError as error:
            problems.append(Problem(f"the cluster key ({_origin(settings, 'cluster_key')}) {error}", KEYGEN))
    token = _secret(settings, "client_token", problems)
    if token is not None and not (
        len(token) >= TOKEN_CHARACTERS_MIN and token.isascii() and token.isprintable() and " " not in token
    ):
        problems.append(
            Problem(
                f"the client token ({_origin(settings, 'client_token')}) is not at least "
                f"{TOKEN_CHARACTERS_MIN} printable ASCII characters without spaces",
                "make one with `kvstore keygen client.token`",
            )
        )
    tokens: Path | None = settings["client_tokens_file"].value
    if tokens is not None:
        try:
            read_tokens(tokens)
        except ConfigError as error:
            problems.append(Problem(f"{settings.said('client_tokens_file')}: {error.detail}", error.advice))
    return cluster_key, token or ""


def _origin(settings: Settings, key: str) -> str:
    file = settings[f"{key}_file"]
    return f"{file.value}, {file.origin}" if file.value else settings[key].origin


def _secret(settings: Settings, key: str, problems: list[Problem]) -> str | None:
    direct, file = settings[key], settings[f"{key}_file"]
    if direct.value and file.value:
        problems.append(
            Problem(
                f"both {settings.said(key)} and {settings.said(f'{key}_file')} are set",
                "keep one of them",
            )
        )
        return None
    if file.value is None:
        return direct.value.strip() if direct.value else None
    try:
        with file.value.open("rb") as stream:
            text: str = stream.read(SECRET_FILE_BYTES_MAX).decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        problems.append(
            Problem(f"cannot read {settings.said(f'{key}_file')}: {why}", "name a file this user can read")
        )
        return None
    if not text:
        problems.append(Problem(f"{settings.said(f'{key}_file')} is empty", "write the secret into it"))
        return None
    return text


# --- legal, but ----------------------------------------------------------------------------------


_SECRET_FILES = (
    "cluster_key_file", "client_token_file", "client_tokens_file", "http_key_file", "rpc_key_file",
)  # fmt: skip


def warnings_about(settings: Settings) -> Iterator[str]:
    """Legal settings with a cost that is easily overlooked."""
    n = settings["n"].value
    r, w = (settings[key].value or majority(n) for key in ("r", "w"))
    if r + w <= n:
        yield (
            f"{settings.said('r')} and {settings.said('w')} do not overlap on {settings.said('n')}: "
            "a read may miss an acknowledged write"
        )
    if settings["durability"].value == "async":
        yield f"{settings.said('durability')}: acknowledged writes may be lost when all their holders crash"
    if settings["bootstrap_expect"].value > 1 and not settings["seeds"].value:
        yield f"{settings.said('bootstrap_expect')} and no seeds: this node waits for others that name it"
    for listen, tls in (("http_listen", "http_certificate_file"), ("rpc_listen", "rpc_certificate_file")):
        host, _ = split_address(settings[listen].value)
        if not is_loopback(host) and settings[tls].value is None:
            yield f"{settings.said(listen)} is open to other machines without TLS: set {tls}"
    for key in (
        "cluster_key_file",
        "client_token_file",
        "client_tokens_file",
        "http_key_file",
        "rpc_key_file",
    ):
        path: Path | None = settings[key].value
        if path is not None and stat.S_IMODE(path.stat().st_mode) & stat.S_IRWXO:
            yield f"{settings.said(key)} can be read by every user of this machine: chmod o-rwx"
