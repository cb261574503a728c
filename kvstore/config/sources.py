"""Where values come from: flags > environment > file > defaults, each remembered with its origin."""

from __future__ import annotations

import re
import socket
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from kvstore.config.fields import ENV_PREFIX, FIELDS, OTHER_VARIABLES, Field
from kvstore.config.values import is_wildcard, split_address
from kvstore.errors import ConfigError

FILE_BYTES_MAX = 1 << 20

# A Kubernetes service (or linked container) called kvstore or kvstore-something puts variables like
# these into every container beside it; deploy/.env may set KVSTORE_PORT_N1. Nobody's typing errors.
_ORCHESTRATED = re.compile(
    r"KVSTORE_(.+_)?(SERVICE_(HOST|PORT(_.+)?)|PORT(_\d+_(TCP|UDP|SCTP)(_.+)?)?)|KVSTORE_PORT_N\d+"
)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


class Setting(NamedTuple):
    """A value and who said it: "flag --n", "env KVSTORE_N", "file kv.toml", "default"."""

    value: Any
    origin: str


class Problem(NamedTuple):
    """What is wrong, and what to do about it."""

    text: str
    advice: str


class Settings(dict[str, Setting]):
    """Every key of FIELDS with its value and origin. `malformed`: keys whose value could not be read."""

    def __init__(self) -> None:
        super().__init__()
        self.malformed: set[str] = set()

    def said(self, key: str) -> str:
        """For messages: "n=3 (default)"; a secret's value is left out."""
        value, origin = self[key]
        shown = "" if FIELDS[key].secret else f"={display(value)}"
        return f"{key}{shown} ({origin})"


def display(value: Any) -> str:
    """A value as the environment would spell it; "" for none."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(value) if isinstance(value, tuple) else str(value)


def read_settings(
    flags: Mapping[str, Any], environment: Mapping[str, str], file: Path | None = None
) -> tuple[Settings, list[Problem]]:
    """Every setting by precedence, each checked alone. What is wrong falls back to its default."""
    problems: list[Problem] = []
    settings = Settings()
    raw = {key: Setting(field.default, "default") for key, field in FIELDS.items()}
    named = environment.get("KVSTORE_CONFIG")
    path = file or (Path(named) if named else None)
    if path is not None:
        raw |= _from_file(path, problems)
    raw |= _from_environment(environment, problems)
    for key, value in flags.items():
        if key not in FIELDS:
            problems.append(Problem(f"unknown setting {key!r}", _suggestion(key, FIELDS)))
        else:
            raw[key] = Setting(value, f"flag {FIELDS[key].flag}" if FIELDS[key].flag else "given")
    for key, (value, origin) in raw.items():
        field = FIELDS[key]
        if origin == "default":
            settings[key] = Setting(value, origin)
            continue
        try:
            settings[key] = Setting(_read(field, value), origin)
        except ValueError as error:
            problems.append(Problem(f"{key} ({origin}): {error}", f"{key} is {field.help}"))
            settings[key] = Setting(field.default, "default")
            settings.malformed.add(key)
    for key in ("name", "host"):
        if not settings[key].value:
            settings[key] = Setting(_host_name(), "default, the host's name")
    return settings, problems


def _from_file(path: Path, problems: list[Problem]) -> dict[str, Setting]:
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise ConfigError(
                f"the settings file {path} is larger than {FILE_BYTES_MAX} bytes",
                advice="correct --config or KVSTORE_CONFIG",
            )
        table = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(
            f"cannot read the settings file {path}: {error.strerror}",
            advice="correct --config or KVSTORE_CONFIG",
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}", advice='a line looks like name = "n1"') from None
    found = {}
    for key, value in table.items():
        if key in FIELDS:
            found[key] = Setting(value, f"file {path}")
        elif isinstance(value, dict):
            problems.append(
                Problem(f"[{key}] in {path}: settings are not in tables", "write key = value lines only")
            )
        else:
            problems.append(Problem(f"unknown setting {key!r} in {path}", _suggestion(key, FIELDS)))
    return found


def _from_environment(environment: Mapping[str, str], problems: list[Problem]) -> dict[str, Setting]:
    """Empty variables count as not set: compose files write VARIABLE=${VARIABLE:-}."""
    known = {field.env: key for key, field in FIELDS.items()}
    found = {}
    for variable in sorted(v for v in environment if v.startswith(ENV_PREFIX)):
        if variable in known:
            if environment[variable]:
                found[known[variable]] = Setting(environment[variable], f"env {variable}")
        elif variable not in OTHER_VARIABLES and not _ORCHESTRATED.fullmatch(variable):
            advice = _suggestion(variable, [*known, *OTHER_VARIABLES])
            problems.append(Problem(f"unknown environment variable {variable}", advice))
    return found


def _suggestion(name: str, known: Iterable[str]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, list(known), 1, cutoff=0.7)
    return f"did you mean {close[0]!r}?" if close else "`kvstore config show` lists all settings"


def _host_name() -> str:
    """The first label of the host's name, made fit for a node's name."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname().split(".")[0])[:63].strip("-._") or "node"


# --- one value ------------------------------------------------------------------------------------


def _read(field: Field, value: Any) -> Any:
    """`value` as the field's type. Raises ValueError; a secret's text is in no message."""
    return _READERS[field.type](field, value)


def _text(field: Field, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("must be a text" if field.secret else f"{value!r} must be a text")
    return value


def _name(field: Field, value: Any) -> str:
    text = _text(field, value)
    if text and not _NAME.fullmatch(text):
        raise ValueError(f"{text[:64]!r} must be 1 to 63 letters, digits, '.', '_' or '-'")
    return text


_Number = TypeVar("_Number", int, float)


def _number(field: Field, value: Any) -> float:
    try:
        number = float(value) if not isinstance(value, bool) else None
    except (ValueError, TypeError):
        number = None
    if number is None:
        raise ValueError(f"{value!r} is not a number{_of_unit(field)}")
    return _bounded(field, number)


def _integer(field: Field, value: Any) -> int:
    try:
        number = int(value) if isinstance(value, int | str) and not isinstance(value, bool) else None
    except ValueError:
        number = None
    if number is None:
        raise ValueError(f"{value!r} is not a whole number{_of_unit(field)}")
    return _bounded(field, number)


def _flag(_field: Field, value: Any) -> bool:
    if value in (True, "true"):
        return True
    if value in (False, "false"):
        return False
    raise ValueError(f"{value!r} must be true or false")


def _of_unit(field: Field) -> str:
    return f" of {field.unit}" if field.unit else ""


def _bounded(field: Field, number: _Number) -> _Number:
    assert field.low is not None
    assert field.high is not None
    if not field.low <= number <= field.high:  # a NaN is refused here too
        raise ValueError(f"{number} must lie between {field.low} and {field.high}")
    return number


def _path(field: Field, value: Any) -> Path:
    text = str(value) if isinstance(value, Path) else _text(field, value)
    if not text or "\0" in text:
        raise ValueError(f"{text!r} is not a path")
    return Path(text).expanduser()


def _address(field: Field, value: Any) -> str:
    """An address to listen on may have port 0; one that others are to use may not, nor a wildcard."""
    text = _text(field, value)
    host, port = split_address(text)
    if not field.key.endswith("_listen"):
        if is_wildcard(host):
            raise ValueError(f"{text!r} is a wildcard: nobody can connect to it")
        if port == 0:
            raise ValueError(f"{text!r} has port 0: nobody can connect to it")
    return text


def _addresses(field: Field, value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [part for part in map(str.strip, value.split(",")) if part]
    if not isinstance(value, list | tuple):
        raise ValueError(f"{value!r} must be a list of host:port")
    return tuple(dict.fromkeys(_address(field, part) for part in value))


def _choice(field: Field, value: Any) -> str:
    if value not in field.choices:
        raise ValueError(f"{value!r} must be one of {', '.join(field.choices)}")
    return str(value)


_READERS: dict[str, Callable[[Field, Any], Any]] = {
    "text": _text,
    "name": _name,
    "integer": _integer,
    "number": _number,
    "flag": _flag,
    "path": _path,
    "address": _address,
    "addresses": _addresses,
    "choice": _choice,
}
