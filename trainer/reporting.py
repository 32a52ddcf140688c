"""Telling the platform. Messages go to a spool on disk first; a thread sends them, and training never waits for it."""

import logging
import random
import threading
import time
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx
from pydantic import ValidationError

from trainer.contract.messages import (
    EVENT_TYPE,
    MAX_EVENTS,
    Answer,
    AnyData,
    Command,
    Failed,
    Finished,
    Interrupted,
    Phase,
    Progress,
)
from trainer.spool import Spool
from trainer.stopping import Stop

logger = logging.getLogger(__name__)

BATCH_BYTES = 512 * 1024
PROGRESS_SECONDS = 2.0
HEARTBEAT_SECONDS = 10.0
MAX_BACKOFF_SECONDS = 30.0
_TIMEOUT = httpx.Timeout(10.0, connect=5.0)
# Nobody will ever take messages of this attempt: training on would be in vain.
_FINAL = {
    HTTPStatus.NOT_FOUND: "the platform, which no longer has this job",
    HTTPStatus.CONFLICT: "a newer attempt",
}


def _is_the_platforms(response: httpx.Response) -> bool:
    """A proxy says 404 too, while the platform behind it restarts; the platform repeats its status in the body."""
    try:
        body = response.json()
    except ValueError:
        return False
    return isinstance(body, dict) and body.get("status") == response.status_code


class Reporter:
    """Says things to the platform, in order, at least once each.

    `say` writes a message down and returns at once. `progress` keeps the newest heartbeat, which the thread sends
    when it is due. Without a URL everything stays in the spool.
    """

    def __init__(self, url: str | None, token: str | None, attempt: int, spool: Path, stop: Stop) -> None:
        self._url, self._attempt, self._stop = url, attempt, stop
        self._spool = Spool(spool)
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._latest = Progress(phase=Phase.PREPARING)
        self._said: Progress | None = None
        self._said_at = 0.0
        self._extra: dict[str, str] = {}
        self._wake = threading.Event()
        self._closing = False
        self._ended = False  # the last word has been said: there is nothing left to stop
        self._deadline = float("inf")
        self._backoff = 0.0
        self._retry_at = 0.0
        self._batch = MAX_EVENTS
        self._refused: dict[int, str] = {}
        self._thread = threading.Thread(target=self._run, name="reporting", daemon=True)
        self._thread.start()

    def say(self, data: AnyData) -> None:
        """Write a message down and have it sent soon."""
        self._ended |= isinstance(data, Finished | Failed | Interrupted)
        self._spool.append(EVENT_TYPE[type(data)], datetime.now(UTC).isoformat(), data.model_dump(mode="json"))
        self._wake.set()

    def progress(self, latest: Progress) -> None:
        """Make `latest` the next heartbeat. Costs the caller an assignment; a change of phase is sent at once."""
        changed = latest.phase != self._latest.phase
        self._latest = latest
        if changed:
            self._wake.set()

    def mention_run(self, experiment_id: str, run_id: str) -> None:
        """Tell of the MLflow run with the next heartbeat, and with all that follow."""
        self._extra = {"mlflow_experiment_id": experiment_id, "mlflow_run_id": run_id}
        self._said = None
        self._wake.set()

    def close(self, linger_seconds: float) -> bool:
        """Wait until everything has been delivered, at most `linger_seconds`. True where it has."""
        self._deadline = time.monotonic() + linger_seconds
        if self._url and self._backoff:
            logger.warning("Waiting up to %.0f s for the platform to take the last messages.", linger_seconds)
        self._closing = True
        self._wake.set()
        self._thread.join(linger_seconds + _TIMEOUT.connect + _TIMEOUT.read)  # type: ignore[operator]
        if self._url and not self._spool.empty:
            missing = self._spool.last_seq - self._spool.acked
            logger.warning("%d messages were not delivered; they stay in the spool file.", missing)
        return self._spool.empty

    # --- the thread -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        with httpx.Client(timeout=_TIMEOUT) as client:
            while True:
                self._wake.wait(0.5)
                self._wake.clear()
                try:
                    self._say_progress_when_due()
                    if self._url and not self._spool.empty and time.monotonic() >= self._retry_at:
                        self._send(client, self._url)
                except (OSError, ValueError, httpx.InvalidURL) as error:
                    # A full disk, or an address that is none. This thread goes on: what it does not send, nobody does.
                    self._back_off(f"cannot be told ({error})")
                if self._closing and (self._spool.empty or not self._url or time.monotonic() >= self._deadline):
                    return

    def _say_progress_when_due(self) -> None:
        if self._closing:
            return  # the last word has been said
        now, latest = time.monotonic(), self._latest
        new_phase = self._said is None or latest.phase != self._said.phase
        due = HEARTBEAT_SECONDS if latest == self._said else PROGRESS_SECONDS
        if new_phase or now - self._said_at >= due:
            self._said, self._said_at = latest, now
            data = latest.model_copy(update=self._extra)
            self._spool.append("progress", datetime.now(UTC).isoformat(), data.model_dump(mode="json"))

    def _send(self, client: httpx.Client, url: str) -> None:
        events = [self._unless_refused(event) for event in self._spool.pending(self._batch, BATCH_BYTES)]
        try:
            response = client.post(url, json={"attempt": self._attempt, "events": events}, headers=self._headers)
        except httpx.HTTPError as error:
            self._back_off(f"cannot be reached ({type(error).__name__})")
            return
        if response.status_code == HTTPStatus.OK:
            self._taken(events, response)
        elif response.status_code in _FINAL and _is_the_platforms(response):
            self._stop.ask(_FINAL[HTTPStatus(response.status_code)], superseded=True)
            self._spool.ack(self._spool.last_seq)
        elif response.status_code in (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNPROCESSABLE_ENTITY):
            self._send_less(events, response)
        else:
            self._back_off(f"answered {response.status_code}", response.headers.get("Retry-After"))

    def _taken(self, events: list[dict[str, Any]], response: httpx.Response) -> None:
        try:
            answer = Answer.model_validate_json(response.content)
        except ValidationError:
            self._back_off("answered something that is no answer")
            return
        if answer.command == Command.STOP and not self._ended:
            self._stop.ask("the platform")
        if answer.acked < self._spool.acked:
            self._spool.rewind(answer.acked)
            self._back_off(f"no longer has what follows message {answer.acked}: its database was put back")
            return
        if answer.acked == self._spool.acked:
            self._back_off(f"still lacks a message before number {events[0]['seq']}")
            return
        if self._backoff:
            logger.info("The platform can be reached again.")
        self._backoff, self._batch = 0.0, MAX_EVENTS
        self._spool.ack(answer.acked)
        if not self._spool.empty:
            self._wake.set()

    def _send_less(self, events: list[dict[str, Any]], response: httpx.Response) -> None:
        """Find the one message that is not taken and send a note in its place: it must not hold up the others."""
        first = events[0]["seq"]
        if len(events) > 1:
            self._batch = len(events) // 2
        elif first in self._refused:
            self._back_off(f"takes neither message {first} nor a note in its place")
            return
        else:
            logger.error("The platform does not take message %s: %s", first, response.text[:500])
            self._refused[first] = f"message {first} ({events[0]['type']}) was refused: {response.text}"[:500]
        self._wake.set()

    def _unless_refused(self, event: dict[str, Any]) -> dict[str, Any]:
        if event["seq"] not in self._refused:
            return event
        note = Progress(phase=self._latest.phase, note=self._refused[event["seq"]])
        return {**event, "type": "progress", "data": note.model_dump(mode="json")}

    def _back_off(self, what: str, retry_after: str | None = None) -> None:
        if not self._backoff:
            logger.warning("The platform %s; training goes on, and messages are kept.", what)
        self._backoff = min(max(self._backoff * 2, 1.0), MAX_BACKOFF_SECONDS)
        if retry_after and retry_after.isdigit():
            self._backoff = min(float(retry_after), MAX_BACKOFF_SECONDS)
        if self._closing:
            self._backoff = min(self._backoff, 3.0)  # not long to go: ask more often
        self._retry_at = time.monotonic() + self._backoff * random.uniform(0.75, 1.0)  # noqa: S311 - no secret
