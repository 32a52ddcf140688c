"""The endpoint that trainers report to, over HTTP: who is let in, what is refused, and that a refusal costs nothing."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import AbstractUser
from django.test import Client
from django.test.utils import override_settings

from apps.executor.fake import FakeExecutor
from apps.jobs import services
from apps.jobs.models import EpochMetrics, Event, Job
from apps.jobs.states import State
from apps.jobs.tokens import bearer_of, token_for
from trainer.contract.messages import MAX_BODY_BYTES, MAX_EVENTS

MakeEvent = Callable[..., dict[str, Any]]
Dump = Callable[[], Any]
PLATFORM = "the-platforms-own-token"

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _platform_token(settings: Any) -> None:
    settings.INTERNAL_AUTH_TOKEN = PLATFORM


@pytest.fixture
def post(client: Client) -> Callable[..., Any]:
    """Posts a body for a job, as its first attempt's trainer unless another token, or None, is given."""

    def send(job_id: int, body: Any, token: str | None = "own", **headers: str) -> Any:  # noqa: S107 - no token
        token = token_for(job_id, 1) if token == "own" else token
        given = {"Authorization": f"Bearer {token}"} if token is not None else {}
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return client.post(
            f"/internal/training/{job_id}", content, content_type="application/json", headers={**given, **headers}
        )

    return send


@pytest.fixture
def refused(post: Any, dump: Dump) -> Callable[..., dict[str, Any]]:
    """Posts what must be refused, sees that nothing at all was changed, and returns the answer."""

    def send(status: int, job_id: int, body: Any, *args: Any, **headers: str) -> dict[str, Any]:
        before = dump()
        response = post(job_id, body, *args, **headers)
        assert response.status_code == status, response.content
        assert dump() == before
        answer: dict[str, Any] = response.json()
        assert answer["status"] == status
        assert answer["title"]
        assert answer["detail"]
        return answer

    return send


def batch(*events: dict[str, Any], attempt: int = 1) -> dict[str, Any]:
    return {"attempt": attempt, "events": list(events)}


# --- let in -----------------------------------------------------------------------------------------------------


def test_what_a_trainer_says_is_taken_and_answered(launched: Job, post: Any, event: MakeEvent) -> None:
    response = post(launched.pk, batch(event(1, "started"), event(2), event(3, "epoch")))
    assert response.status_code == 200
    assert response["Content-Type"] == "application/json"
    assert response.json() == {"acked": 3, "command": "continue"}
    launched.refresh_from_db()
    assert launched.state == State.RUNNING
    assert EpochMetrics.objects.count() == 1


def test_the_address_and_token_in_a_trainers_environment_are_the_ones_that_work(
    launched: Job, client: Client, event: MakeEvent, fake_executor: FakeExecutor
) -> None:
    told = fake_executor.launches[0].environment
    path = "/internal/" + told["CALLBACK_URL"].partition("/internal/")[2]
    headers = {"Authorization": f"Bearer {told['INTERNAL_AUTH_TOKEN']}"}
    body = {"attempt": int(told["ATTEMPT"]), "events": [event(1, "started")]}
    assert client.post(path, body, content_type="application/json", headers=headers).status_code == 200


def test_the_platforms_own_token_speaks_for_every_job_and_attempt(launched: Job, post: Any, event: MakeEvent) -> None:
    assert post(launched.pk, batch(event(1)), PLATFORM).json()["acked"] == 1


def test_a_cancelled_trainer_is_told_to_stop(
    launched: Job, post: Any, event: MakeEvent, trainer_user: AbstractUser
) -> None:
    services.cancel(launched, by=trainer_user)
    assert post(launched.pk, batch(event(1))).json() == {"acked": 1, "command": "stop"}


def test_what_a_newer_trainer_says_beyond_the_contract_is_left_aside(
    launched: Job, post: Any, event: MakeEvent
) -> None:
    said = event(1, "progress", mood="fine") | {"colour": "red"}
    assert post(launched.pk, batch(said) | {"trainer": "9.9"}).status_code == 200
    assert "mood" not in Event.objects.get().data


def test_no_cookie_is_needed_and_none_is_set(launched: Job, event: MakeEvent) -> None:
    client = Client(enforce_csrf_checks=True)
    headers = {"Authorization": f"bearer   {token_for(launched.pk, 1)} "}
    path = f"/internal/training/{launched.pk}"
    response = client.post(path, batch(event(1)), content_type="application/json", headers=headers)
    assert response.status_code == 200
    assert not response.cookies


# --- not let in -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer garbage",
        "Bearer ty1",
        "Bearer ty1.1.1",
        "Bearer ty1.1.1.",
        "Bearer ty1.x.1.abc",
        "Bearer ty1.-1.1.abc",
        "Bearer ty1.²." + "1" * 70 + ".abc",
        "Bearer ty1." + "9" * 400 + ".1.abc",
        "Bearer \xff\xfe",
        "Bearer 오늘",
        f"Basic {PLATFORM}",
        f"Token {PLATFORM}",
        PLATFORM,
        f"Bearer {PLATFORM}x",
        f"Bearer {PLATFORM[:-1]}",
        f"Bearer {PLATFORM.upper()}",
    ],
)
def test_without_a_token_of_ours_nobody_is_let_in(
    header: str | None, launched: Job, refused: Any, event: MakeEvent
) -> None:
    headers = {} if header is None else {"Authorization": header}
    answer = refused(401, launched.pk, batch(event(1)), None, **headers)
    assert PLATFORM not in json.dumps(answer)


def test_a_token_that_was_tampered_with_opens_nothing(launched: Job, refused: Any, event: MakeEvent) -> None:
    prefix, job, attempt, mac = token_for(launched.pk, 1).split(".")
    other = "0" if mac[0] != "0" else "1"
    forged = [
        f"{prefix}.{job}.{attempt}.{other}{mac[1:]}",
        f"{prefix}.{job}.{attempt}.{mac[:-1]}",
        f"{prefix}.{job}.{attempt}.{mac.upper()}",
        f"{prefix}.{job}.2.{mac}",
        f"{prefix}.{int(job) + 1}.{attempt}.{mac}",
        f"{prefix}.0{job}.{attempt}.{mac}",
        f"{prefix}.{job}.{attempt}.{mac}.",
        f"ty2.{job}.{attempt}.{mac}",
        f"{prefix}..{job}.{attempt}.{mac}",
    ]
    for token in forged:
        refused(401, launched.pk, batch(event(1)), token)


def test_a_token_dies_with_the_platforms_own(launched: Job, refused: Any, event: MakeEvent) -> None:
    token = token_for(launched.pk, 1)
    with override_settings(INTERNAL_AUTH_TOKEN="another"):
        assert bearer_of(token) is None
        refused(401, launched.pk, batch(event(1)), token)


def test_a_token_of_another_job_is_refused_before_it_learns_whether_the_job_exists(
    launched: Job, refused: Any, event: MakeEvent
) -> None:
    token = token_for(launched.pk, 1)
    answers = [refused(403, job_id, batch(event(1)), token) for job_id in (launched.pk + 1, 10**6)]
    assert all(f"This token is for job {launched.pk}" in answer["detail"] for answer in answers)


def test_a_token_of_another_attempt_is_refused(launched: Job, refused: Any, event: MakeEvent) -> None:
    answer = refused(403, launched.pk, batch(event(1)), token_for(launched.pk, 2))
    assert answer["detail"] == "This token is for attempt 2, not 1."
    refused(403, launched.pk, batch(event(1), attempt=2), token_for(launched.pk, 1))


@pytest.mark.parametrize("job_id", [10**6, 2**63 - 1, 2**63, 10**30])
def test_a_job_that_is_not_there_is_not_there(job_id: int, refused: Any, event: MakeEvent) -> None:
    assert refused(404, job_id, batch(event(1)), PLATFORM)["detail"] == f"There is no job {job_id}."


def test_a_job_that_was_deleted_is_not_there_for_its_own_trainer(launched: Job, refused: Any, event: MakeEvent) -> None:
    token, job_id = token_for(launched.pk, 1), launched.pk
    launched.delete()
    refused(404, job_id, batch(event(1)), token)


@pytest.mark.parametrize("method", ["get", "put", "patch", "delete", "head"])
def test_messages_are_posted(method: str, launched: Job, client: Client, dump: Dump) -> None:
    before = dump()
    headers = {"Authorization": f"Bearer {PLATFORM}"}
    assert getattr(client, method)(f"/internal/training/{launched.pk}", headers=headers).status_code == 405
    assert dump() == before


@pytest.mark.parametrize("attempt", [2, 2**31, 10**30])
def test_an_attempt_that_is_not_the_current_one_is_refused(
    attempt: int, launched: Job, refused: Any, event: MakeEvent
) -> None:
    answer = refused(409, launched.pk, batch(event(1, "finished"), attempt=attempt), PLATFORM)
    assert f"Attempt {attempt} of job {launched.pk} is not the current one (1)" in answer["detail"]


def test_after_a_retry_the_attempt_before_is_refused(
    launched: Job, post: Any, refused: Any, event: MakeEvent, trainer_user: AbstractUser
) -> None:
    post(launched.pk, batch(event(1, "failed")))
    launched.refresh_from_db()
    services.retry(launched, by=trainer_user)
    refused(409, launched.pk, batch(event(2, "finished")))


# --- what cannot be read ------------------------------------------------------------------------------------------


def test_a_body_that_is_too_large_is_refused_unread(launched: Job, refused: Any) -> None:
    answer = refused(413, launched.pk, b" " * (MAX_BODY_BYTES + 1))
    assert str(MAX_BODY_BYTES) in answer["detail"]
    refused(413, launched.pk, b" " * (4 * MAX_BODY_BYTES))


def test_a_body_of_just_the_size_is_read(launched: Job, post: Any, event: MakeEvent) -> None:
    body = json.dumps(batch(event(1))).encode()
    assert post(launched.pk, body + b" " * (MAX_BODY_BYTES - len(body))).status_code == 200


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", ""),
        (b"{", ""),
        (b"not json", ""),
        (b"\xff\xfe", ""),
        (b"null", ""),
        (b"[]", ""),
        (b'"text"', ""),
        (b"[" * 10_000, ""),
        (b"{}", "attempt"),
        (b'{"attempt": 1}', "events"),
        (b'{"attempt": 1, "events": {}}', "events"),
        (b'{"attempt": 1, "events": null}', "events"),
        (b'{"attempt": 1, "events": [3]}', "events.0"),
        (b'{"attempt": 1, "events": [null]}', "events.0"),
        (b'{"attempt": 0, "events": []}', "attempt"),
        (b'{"attempt": "one", "events": []}', "attempt"),
        (b'{"attempt": NaN, "events": []}', "attempt"),
        (b'{"attempt": 1.5, "events": []}', "attempt"),
    ],
    ids=lambda value: value[:40].decode("latin-1") if isinstance(value, bytes) else value,
)
def test_a_body_that_is_no_batch_is_refused_with_the_field_named(
    body: bytes, field: str, launched: Job, refused: Any
) -> None:
    answer = refused(422, launched.pk, body, PLATFORM)
    assert answer["errors"][0]["field"] == field
    assert answer["detail"].startswith(f"{field or 'body'}: ")


@pytest.mark.parametrize(
    ("kind", "change", "field"),
    [
        ("progress", {"seq": -1}, "seq"),
        ("progress", {"seq": 0}, "seq"),
        ("progress", {"seq": 2**53 + 1}, "seq"),
        ("progress", {"seq": 10**40}, "seq"),
        ("progress", {"seq": "first"}, "seq"),
        ("progress", {"seq": None}, "seq"),
        ("progress", {"at": "yesterday"}, "at"),
        ("progress", {"at": None}, "at"),
        ("progress", {"at": "2026-03-01T12:00:00"}, "at"),
        ("progress", {"at": "9999-12-31T23:59:59-12:00"}, "at"),
        ("progress", {"at": 1e300}, "at"),
        ("progress", {"data": None}, "data"),
        ("progress", {"data": []}, "data"),
        ("progress", {"data": {}}, "data.phase"),
        ("progress", {"data": {"phase": "dancing"}}, "data.phase"),
        ("progress", {"data": {"phase": "training", "fraction": 1.5}}, "data.fraction"),
        ("progress", {"data": {"phase": "training", "fraction": float("nan")}}, "data.fraction"),
        ("progress", {"data": {"phase": "training", "eta_seconds": float("inf")}}, "data.eta_seconds"),
        ("progress", {"data": {"phase": "training", "eta_seconds": -1}}, "data.eta_seconds"),
        ("progress", {"data": {"phase": "training", "losses": {"a": "x"}}}, "data.losses.a"),
        ("progress", {"data": {"phase": "training", "losses": {"a": float("nan")}}}, "data.losses.a"),
        ("progress", {"data": {"phase": "training", "note": "x" * 501}}, "data.note"),
        ("progress", {"data": {"phase": "training", "note": "\ud800"}}, ""),
        ("progress", {"data": {"phase": "training", "epoch": 10**12}}, "data.epoch"),
        ("progress", {"data": {"phase": "training", "mlflow_run_id": "x" * 65}}, "data.mlflow_run_id"),
        ("started", {"data": {"host": 3}}, "data.host"),
        ("started", {"data": {"versions": []}}, "data.versions"),
        ("started", {"data": {"host": "x" * 501}}, "data.host"),
        ("epoch", {"data": {"epoch": 0, "epochs": 2, "metrics": {}}}, "data.epoch"),
        ("epoch", {"data": {"epoch": 1, "epochs": 0, "metrics": {}}}, "data.epochs"),
        ("epoch", {"data": {"epoch": 1, "epochs": 2}}, "data.metrics"),
        ("epoch", {"data": {"epoch": 1, "epochs": 2, "metrics": {"fitness": float("nan")}}}, "data.metrics.fitness"),
        ("epoch", {"data": {"epoch": 1, "epochs": 2, "metrics": {"fitness": float("-inf")}}}, "data.metrics.fitness"),
        ("epoch", {"data": {"epoch": 1, "epochs": 2, "metrics": {}, "seconds": float("inf")}}, "data.seconds"),
        ("epoch", {"data": {"epoch": 10**12, "epochs": 2, "metrics": {}}}, "data.epoch"),
        ("epoch", {"data": {"epoch": 10**40, "epochs": 2, "metrics": {}}}, "data.epoch"),
        ("artifact", {"data_change": {"name": None}}, "data.name"),
        ("artifact", {"data_change": {"sha256": "A" * 64}}, "data.sha256"),
        ("artifact", {"data_change": {"sha256": "a" * 64 + "\n"}}, "data.sha256"),
        ("artifact", {"data_change": {"size": -1}}, "data.size"),
        ("artifact", {"data_change": {"size": 2**63}}, "data.size"),
        ("artifact", {"data_change": {"epoch": 10**12}}, "data.epoch"),
        ("artifact", {"data_change": {"name": ""}}, "data.name"),
        ("artifact", {"data_change": {"name": "x" * 201}}, "data.name"),
        ("artifact", {"data_change": {"kind": "virus"}}, "data.kind"),
        ("artifact", {"data_change": {"name": "a\0b"}}, "data.name"),
        ("finished", {"data": {"epochs": 1, "seconds": float("nan")}}, "data.seconds"),
        ("finished", {"data": {"epochs": 1}}, "data.seconds"),
        ("failed", {"data": {"reason": "mood", "message": "x"}}, "data.reason"),
        ("failed", {"data": {"reason": "crashed"}}, "data.message"),
        ("failed", {"data": {"reason": "crashed", "message": "x" * 20_001}}, "data.message"),
        ("interrupted", {"data": {}}, "data.by"),
    ],
)
def test_a_message_that_cannot_be_read_is_refused_whole_with_the_field_named(
    kind: str, change: dict[str, Any], field: str, launched: Job, refused: Any, event: MakeEvent
) -> None:
    bad = event(2, kind, **change.get("data_change", {})) | {k: v for k, v in change.items() if k != "data_change"}
    answer = refused(422, launched.pk, batch(event(1, "started"), bad, event(3)))
    assert [error["field"] for error in answer["errors"]] == [f"events.1.{kind}.{field}" if field else ""]


@pytest.mark.parametrize("kind", ["dance", "", None, 3, "Started"])
def test_a_kind_of_message_that_nobody_knows_is_refused(
    kind: Any, launched: Job, refused: Any, event: MakeEvent
) -> None:
    answer = refused(422, launched.pk, batch(event(1) | {"type": kind}))
    assert answer["errors"][0]["field"] == "events.0"
    without = event(1)
    del without["type"]
    refused(422, launched.pk, batch(without))


def test_more_messages_than_may_come_at_once_are_refused(
    launched: Job, post: Any, refused: Any, event: MakeEvent
) -> None:
    events = [event(seq) for seq in range(1, MAX_EVENTS + 2)]
    assert refused(422, launched.pk, batch(*events))["errors"][0]["field"] == "events"
    assert post(launched.pk, batch(*events[:-1])).json()["acked"] == MAX_EVENTS


def test_every_field_that_is_wrong_is_named_and_no_value_repeated(
    launched: Job, refused: Any, event: MakeEvent
) -> None:
    answer = refused(422, launched.pk, batch(event(1) | {"at": "hush"}, event(2, "failed", reason="hush"), attempt=0))
    assert [error["field"] for error in answer["errors"]] == [
        "attempt",
        "events.0.progress.at",
        "events.1.failed.data.reason",
    ]
    assert "hush" not in json.dumps(answer)


def test_the_largest_numbers_that_are_let_in_can_be_kept(launched: Job, post: Any, event: MakeEvent) -> None:
    events = [
        event(4, "epoch", epoch=2**31 - 1, epochs=2**31 - 1) | {"seq": 2**53},
        event(1, "artifact", size=2**63 - 1, epoch=2**31 - 1),
        event(2, "progress", epoch=2**31 - 1, epochs=2**31 - 1, eta_seconds=1e15),
        event(3, "started", pid=2**31 - 1),
    ]
    assert post(launched.pk, batch(*events)).json()["acked"] == 3


def test_text_with_a_nul_can_be_kept(launched: Job, post: Any, event: MakeEvent) -> None:
    """Tracebacks hold whatever a file held; PostgreSQL has no NUL in its texts."""
    response = post(launched.pk, batch(event(1, "failed", message="bad\0byte", traceback="x\0y")))
    assert response.status_code == 200
    launched.refresh_from_db()
    assert "\0" not in launched.end_message
    assert "\0" not in json.dumps(Event.objects.get().data)
    assert "\\u0000" not in json.dumps(Event.objects.get().data)


def test_a_host_of_any_name_fits_its_column(launched: Job, post: Any, event: MakeEvent) -> None:
    assert post(launched.pk, batch(event(1, "started", host="x" * 253))).status_code == 200
    attempt = launched.attempts.get()
    assert attempt.node == "x" * 200


def test_what_has_not_been_logged_in_is_logged_nowhere(
    launched: Job, refused: Any, event: MakeEvent, caplog: pytest.LogCaptureFixture
) -> None:
    refused(401, launched.pk, batch(event(1)), "garbage-hush")
    refused(403, launched.pk + 1, batch(event(1)), token_for(launched.pk, 1))
    assert "hush" not in caplog.text
    assert token_for(launched.pk, 1) not in caplog.text
