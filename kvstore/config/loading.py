"""From sources to the one value a node starts with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from kvstore.config.checks import TLS_FILES, contradictions, secrets_of, warnings_about
from kvstore.config.sources import Problem, read_settings
from kvstore.config.values import Config, LogConfig, NodeConfig, SecurityConfig
from kvstore.core.bucket import BucketProperties
from kvstore.core.limits import Limits
from kvstore.errors import ConfigError


def load(
    flags: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
    file: Path | None = None,
) -> Config:
    """The checked settings of a node. `flags`: key -> value or its text.

    `environment` is empty unless given; KVSTORE_CONFIG in it names the file where `file` does not.
    Raises ConfigError that names every problem, where each value came from, and the remedy.
    """
    settings, problems = read_settings(flags or {}, environment or {}, file)
    if settings.malformed:  # a default in its place would contradict what nobody wrote
        raise_if_any(problems)
    problems += contradictions(settings)
    cluster_key, token = secrets_of(settings, problems)
    raise_if_any(problems)
    assert cluster_key is not None, "a missing key is a problem"

    value = {key: setting.value for key, setting in settings.items()}
    files = (*TLS_FILES["http"], *TLS_FILES["rpc"])
    security = SecurityConfig(
        cluster_key, token, value["client_tokens_file"], **{key: value[key] for key in files}
    )
    for kind, certificates in (("http", security.http_certificates), ("rpc", security.rpc_certificates)):
        try:
            certificates()
        except ConfigError as error:
            problems.append(Problem(f"TLS of {kind}: {error.detail}", error.advice))
    raise_if_any(problems)
    node = NodeConfig(**{f.name: value[f.name] for f in fields(NodeConfig)})
    return Config(
        node=node,
        security=security,
        bucket=BucketProperties(**{f.name: value[f.name] for f in fields(BucketProperties) if f.init}),
        limits=Limits(**{f.name: value[f.name] for f in fields(Limits)}),
        log=LogConfig(value["log_level"], value["log_format"]),
        origins={key: setting.origin for key, setting in settings.items()},
        warnings=tuple(warnings_about(settings)),
    )


def raise_if_any(problems: list[Problem]) -> None:
    if len(problems) == 1:
        raise ConfigError(problems[0].text, advice=problems[0].advice)
    if problems:
        lines = (f"\n  {text}\n    hint: {advice}" for text, advice in problems)
        raise ConfigError(f"{len(problems)} settings are wrong:{''.join(lines)}")
