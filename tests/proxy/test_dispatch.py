"""Which attempt comes next."""

from __future__ import annotations

import pytest

from proxy.dispatch import MAX_SENT, Attempts, Failure, Step, error_of, next_step, outcome_of, refusal
from proxy.health import Outcome


def test_what_was_never_sent_goes_to_another_worker_whatever_it_is() -> None:
    for attempts in (Attempts(1, 0), Attempts(9, MAX_SENT)):
        step = next_step(Failure.UNREACHABLE, attempts, safe_twice=False, replayable=True)
        assert step is Step.ANOTHER_WORKER


@pytest.mark.parametrize(
    "failure",
    [Failure.STALE, Failure.BROKE, Failure.GARBAGE, Failure.HUNG, Failure.DECLINED, Failure.ERRED, Failure.LACKING],
)
@pytest.mark.parametrize(("safe", "replayable"), [(False, True), (True, False), (False, False)])
def test_what_was_sent_is_sent_again_only_if_it_is_safe_and_whole(
    failure: Failure, safe: bool, replayable: bool
) -> None:
    assert next_step(failure, Attempts(1, 1), safe_twice=safe, replayable=replayable) is Step.GIVE_UP


def test_a_dead_kept_connection_is_made_up_for_once() -> None:
    assert next_step(Failure.STALE, Attempts(1, 1), safe_twice=True, replayable=True) is Step.FRESH_CONNECTION
    again = Attempts(2, 1, refreshed=True)
    assert next_step(Failure.STALE, again, safe_twice=True, replayable=True) is Step.ANOTHER_WORKER


@pytest.mark.parametrize(
    "failure", [Failure.BROKE, Failure.GARBAGE, Failure.HUNG, Failure.DECLINED, Failure.ERRED, Failure.LACKING]
)
def test_a_request_is_sent_to_two_workers_at_most(failure: Failure) -> None:
    assert next_step(failure, Attempts(1, 1), safe_twice=True, replayable=True) is Step.ANOTHER_WORKER
    assert next_step(failure, Attempts(2, MAX_SENT), safe_twice=True, replayable=True) is Step.GIVE_UP


def test_a_silent_worker_may_still_be_working_so_nobody_else_is_asked() -> None:
    assert next_step(Failure.SILENT, Attempts(1, 1), safe_twice=True, replayable=True) is Step.GIVE_UP


def test_every_failure_has_a_sentence_and_some_are_nobodys_fault() -> None:
    assert {error_of(failure).status for failure in Failure} == {404, 502, 503, 504}
    harmless = [failure for failure in Failure if failure.outcome in (Outcome.ANSWERED, Outcome.CANCELLED)]
    assert harmless == [Failure.STALE, Failure.LACKING]


def test_another_worker_may_be_asked_after_503_and_if_a_model_was_named_after_404() -> None:
    statuses = (200, 307, 400, 404, 413, 500, 501, 502, 503, 504, 505)
    asked_again = {status: refusal(status, names_model=True, replay_safe=False) for status in statuses}
    assert {status: failure for status, failure in asked_again.items() if failure} == {
        404: Failure.LACKING,
        503: Failure.DECLINED,
    }
    assert refusal(404, names_model=False, replay_safe=True) is None


def test_what_a_worker_failed_at_another_may_do_if_it_promised_that_twice_is_safe() -> None:
    statuses = (500, 501, 502, 504, 505)
    asked_again = [status for status in statuses if refusal(status, names_model=True, replay_safe=True)]
    assert asked_again == [500, 502, 504]


def test_what_an_answer_says_about_the_worker() -> None:
    assert {outcome_of(status, says_when=True) for status in (200, 304, 400, 404, 413, 499, 501, 505)} == {
        Outcome.ANSWERED
    }
    assert {outcome_of(status, says_when=True) for status in (429, 503)} == {Outcome.DECLINED}
    assert outcome_of(429, says_when=False) is Outcome.ANSWERED
    assert {outcome_of(status, says_when=False) for status in (500, 502, 503, 504, 599)} == {Outcome.ANSWERED_5XX}
