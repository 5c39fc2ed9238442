"""A hundred storms and the drills: whatever cloud, head and process do, once calm all is served and nothing left.

`make storm SEEDS=10000` runs more; a failure here prints the seed, and `make storm SEED=...` its story.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from shoal.testing import drills, drills_buying, drills_keeping, drills_owning, mutations, sim_time
from shoal.testing.storm import FOUND_LEAST, WILD, main, storm, wild

RESULT = Path(__file__).parents[2] / "benchmarks" / "results" / "storm_planted_bugs.json"
SEEDS = 100
CHUNK = 10
DRILL_SEEDS = 10


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_no_storm_leaves_anything_wrong(first: int) -> None:
    for seed in range(first, first + CHUNK):
        outcome = sim_time.run(wild(seed))
        assert not outcome.wrong, f"make storm SEED={seed}: {outcome.wrong}"


@pytest.mark.parametrize("name", drills.DRILLS)
def test_no_drill_goes_wrong(name: str) -> None:
    for seed in range(DRILL_SEEDS):
        assert not (ended := drills.run(name, seed)).wrong, f"make storm SEED={seed}: {ended.wrong}"


def test_a_seed_tells_the_same_story_twice() -> None:
    first, again = sim_time.run(wild(3, True)), sim_time.run(wild(3, True))
    assert first.story == again.story
    assert first.kills > 0
    name = "a_lost_answer_is_no_refusal"
    assert drills.run(name, 3, story=True).story == drills.run(name, 3, story=True).story


@pytest.mark.parametrize("bug", mutations.BUGS)
def test_a_planted_bug_is_found(bug: str) -> None:
    """The storm itself is tested: it must fail where the code is wrong. `--bugs` counts over many seeds."""
    assert any(storm(seed, bug=bug).wrong for seed in range(3))


def test_a_planted_bug_is_taken_back() -> None:
    assert storm(0, bug="a_dry_offer_is_asked_again_at_once").part == "a_dry_offer_rests"
    assert not drills.run("a_dry_offer_rests", 0).wrong


def test_every_drill_and_every_bug_says_what_it_is() -> None:
    for name, drilled in drills.DRILLS.items():
        assert inspect.getdoc(drilled), name
    for name, planted in mutations.BUGS.items():
        assert inspect.getdoc(planted), name
    assert WILD not in drills.DRILLS
    assert {one.__module__ for one in drills.DRILLS.values()} == {
        one.__name__ for one in (drills_buying, drills_keeping, drills_owning)
    }


def test_the_kept_table_is_of_the_bugs_there_are() -> None:
    """Write it anew with `python -m shoal.testing.storm --seeds 100 --bugs --processes 2 --out FILE`."""
    kept = json.loads(RESULT.read_text())
    first, last = kept["seeds"]
    assert set(kept["seeds_that_find"]) == set(mutations.BUGS)
    assert min(kept["seeds_that_find"].values()) >= FOUND_LEAST * (last - first + 1)


def test_the_command_counts_faults_and_keeps_them(tmp_path: Path) -> None:
    out = tmp_path / "storm.json"

    done = CliRunner().invoke(main, ["--seeds", "1", "--out", str(out)])

    assert done.exit_code == 0, done.output
    assert "1 seeds, 0 failed" in done.output and "lost_reply" in done.output
    kept = json.loads(out.read_text())
    assert kept["seeds"] == [0, 0] and kept["failed"] == [] and kept["injected"]["lost_reply"] > 0


def test_the_command_names_the_bugs_there_are() -> None:
    done = CliRunner().invoke(main, ["--seed", "1", "--bug", "none_such"])

    assert done.exit_code == 2
    assert "no bug `none_such`" in done.output and "release_is_never_called" in done.output
