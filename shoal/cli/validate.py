"""`shoal validate`: every mistake of a YAML file at once."""

from __future__ import annotations

from pathlib import Path

import click

from shoal.cli.output import say


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
def validate(config: Path) -> None:
    """Check CONFIG and report every mistake in it. Changes nothing.

    Exits with 0 if it can be used (warnings go to stderr), 2 if not.
    """
    from shoal.config.load import load

    loaded = load(config)
    for warning in loaded.warnings:
        say(str(warning))
    kinds = len(loaded.policy.node_types)
    click.echo(f"{config}: good ({kinds} node type{'s' * (kinds != 1)}, cluster `{loaded.policy.cluster_name}`)")
