"""A hundred storms: whatever cloud, head and process do, once calm everything is served and nothing is left.

`make storm SEEDS=10000` runs more; a failure here prints the seed, and `make storm SEED=...` its story.
"""

from __future__ import annotations

import pytest

from shoal.testing.storm import storm

SEEDS = 100
CHUNK = 10


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_no_storm_leaves_anything_wrong(first: int) -> None:
    for seed in range(first, first + CHUNK):
        outcome = storm(seed)
        assert not outcome.wrong, f"make storm SEED={seed}: {outcome.wrong}"


def test_a_seed_tells_the_same_story_twice() -> None:
    first, again = storm(3, story=True), storm(3, story=True)
    assert first.story == again.story
    assert first.kills > 0


@pytest.mark.parametrize("bug", ["release_is_never_called", "unknown_counts_as_refused", "release_skips_the_drain"])
def test_a_planted_bug_is_found(bug: str) -> None:
    """The storm itself is tested: it must fail where the code is wrong. `--bugs` runs the whole list."""
    assert any(storm(seed, bug=bug).wrong for seed in range(3))


@pytest.mark.parametrize(
    ("bug", "seed"),
    [
        ("busy_counts_as_empty", 12),
        ("boot_has_no_deadline", 19),
        ("what_is_asked_for_is_not_counted", 7),
        ("short_listing_counts_as_complete", 14),
        ("lost_never_returns", 5),
    ],
)
def test_what_the_wild_part_of_a_seed_misses_its_encore_finds(bug: str, seed: int) -> None:
    assert storm(seed, bug=bug).wrong
