"""Every fault has one answer, and the answers keep their promises."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from shoal import exceptions
from shoal.runtime.decide import failure_rules as rules
from shoal.runtime.decide.failure_rules import Action, CallFault, Fault, Verdict

LOSSES = (Fault.WORKER_DIED, Fault.OUT_OF_MEMORY, Fault.NODE_LOST, Fault.REVOKED)


@pytest.mark.parametrize("fault", Fault)
@pytest.mark.parametrize("started", [False, True])
@pytest.mark.parametrize("retries", [0, 1, -1])
def test_every_fault_has_an_answer_with_a_real_error(fault: Fault, started: bool, retries: int) -> None:
    task = rules.after_task(fault, started=started, retries=retries)
    actor = rules.after_actor(fault, restarts=retries)

    for verdict in (task, actor):
        if verdict.action is Action.FAIL:
            assert issubclass(getattr(exceptions, verdict.error), exceptions.ShoalError)
        else:
            assert verdict.error == ""


@pytest.mark.parametrize(("fault", "sent", "retries"), list(itertools.product(CallFault, [False, True], [0, 2, -1])))
def test_every_fault_of_a_call_has_an_answer(fault: CallFault, sent: bool, retries: int) -> None:
    verdict = rules.after_call(fault, sent=sent, retries=retries)

    assert verdict.action is not Action.FAIL or hasattr(exceptions, verdict.error)


@pytest.mark.parametrize("fault", LOSSES)
def test_what_never_began_runs_again_for_free_even_without_retries(fault: Fault) -> None:
    assert rules.after_task(fault, started=False, retries=0) == Verdict(Action.FREE, retries=0)


@pytest.mark.parametrize("fault", LOSSES)
def test_what_began_costs_a_retry_and_fails_without_one(fault: Fault) -> None:
    assert rules.after_task(fault, started=True, retries=2) == Verdict(Action.RETRY, retries=1)
    assert rules.after_task(fault, started=True, retries=-1) == Verdict(Action.RETRY, retries=-1)
    assert rules.after_task(fault, started=True, retries=0).action is Action.FAIL


def test_errors_name_the_cause() -> None:
    assert rules.after_task(Fault.WORKER_DIED, started=True, retries=0).error == "WorkerCrashedError"
    assert rules.after_task(Fault.OUT_OF_MEMORY, started=True, retries=0).error == "OutOfMemoryError"
    assert rules.after_task(Fault.NODE_LOST, started=True, retries=0).error == "NodeDiedError"


def test_announced_loss_of_a_node_does_not_count() -> None:
    assert rules.after_task(Fault.NODE_TAKEN, started=True, retries=1) == Verdict(Action.FREE, retries=1)
    assert rules.after_actor(Fault.NODE_TAKEN, restarts=1) == Verdict(Action.FREE, retries=1)
    assert rules.after_task(Fault.NODE_TAKEN, started=True, retries=0).action is Action.FAIL


def test_suspicion_is_no_verdict() -> None:
    for started, retries in itertools.product([False, True], [0, 3]):
        assert rules.after_task(Fault.AGENT_AWAY, started=started, retries=retries).action is Action.WAIT


def test_cancelled_and_removed_work_is_never_retried() -> None:
    for fault in (Fault.CANCELLED, Fault.KILLED, Fault.GROUP_REMOVED, Fault.NEVER_FITS, Fault.ENVIRONMENT):
        for started in (False, True):
            assert rules.after_task(fault, started=started, retries=-1).action is Action.FAIL


def test_user_errors_are_retried_only_if_listed() -> None:
    assert rules.user_fault(ValueError(), ()) is Fault.USER_ERROR
    assert rules.user_fault(ValueError(), (KeyError,)) is Fault.USER_ERROR
    assert rules.user_fault(KeyError(), (LookupError,)) is Fault.USER_RETRY
    assert rules.user_fault(exceptions.TaskError("f", "", KeyError()), (KeyError,)) is Fault.USER_RETRY
    assert rules.after_task(Fault.USER_ERROR, started=True, retries=3).error == "TaskError"
    assert rules.after_task(Fault.USER_RETRY, started=True, retries=3).action is Action.RETRY


def test_revoke_is_the_fence() -> None:
    assert rules.after_revoke("unstarted", retries=0) == Verdict(Action.FREE, retries=0)
    assert rules.after_revoke("started", retries=0).error == "WorkerCrashedError"
    assert rules.after_revoke("started", retries=1) == Verdict(Action.RETRY, retries=0)
    assert rules.after_revoke("unheard-of", retries=0).action is Action.FAIL, "in doubt it has started"


def test_killed_actor_stays_dead() -> None:
    assert rules.after_actor(Fault.KILLED, restarts=-1).error == "ActorDiedError"
    assert rules.after_actor(Fault.WORKER_DIED, restarts=1) == Verdict(Action.RETRY, retries=0)
    assert rules.after_actor(Fault.GROUP_REMOVED, restarts=-1).error == "ActorPlacementGroupRemoved"


def test_call_that_was_not_sent_waits_for_the_next_life() -> None:
    assert rules.after_call(CallFault.RESTARTING, sent=False, retries=0).action is Action.FREE
    assert rules.after_call(CallFault.RESTARTING, sent=True, retries=0).error == "ActorUnavailableError"
    assert rules.after_call(CallFault.RESTARTING, sent=True, retries=1) == Verdict(Action.RETRY, retries=0)
    assert rules.after_call(CallFault.ACTOR_DEAD, sent=False, retries=-1).error == "ActorDiedError"


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"is_put": True, "has_recipe": False, "max_retries": 3, "retries": 3}, "put"),
        ({"is_put": False, "has_recipe": False, "max_retries": 3, "retries": 3}, "lineage-evicted"),
        ({"is_put": False, "has_recipe": False, "max_retries": 0, "retries": 0}, "retries-off"),
        ({"is_put": False, "has_recipe": True, "max_retries": 3, "retries": 0}, "retries-used-up"),
        ({"is_put": False, "has_recipe": True, "max_retries": 3, "retries": 3, "is_cancelled": True}, "cancelled"),
        ({"is_put": False, "has_recipe": True, "max_retries": 3, "retries": 1}, ""),
    ],
)
def test_lost_value_says_why(given: dict[str, object], reason: str) -> None:
    verdict = rules.after_loss(**given)  # type: ignore[arg-type]

    assert verdict.error == reason
    assert (verdict.action is Action.RETRY) == (not reason)
    if reason:
        assert reason in str(exceptions.ObjectReconstructionFailedError("ff", reason).reason)


def test_page_about_ownership_names_every_error_and_reason() -> None:
    page = (Path(__file__).parents[3] / "docs" / "ownership.md").read_text()

    errors = {cell for table in (rules.TASK_TABLE,) for cell in table.split() if cell[0].isupper()}
    missing = {name for name in errors - {"TaskUnschedulableError", "RuntimeEnvSetupError"} if name not in page}
    reasons = {"put", "lineage-evicted", "retries-off", "retries-used-up", "dependency-lost", "cancelled", "owner-died"}
    assert missing == set()
    assert reasons <= {str(reason) for reason in exceptions.LossReason}
    assert all(f"`{reason}`" in page for reason in reasons)
