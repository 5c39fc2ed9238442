"""`shoal prices`: what machines cost, and from which list; `shoal prices refresh` asks the clouds' public lists."""

from __future__ import annotations

import click

from shoal.cli.output import emit, format_option, say

CLOUDS = ("aws", "azure", "gcp")


class _ShowByDefault(click.Group):
    """A group whose first word is a command or, where it is none, what `show` is asked for."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or args[0] not in {*self.commands, "-h", "--help"}:
            args = ["show", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_ShowByDefault)
def prices() -> None:
    """Show what machines cost, cheapest first: `shoal prices [TYPE]`, or refresh the lists.

    TYPE may end in `*`. Prices are list prices in USD per hour, of the date shown.
    """


@prices.command()
@click.argument("name", required=False, default="*", metavar="[TYPE]")
@click.option("--provider", type=click.Choice(CLOUDS), help="Only this cloud.")
@click.option("--region", help="Only this region.")
@click.option("--market", type=click.Choice(["on-demand", "spot"]), help="Only this market.")
@click.option("--cpu", type=click.FloatRange(0), default=0.0, help="At least this many vCPUs.")
@click.option("--memory-gib", type=click.FloatRange(0), default=0.0, help="At least this much memory.")
@click.option("--gpu", type=click.IntRange(0), default=0, help="At least this many GPUs.")
@click.option("--max", "usd_most", type=click.FloatRange(0), help="At most this many USD per hour.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="At most this many rows.")
@format_option()
def show(
    name: str,
    provider: str | None,
    region: str | None,
    market: str | None,
    cpu: float,
    memory_gib: float,
    gpu: int,
    usd_most: float | None,
    limit: int,
    form: str,
) -> None:
    """Show machine types with their price and its origin, cheapest first.

    Exits with 1 if no list has what was asked for.
    """
    from shoal.providers.prices.asking import Wish, found

    wish = Wish(
        name=name,
        providers=(provider,) if provider else CLOUDS,
        region=region or "",
        markets=(market,) if market else ("on-demand", "spot"),
        cpu=cpu,
        memory_gib=memory_gib,
        gpu=gpu,
        usd_per_h_most=usd_most,
    )
    rows, notes = found(wish)
    if rows:
        emit(rows[:limit], form)
    elif form != "table":
        emit([], form)
    if len(rows) > limit:
        say(f"{len(rows) - limit} more are not shown; see --limit")
    for line in notes:
        say(line)
    raise SystemExit(0 if rows else 1)


@prices.command()
@click.option("--provider", type=click.Choice(CLOUDS), required=True, help="Whose list.")
@click.option("--region", "regions", required=True, multiple=True, help="Which region; may be given several times.")
@click.option("--key", envvar="SHOAL_GCP_API_KEY", default="", help="API key; Compute Engine's list wants one.")
@click.option("--base", default="", help="Where to ask instead of the cloud's own address.")
@click.option(
    "--deadline", "deadline_s", type=click.FloatRange(1, 86400), default=900.0, help="Seconds a list may take."
)
@format_option()
def refresh(provider: str, regions: tuple[str, ...], key: str, base: str, deadline_s: float, form: str) -> None:
    """Fetch a cloud's public price list into your cache; it then counts before the shipped table."""
    from shoal.providers.prices.refresh import refresh as fetch

    done = []
    for region in regions:
        one = fetch(provider, region, base=base, key=key, deadline_s=deadline_s)
        done.append({"provider": one.provider, "region": one.region, "prices": one.prices, "path": one.path})
    emit(done, form)
