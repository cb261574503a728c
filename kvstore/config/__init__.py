"""Settings: flags > environment > TOML file > defaults, into one validated frozen value per concern.

    fields.py    every setting once: key, type, default, what it is, what a wrong one costs
    words.py     what the settings of core/ mean to an operator
    sources.py   where values come from, and what each source calls them
    certificates.py    TLS from files
    tokens.py    the file of client tokens
    watch.py     whether a file has changed
    checks.py    what single values cannot tell: settings that contradict each other
    loading.py   load: sources, then checks, then values
    values.py    the result: Config and its parts

One setting has one name everywhere: `http_listen` in the file, KVSTORE_HTTP_LISTEN in the
environment, --http-listen on the command line. Files are flat TOML, without tables.
"""

from __future__ import annotations

from kvstore.config.fields import FIELDS, Field
from kvstore.config.loading import load
from kvstore.config.values import (
    Config,
    LogConfig,
    NodeConfig,
    SecurityConfig,
    is_loopback,
    is_wildcard,
    parse_cluster_key,
    split_address,
)

__all__ = [
    "FIELDS",
    "Config",
    "Field",
    "LogConfig",
    "NodeConfig",
    "SecurityConfig",
    "is_loopback",
    "is_wildcard",
    "load",
    "parse_cluster_key",
    "split_address",
]
