"""config show, config check, keygen: what a node would start with, and the secrets it needs."""

from __future__ import annotations

import os
from pathlib import Path
from secrets import token_hex
from typing import Any

import click

from kvstore.cli.options import SettingsCommand, settings_options, sources
from kvstore.cli.output import Exit, emit, output_option, say, table
from kvstore.config import FIELDS, Field, load
from kvstore.config.sources import Setting, display, read_settings
from kvstore.errors import ConfigError

KEY_BYTES = 32


@click.group()
def config() -> None:
    """What a node would start with here, and whether it would."""


@config.command("show", cls=SettingsCommand)
@click.option("--origin", is_flag=True, help="Tell where each value comes from.")
@click.option("--all", "everything", is_flag=True, help="Limits and all, not only what differs or matters.")
@click.option("--describe", is_flag=True, help="Tell what each setting is and what a wrong one costs.")
@output_option
@settings_options
def show(origin: bool, everything: bool, describe: bool, output: str, **values: Any) -> None:
    """Every setting with its value. Secrets are never printed.

    Limits at their defaults are left out of the text unless --all is given; JSON has everything.

    \b
    Example:
      kvstore config show --origin --config /etc/kvstore.toml
      kvstore config show --all --describe
    """
    arguments = sources(values)
    settings, problems = read_settings(arguments["flags"], arguments["environment"], arguments["file"])
    rows = {
        key: _row(FIELDS[key], setting, origin=origin or output == "json", describe=describe)
        for key, setting in settings.items()
    }
    shown = [
        row
        for key, row in rows.items()
        if everything or FIELDS[key].concern != "limits" or settings[key].origin != "default"
    ]
    emit(output, rows, table([list(row.values()) for row in shown]))
    for problem in problems:
        say(f"error: {problem.text}")
        say(f"hint: {problem.advice}")
    if problems:
        click.get_current_context().exit(Exit.USAGE)


def _row(field: Field, setting: Setting, *, origin: bool, describe: bool) -> dict[str, str]:
    if field.secret:
        value = "set" if setting.value else "not set"
    else:
        value = "not set" if setting.value is None else display(setting.value)
    row = {"key": field.key, "value": value}
    if origin:
        row["origin"] = setting.origin
    if describe:
        row["help"], row["wrong"] = field.help, field.wrong
    return row


@config.command("check", cls=SettingsCommand)
@output_option
@settings_options
def check(output: str, **values: Any) -> None:
    """Whether a node would start with these settings: exit code 0, or 2 with every problem and its remedy.

    \b
    Example:
      kvstore config check --config /etc/kvstore.toml
    """
    try:
        checked = load(**sources(values))
    except ConfigError as error:
        emit(output, {"ok": False, "problem": error.detail, "advice": error.advice}, [])
        raise
    emit(output, {"ok": True, "warnings": checked.warnings}, ["the settings are consistent"])
    for warning in checked.warnings:
        say(f"warning: {warning}")


@click.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@output_option
def keygen(file: Path | None, output: str) -> None:
    """Make a secret of 32 random bytes, as hex: a cluster key, or a client token.

    Written to FILE with mode 0600, which must not exist; without FILE printed to stdout.

    \b
    Example:
      kvstore keygen cluster.key     then: cluster_key_file = "cluster.key" on every node
      kvstore keygen client.token    then: client_token_file = "client.token" on every node
    """
    secret = token_hex(KEY_BYTES)
    if file is None:
        emit(output, {"secret": secret}, [secret])
        return
    try:
        write_secret(file, secret)
    except FileExistsError:
        raise ConfigError(
            f"{file} exists", advice="a cluster has one key: copy it, or name a new file"
        ) from None
    emit(output, {"file": str(file)}, [])
    say(f"wrote {file} (mode 0600)")


def write_secret(file: Path, secret: str) -> None:
    """Raises FileExistsError. Readable by its owner only from the first moment on."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(secret + "\n")
