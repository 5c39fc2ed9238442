"""Errors, ids, chance, back-off and the event log."""

import doctest
import importlib
import re
from pathlib import Path

import pytest

from shoal.foundation import eventlog, ids
from shoal.foundation.backoff import backoff_s
from shoal.foundation.chance import Chance
from shoal.foundation.clock import SystemClock
from shoal.foundation.errors import CapacityError, Outcome, ProviderError, Retry, Scope, UserError
from shoal.foundation.eventlog import FileLog, Kind, MemoryLog


@pytest.mark.parametrize("module", ["amounts", "backoff", "chance", "ids"], ids=lambda name: name)
def test_examples_in_docstrings_hold(module: str) -> None:
    failed, tried = doctest.testmod(importlib.import_module(f"shoal.foundation.{module}"))

    assert tried > 0
    assert failed == 0


class TestErrors:
    def test_a_provider_error_carries_its_advice(self) -> None:
        error = CapacityError("no m5.large", code="InsufficientInstanceCapacity")

        assert (error.outcome, error.retry, error.scope) == (Outcome.REFUSED, Retry.ELSEWHERE, Scope.ZONE)
        assert error.code == "InsufficientInstanceCapacity"

    def test_in_doubt_the_outcome_is_unknown(self) -> None:
        assert ProviderError("?").outcome is Outcome.UNKNOWN

    def test_a_user_error_carries_hint_and_exit_code(self) -> None:
        error = UserError("no such thing", hint="look elsewhere")

        assert (str(error), error.hint, error.exit_code) == ("no such thing", "look elsewhere", 1)


class TestIds:
    def test_tokens_are_names_everywhere(self) -> None:
        token = ids.launch_token("ab" * 16, ("i-1", "i-2"), 3)

        assert re.fullmatch(r"[a-z][a-z0-9]{30}", token)

    def test_another_attempt_or_batch_is_another_token(self) -> None:
        uid = ids.cluster_uid(Chance(1))
        tokens = {ids.launch_token(uid, names, attempt) for names in (("a",), ("b",), ("a", "b")) for attempt in (1, 2)}

        assert len(tokens) == 6


class TestBackoff:
    def test_it_doubles_up_to_its_limit(self) -> None:
        assert [backoff_s(n, first_s=1, most_s=6) for n in (0, 1, 2, 3, 4, 400)] == [0, 1, 2, 4, 6, 6]

    def test_jitter_only_shortens(self) -> None:
        waits = [backoff_s(3, first_s=1, most_s=60, chance=Chance(seed)) for seed in range(50)]

        assert min(waits) >= 2
        assert max(waits) <= 4
        assert len(set(waits)) > 40


class TestEventLog:
    def test_files_are_private_and_read_back(self, tmp_path: Path) -> None:
        log = FileLog(tmp_path / "events.jsonl", SystemClock())
        log.record(Kind.NODE_JOINED, node="n1", cpus=2)
        log.close()

        (event,) = eventlog.read(tmp_path / "events.jsonl")
        assert (event.kind, event.fields) == (Kind.NODE_JOINED, {"node": "n1", "cpus": 2})
        assert (tmp_path / "events.jsonl").stat().st_mode & 0o777 == 0o600

    def test_a_long_file_turns_over_and_stays_bounded(self, tmp_path: Path) -> None:
        log = FileLog(tmp_path / "events.jsonl", SystemClock(), bytes_max=2000)
        for number in range(100):
            log.record(Kind.SKIPPED, number=number)
        log.close()

        numbers = [event.fields["number"] for event in eventlog.read(tmp_path / "events.jsonl")]
        assert numbers == list(range(numbers[0], 100))
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 4000

    def test_a_torn_last_line_is_left_out(self, tmp_path: Path) -> None:
        path = tmp_path / "events.jsonl"
        log = FileLog(path, SystemClock())
        log.record(Kind.SKIPPED, what="x")
        log.close()
        with path.open("ab") as file:
            file.write(b'{"at_s": 1, "ki')

        assert len(list(eventlog.read(path))) == 1

    def test_memory_keeps_the_newest(self) -> None:
        log = MemoryLog(SystemClock(), events_max=3)
        for number in range(5):
            log.record(Kind.SKIPPED, number=number)

        assert [event.fields["number"] for event in log.events] == [2, 3, 4]
