"""Which attempt comes next."""

from __future__ import annotations

import pytest

from proxy.dispatch import MAX_FAILED, Attempts, Failure, Step, error_of, next_step, outcome_of, refusal
from proxy.health import Outcome


def test_what_was_never_sent_goes_to_another_worker_whatever_it_is() -> None:
    for attempts in (Attempts(1, 0), Attempts(9, MAX_FAILED)):
        for failure in (Failure.UNREACHABLE, Failure.STALE):
            step = next_step(failure, attempts, sent=False, safe_twice=False, replayable=True)
            assert step is Step.ANOTHER_WORKER


@pytest.mark.parametrize(
    "failure",
    [Failure.STALE, Failure.BROKE, Failure.GARBAGE, Failure.HUNG, Failure.DECLINED, Failure.ERRED, Failure.LACKING],
)
@pytest.mark.parametrize(("safe", "replayable"), [(False, True), (True, False), (False, False)])
def test_what_was_sent_is_sent_again_only_if_it_is_safe_and_whole(
    failure: Failure, safe: bool, replayable: bool
) -> None:
    assert next_step(failure, Attempts(1), sent=True, safe_twice=safe, replayable=replayable) is Step.GIVE_UP


def test_a_dead_kept_connection_is_made_up_for_once() -> None:
    assert next_step(Failure.STALE, Attempts(1), sent=True, safe_twice=True, replayable=True) is Step.FRESH_CONNECTION
    again = Attempts(2, refreshed=True)
    assert next_step(Failure.STALE, again, sent=True, safe_twice=True, replayable=True) is Step.ANOTHER_WORKER


def after(*failures: Failure) -> Attempts:
    """Attempts at workers that had the request, each of which ended so."""
    attempts = Attempts(len(failures), refreshed=True)
    for failure in failures:
        attempts.note(failure)
    return attempts


@pytest.mark.parametrize(
    "failure",
    [Failure.STALE, Failure.UNREACHABLE, Failure.BROKE, Failure.GARBAGE, Failure.HUNG, Failure.ERRED, Failure.LACKING],
)
def test_two_workers_at_most_have_a_request_in_vain(failure: Failure) -> None:
    first = next_step(failure, after(), sent=True, safe_twice=True, replayable=True)
    second = next_step(failure, after(failure), sent=True, safe_twice=True, replayable=True)
    assert (first, second) == (Step.ANOTHER_WORKER, Step.GIVE_UP)


def test_who_did_not_take_it_does_not_count() -> None:
    declined = after(*[Failure.DECLINED] * 9)
    for failure in (Failure.DECLINED, Failure.BROKE):
        assert next_step(failure, declined, sent=True, safe_twice=True, replayable=True) is Step.ANOTHER_WORKER
    declined.note(Failure.BROKE)
    assert next_step(Failure.DECLINED, declined, sent=True, safe_twice=True, replayable=True) is Step.ANOTHER_WORKER
    assert next_step(Failure.BROKE, declined, sent=True, safe_twice=True, replayable=True) is Step.GIVE_UP


def test_a_silent_worker_may_still_be_working_so_nobody_else_is_asked() -> None:
    assert next_step(Failure.SILENT, Attempts(1), sent=True, safe_twice=True, replayable=True) is Step.GIVE_UP


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
