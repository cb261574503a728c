"""Options that are settings: made from the table of settings, read by the same rules as the other sources."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import click

from kvstore.config import FIELDS, Field
from kvstore.config.sources import display

CONCERNS = {
    "node": "This node",
    "security": "Secrets (themselves only in the environment or a file)",
    "bucket": "Buckets that nobody gave properties",
    "log": "Log",
    "limits": "Limits",
}

_Command = TypeVar("_Command", bound=Callable[..., Any])


def settings_options(command: _Command) -> _Command:
    """--config, and a flag for every setting that is no secret."""
    for field in reversed(FIELDS.values()):
        if field.flag:
            option = click.option(field.flag, field.key, metavar=_metavar(field), help=_help(field))
            command = option(command)
    return click.option(
        "--config",
        "config_file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Settings file (TOML).",
    )(command)


def sources(values: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `kvstore.config.load` from what click collected."""
    file = values.pop("config_file")
    flags = {key: value for key, value in values.items() if value is not None}
    return {"flags": flags, "environment": os.environ, "file": file}


class SettingsCommand(click.Command):
    """Shows the settings by concern. Limits take a screen of their own: --help-limits."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.params.append(
            click.Option(
                ["--help-limits"],
                is_flag=True,
                is_eager=True,
                expose_value=False,
                callback=_show_limits,
                help="Show the options for limits and exit.",
            )
        )

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        concerns = [concern for concern in CONCERNS if concern != "limits"]
        self.write_settings(ctx, formatter, concerns)
        others = [p for p in self.get_params(ctx) if p.name not in FIELDS]
        with formatter.section("Other options"):
            formatter.write_dl([record for p in others if (record := p.get_help_record(ctx))])

    def write_settings(self, ctx: click.Context, formatter: click.HelpFormatter, concerns: list[str]) -> None:
        params = [p for p in self.get_params(ctx) if p.name in FIELDS]
        for concern, members in groupby(params, key=lambda p: FIELDS[p.name or ""].concern):
            if concern in concerns:
                with formatter.section(CONCERNS[concern]):
                    formatter.write_dl([record for p in members if (record := p.get_help_record(ctx))])


def _show_limits(ctx: click.Context, _parameter: click.Parameter, asked: bool) -> None:
    if not asked or ctx.resilient_parsing:
        return
    formatter = ctx.make_formatter()
    assert isinstance(ctx.command, SettingsCommand)
    ctx.command.write_settings(ctx, formatter, ["limits"])
    click.echo(formatter.getvalue().rstrip("\n"))
    ctx.exit()


def _metavar(field: Field) -> str:
    if field.type == "flag":
        return "true|false"
    return "|".join(field.choices) if field.choices else field.type.upper()


def _help(field: Field) -> str:
    default = "" if field.default in (None, "", ()) else f" [{display(field.default)}]"
    unit = f", in {field.unit}" if field.unit else ""
    return f"{field.help}{unit}{default}"
