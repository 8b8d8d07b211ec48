"""Sends what the outbox holds. A loop beside the reconciler's; never part of a request."""

import logging
import random
import threading
from dataclasses import dataclass
from datetime import timedelta

import httpx
from sqlalchemy.exc import OperationalError

from app.clock import Clock
from app.db import deliveries
from app.db.engine import Sessions
from app.db.tables import DeliveryTry, WebhookEndpoint
from app.errors import Invalid, Unavailable
from app.settings import Settings
from app.webhooks import sign, targets

log = logging.getLogger(__name__)

BACK_OFF = (
    timedelta(seconds=5),
    timedelta(seconds=30),
    timedelta(minutes=2),
    timedelta(minutes=10),
    timedelta(hours=1),
    timedelta(hours=6),
    timedelta(hours=12),
)
"""Waits after each failed try, give or take a fifth; after the last there is none: given up."""
JITTER = 0.2
TIMEOUT = timedelta(seconds=10)
CLAIM = timedelta(minutes=2)
"""Longer than one try can take: a crash while sending repeats it after this."""
ANSWER_BYTES = 2048
BATCH = 50
IDLE_S = 1.0
AFTER_OUTAGE_S = 5.0


@dataclass(frozen=True)
class Outgoing:
    """What one try needs, without a session."""

    delivery_id: int
    endpoint_id: str
    url: str
    secret: str
    message_id: str
    body: bytes
    tries: int


@dataclass(frozen=True)
class Outcome:
    status: int | None
    """None: no answer."""
    answer: str
    """The first 2 KB of it, or what went wrong."""
    permanent: bool = False
    """Another try cannot help."""

    @property
    def delivered(self) -> bool:
        return self.status is not None and 200 <= self.status < 300


class Deliverer:
    """At least once: a receiver recognises a repeat by its ``webhook-id``."""

    def __init__(
        self,
        sessions: Sessions,
        clock: Clock,
        http: httpx.Client,
        rng: random.Random,
        settings: Settings,
        look_up: targets.Resolve = targets.resolve,
    ) -> None:
        self._sessions = sessions
        self._clock = clock
        self._http = http
        self._random = rng
        self._allow = settings.webhook_allow
        self._look_up = look_up

    def run(self, stop: threading.Event) -> None:
        """Until ``stop``. A failure is logged and the loop goes on."""
        while not stop.is_set():
            try:
                busy = self.tick() == BATCH
            except (Unavailable, OperationalError) as error:
                log.warning("the database is not available, webhooks wait: %s", error)
                stop.wait(AFTER_OUTAGE_S)
                continue
            except Exception:  # loop boundary
                log.exception("webhook delivery failed; going on")
                busy = False
            if not busy:
                stop.wait(IDLE_S)

    def tick(self) -> int:
        """Make one try of every delivery that is due; how many tries were made.

        1. Claim one: push its next try into the future, commit. A crash now costs a wait.
        2. Send it with no session open.
        3. Record the try and what follows from it, commit.
        """
        for made in range(BATCH):
            outgoing = self._claim()
            if outgoing is None:
                return made
            begun = self._clock()
            outcome = self._send(outgoing)
            self._record(outgoing, outcome, (self._clock() - begun).total_seconds())
        return BATCH

    def _claim(self) -> Outgoing | None:
        now = self._clock()
        with self._sessions.begin() as session:
            due = deliveries.claim_due(session, now, now + CLAIM, limit=1)
            if not due:
                return None
            delivery = due[0]
            endpoint = session.get_one(WebhookEndpoint, delivery.endpoint_id)
            return Outgoing(
                delivery_id=delivery.id,
                endpoint_id=endpoint.id,
                url=endpoint.url,
                secret=endpoint.secret,
                message_id=delivery.message_id,
                body=delivery.payload.encode(),
                tries=delivery.tries,
            )

    def _send(self, outgoing: Outgoing) -> Outcome:
        try:
            target = targets.choose(outgoing.url, self._allow, self._look_up)
        except Invalid as error:
            # A name may resolve again later; an address that is out of bounds stays so.
            return Outcome(None, error.detail, permanent=error.code != "webhook_dns")
        try:
            return self._post(target, outgoing)
        except httpx.HTTPError as error:
            return Outcome(None, f"{type(error).__name__}: {error}")

    def _post(self, target: targets.Target, outgoing: Outgoing) -> Outcome:
        now = self._clock()
        headers = {
            "Host": target.host_header,
            "Content-Type": "application/json",
            "User-Agent": "Skydeck",
            # The pool knows connections by address; another host there must not inherit this one.
            "Connection": "close",
            **sign.headers(outgoing.secret, outgoing.message_id, now, outgoing.body),
        }
        with self._http.stream(
            "POST",
            target.pinned,
            content=outgoing.body,
            headers=headers,
            timeout=TIMEOUT.total_seconds(),
            follow_redirects=False,  # a redirect would lead past the check of the target
            extensions={"sni_hostname": target.url.host},
        ) as response:
            answer = self._head(response)
            text = answer.decode(errors="replace").replace("\x00", "\N{REPLACEMENT CHARACTER}")
            return Outcome(response.status_code, text, permanent=response.status_code == 410)

    def _head(self, response: httpx.Response) -> bytes:
        """The first 2 KB, however slowly and however much the receiver sends."""
        until = self._clock() + TIMEOUT
        kept = b""
        for chunk in response.iter_raw(ANSWER_BYTES):
            kept += chunk
            if len(kept) >= ANSWER_BYTES or self._clock() > until:
                break
        return kept[:ANSWER_BYTES]

    def _record(self, outgoing: Outgoing, outcome: Outcome, seconds: float) -> None:
        now = self._clock()
        with self._sessions.begin() as session:
            entry = DeliveryTry(
                delivery_id=outgoing.delivery_id,
                at=now,
                status_code=outcome.status,
                answer=outcome.answer,
                seconds=seconds,
            )
            deliveries.record_try(session, entry)
            if outcome.delivered:
                deliveries.finish(session, outgoing.delivery_id, deliveries.DELIVERED, now)
            elif outcome.permanent or outgoing.tries >= len(BACK_OFF):
                deliveries.finish(session, outgoing.delivery_id, deliveries.GIVEN_UP, now)
                log.warning("webhook given up", extra={"delivery": outgoing.delivery_id})
            else:
                wait = BACK_OFF[outgoing.tries] * self._random.uniform(1 - JITTER, 1 + JITTER)
                deliveries.postpone(session, outgoing.delivery_id, now + wait)
            if outcome.status == 410:
                deliveries.set_enabled(session, outgoing.endpoint_id, False)
                deliveries.give_up_all(session, outgoing.endpoint_id, now)
