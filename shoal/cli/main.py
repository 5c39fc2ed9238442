"""`shoal`: the command group. Commands load when they are used, so that `--help` is instant.

Exit codes: 0 done, 1 the thing asked for is not there or did not work, 2 the input is wrong, 3 somebody else holds what
is needed, 130 interrupted. A user's mistake is one line and a hint, never a traceback; SHOAL_DEBUG=1 shows them.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import click

COMMANDS = {
    "up": ("shoal.cli.up", "Start the cluster that a YAML file describes, or bring it up to date."),
    "down": ("shoal.cli.down", "End a cluster and everything it runs and pays for."),
    "status": ("shoal.cli.status", "Show nodes, usage, demand, cost, and why nothing happens."),
    "plan": ("shoal.cli.plan", "Show what the autoscaler would buy, and why. Changes nothing."),
    "explain": ("shoal.cli.explain", "Tell the story of one instance, node or demand."),
    "validate": ("shoal.cli.validate", "Check a YAML file and report every mistake in it."),
    "simulate": ("shoal.cli.simulate", "Play a trace against a YAML in virtual time: cost, waiting, chart."),
    "prices": ("shoal.cli.prices", "Show or refresh machine prices."),
    "monitor": ("shoal.cli.monitor", "Follow the cluster's events."),
    "logs": ("shoal.cli.logs", "Show or follow the logs of nodes, workers, actors and tasks."),
    "list": ("shoal.cli.list", "List tasks, actors, objects, nodes, workers, groups, jobs, events."),
    "get": ("shoal.cli.get", "Show one task, actor, object, node, worker or group."),
    "summary": ("shoal.cli.summary", "Count tasks, actors or objects by kind and state."),
    "memory": ("shoal.cli.memory", "Show what objects take, and who holds them."),
    "timeline": ("shoal.cli.timeline", "Write a Chrome trace of what ran when."),
    "clusters": ("shoal.cli.clusters", "List this user's live clusters on this machine."),
    "start": ("shoal.cli.start", "Start a head or a node on this machine by hand."),
    "stop": ("shoal.cli.stop", "Stop what `shoal start` started on this machine."),
}


class LazyCommands(click.Group):
    """A group whose commands are imported when they are called; help needs only their one line above."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name, (module, _) in COMMANDS.items() if _exists(module)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        name = cmd_name.replace("_", "-")
        if name not in COMMANDS:
            return None
        module = importlib.import_module(COMMANDS[name][0])
        command = getattr(module, name.replace("-", "_"))
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in self.list_commands(ctx)])

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            import difflib

            near = difflib.get_close_matches(args[0], self.list_commands(ctx), n=1)
            hint = f", did you mean `{near[0]}`?" if near else ""
            raise click.UsageError(f"no command `{args[0]}`{hint}", ctx) from None


@click.group(cls=LazyCommands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="shoal", prog_name="shoal")
def shoal() -> None:
    """An autoscaling cluster for Python: one YAML, the cheapest machines that fit."""


def main() -> None:
    """Run the command line; every error that a user can cause ends here as one line."""
    try:
        code = shoal.main(standalone_mode=False)
    except click.exceptions.Exit as stop:
        code = stop.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        code = error.exit_code
    except click.ClickException as error:
        click.echo(f"error: {_one_line(error)}", err=True)
        if isinstance(error, click.UsageError):
            command = error.ctx.command_path if error.ctx is not None else "shoal"
            click.echo(f"hint: `{command} --help` shows what there is", err=True)
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        code = 130
    except BrokenPipeError:
        # The reader went away (`| head`); nothing to tell anyone.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except Exception as error:
        code = _told(error)
    raise SystemExit(code if isinstance(code, int) else 0)


def _one_line(error: click.ClickException) -> str:
    """Return click's message as we write ours: on one line, no capital first, no full stop last."""
    text = " ".join(error.format_message().split()).removesuffix(".")
    return text[:1].lower() + text[1:]


def _told(error: Exception) -> int:
    """Print an error as one line and a hint; return the exit code. Only our own bugs show a traceback."""
    from shoal.foundation.errors import ShoalError, UserError

    if os.environ.get("SHOAL_DEBUG") == "1" or not isinstance(error, ShoalError | OSError | TimeoutError):
        import traceback

        traceback.print_exception(error)
        if not isinstance(error, ShoalError | OSError):
            click.echo("this is a bug in shoal: please report it with the lines above", err=True)
        return 70
    # Mistakes in a file begin with their own place, so that editors can jump there.
    has_place = hasattr(error, "diagnostics")
    click.echo(str(error) if has_place else f"error: {error}", err=True)
    if isinstance(error, UserError):
        if error.hint:
            click.echo(f"hint: {error.hint}", err=True)
        return error.exit_code
    return 1


def _exists(module: str) -> bool:
    """Say whether a command's module is there, without importing it."""
    from pathlib import Path

    return (Path(__file__).parent / f"{module.rpartition('.')[2]}.py").exists()


if __name__ == "__main__":
    main()
