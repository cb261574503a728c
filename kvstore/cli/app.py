"""The verbs, each loaded when it is typed; and what an error looks like and exits with."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from importlib import import_module
from typing import Any

import click

from kvstore.cli.output import Exit, report, say
from kvstore.errors import KVStoreError

VERBS = {
    "get": "kvstore.cli.data:get",
    "put": "kvstore.cli.data:put",
    "delete": "kvstore.cli.data:delete",
    "scan": "kvstore.cli.scan:scan",
    "import": "kvstore.cli.bulk_import:import_",
    "export": "kvstore.cli.bulk_export:export",
    "bucket": "kvstore.cli.bucket:bucket",
    "status": "kvstore.cli.cluster:status",
    "explain": "kvstore.cli.cluster:explain",
    "hints": "kvstore.cli.hints:hints",
    "degradation": "kvstore.cli.degradation:degradation",
    "repair": "kvstore.cli.repair:repair",
    "tasks": "kvstore.cli.repair:tasks",
    "serve": "kvstore.cli.serve:serve",
    "config": "kvstore.cli.settings:config",
    "keygen": "kvstore.cli.settings:keygen",
    "token": "kvstore.cli.tokens:token",
    "healthcheck": "kvstore.cli.health:healthcheck",
    "dev": "kvstore.cli.dev:dev",
    "demo": "kvstore.cli.demo:demo",
    "simulate": "kvstore.cli.simulate:simulate",
    "bench": "kvstore.cli.bench:bench",
}
"""verb -> module:command, in the order of the help."""


class App(click.Group):
    """Verbs on demand. Errors become one line and a hint; KVSTORE_DEBUG=1 shows the traceback instead."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module, _, name = VERBS[cmd_name].partition(":")
        command = getattr(import_module(module), name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            from difflib import get_close_matches

            close = get_close_matches(args[0], VERBS, 1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise click.UsageError(f"No such command {args[0]!r}.{hint}", ctx) from None

    def invoke(self, ctx: click.Context) -> Any:
        if os.environ.get("KVSTORE_DEBUG") == "1":
            return super().invoke(ctx)
        try:
            return super().invoke(ctx)
        except KVStoreError as error:
            ctx.exit(report(error))
        except BrokenPipeError:  # whoever read our output has enough
            with suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(Exit.OK)
        except (KeyboardInterrupt, click.Abort):
            say("interrupted")
            ctx.exit(Exit.INTERRUPTED)
        except OSError as error:
            say(f"error: {error.filename or 'system'}: {error.strerror or error}")
            ctx.exit(Exit.ERROR)
        except click.ClickException as error:
            _tell_of_usage(error)
            ctx.exit(error.exit_code)
        except click.exceptions.Exit:
            raise
        except Exception as error:
            say(f"error: this is a bug in kvstore: {type(error).__name__}: {error}")
            say("hint: KVSTORE_DEBUG=1 shows where; please report it")
            ctx.exit(Exit.ERROR)


def _tell_of_usage(error: click.ClickException) -> None:
    """Click's own words, in our form. A group without a verb shows its help, as Click has it."""
    if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):
        error.show()
        return
    message = error.format_message()
    say(f"error: {message[:1].lower()}{message[1:].rstrip('.')}")
    if isinstance(error, click.UsageError) and error.ctx is not None:
        say(f"hint: {error.ctx.command_path} --help")


@click.command(cls=App, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="quorum-kvstore", prog_name="kvstore")
def app() -> None:
    """A leaderless, quorum-replicated key-value store.

    \b
    Exit codes: 0 ok, 1 error, 2 usage, 3 not found, 4 conflict, 5 unavailable, 6 outcome unknown.
    Data go to stdout, everything else to stderr. Every verb has an example in its --help.
    """
