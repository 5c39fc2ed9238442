"""What a changed file changes, and taking it over while the cluster runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from shoal.config.difference import Change, Effect, difference, needs_restart
from shoal.config.load import Loaded, load, loaded
from shoal.config.reload import reload
from shoal.config.source import decode

LOCAL = Path(__file__).parents[3] / "configs/local.yaml"
TEXT = LOCAL.read_text()
OLD = load(LOCAL)


def changed(*replacements: tuple[str, str]) -> Loaded:
    text = TEXT
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new)
    return loaded(decode(text.encode(), "new.yaml"), Path("new.yaml"))


def changes(*replacements: tuple[str, str]) -> tuple[Change, ...]:
    return difference(OLD, changed(*replacements))


def test_comments_and_order_change_nothing() -> None:
    text = "\n".join(line for line in TEXT.split("\n") if not line.startswith("#"))

    assert difference(OLD, loaded(decode(text.encode(), "new.yaml"), Path("new.yaml"))) == ()


@pytest.mark.parametrize(
    ("old", "new", "said", "effect"),
    [
        ("max_workers: 4\n\n", "max_workers: 6\n\n", "changes max_workers from `4` to `6`", Effect.NOW),
        ("idle_timeout_s: 5s", "idle_timeout_s: 1m", "changes idle_timeout_s from `5` to `60` s", Effect.NOW),
        ("usd_per_hour_max: 1.00", "usd_per_hour_max: 2", "from `1` to `2` USD/h", Effect.NOW),
        ("lifetime: 8h\n", "", "takes lifetime away (was `28800` s)", Effect.NOW),
        ("{size: small}", "{size: tiny}", "labels.size from `small` to `tiny`", Effect.NEW_MACHINES),
        ("{CPU: 2,", "{CPU: 3,", "small.resources.CPU from `2` to `3`", Effect.NEW_MACHINES),
        ("{CPU: 1, memory: 1", "{CPU: 1, memory: 2", "head.resources.memory from `1 GiB` to `2 GiB`", Effect.RESTART),
        ("cluster_name: local", "cluster_name: other", "cluster_name from `local` to `other`", Effect.REBUILD),
        ("lifetime: 8h", "lifetime: 8h\nauth: {ssh_user: me}", "ssh_user from `ubuntu` to `me`", Effect.RESTART),
        ("lifetime: 8h", "lifetime: 8h\nmetadata: x", "sets metadata to `x`", Effect.NONE),
    ],
)  # fmt: skip
def test_change_says_what_and_when(old: str, new: str, said: str, effect: Effect) -> None:
    (change,) = changes((old, new))

    assert said in str(change)
    assert change.effect is effect


def test_types_added_and_removed() -> None:
    removed, added = changes(("  large:", "  huge:"))

    assert str(removed) == "removes node type `large` (its machines finish their work and are released)"
    assert str(added) == (
        "adds node type `huge` (4 CPU, 2 GiB memory, 512 MiB object_store_memory, at most 2 workers) (at once)"
    )


def test_only_a_changed_head_needs_a_restart() -> None:
    assert needs_restart(changes(("{CPU: 1,", "{CPU: 2,")))
    assert not needs_restart(changes(("{CPU: 2,", "{CPU: 3,")))


def test_difference_forth_and_back_names_the_same_places() -> None:
    new = changed(("max_workers: 4\n\n", "max_workers: 6\n\n"), ("  large:", "  huge:"), ("flap: 3s", "flap: 1s"))

    forth = {change.path for change in difference(OLD, new)}
    back = {change.path for change in difference(new, OLD)}

    assert forth == back == {"max_workers", "available_node_types.large", "available_node_types.huge", "policy.flap"}


def test_reload_takes_a_good_change(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(TEXT)
    first = load(path)
    path.write_text(TEXT.replace("max_workers: 4", "max_workers: 6"))

    result = reload(first)

    assert result.is_taken
    assert result.current.policy.max_workers == 6
    assert result.changes[0].path == "max_workers"


@pytest.mark.parametrize("text", ["", "max_workers: [", TEXT.replace("max_workers: 4", "max_workers: many"), None])
def test_reload_keeps_the_old_file_when_the_new_one_is_broken(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(TEXT)
    first = load(path)
    path.unlink()
    if text is not None:
        path.write_text(text)

    result = reload(first)

    assert result.current is first
    assert not result.is_taken
    assert result.errors is not None
    assert str(path) in str(result.errors)


def test_reload_does_nothing_for_the_same_text(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(TEXT)
    first = load(path)
    path.write_text(TEXT)

    assert reload(first).current is first
    assert reload(first).errors is None


def test_reload_does_not_turn_one_cluster_into_another(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(TEXT)
    first = load(path)
    path.write_text(
        TEXT.replace("cluster_name: local", "cluster_name: other").replace("max_workers: 4", "max_workers: 6")
    )

    result = reload(first)

    assert not result.is_taken
    assert result.current is first
    assert Effect.REBUILD in {change.effect for change in result.changes}
