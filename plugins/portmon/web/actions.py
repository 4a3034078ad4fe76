"""What people do on the page: each is JSON, has a reason, and may be asked for as a preview, which changes nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi import Path as PathParam
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from portmon.airflow import settings
from portmon.api import alerts, hosts, ignored, notes, ports, silences
from portmon.api.silences import NewSilence
from portmon.api.view import Text, View
from portmon.errors import RequestError
from portmon.fields import parse_duration
from portmon.model.event import alert_key_of
from portmon.storage import alerts as open_alerts
from portmon.web import reading
from portmon.web.queries import Moment, Name, Port

log = logging.getLogger(__name__)

router = APIRouter()
Result = TypeVar("Result")
Reason = Annotated[str, Field(min_length=1, max_length=1000, description="why; recorded and shown")]
Preview = Annotated[bool, Query(description="say what it would do, and change nothing")]
MOST = 1000
"""Rows of one request."""
PATIENCE = 5
"""Seconds to wait for another writer: a person would rather try again, and others wait for the same few places."""


class Wanted(BaseModel):
    """A request; a field that it does not know is a mistake."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)


class Acknowledge(Wanted):
    """Alerts that someone takes care of."""

    alerts: Annotated[list[Annotated[str, Field(max_length=64)]], Field(min_length=1, max_length=MOST)]
    lasts: str = Field("", max_length=30, description="such as 4h; empty: until each is over")
    reason: Reason


class AddSilence(Wanted):
    """Messages that are to be withheld."""

    hosts: list[Name] = Field([], max_length=MOST)
    labels: dict[str, list[str]] = {}
    ports: list[str] = Field([], max_length=MOST)
    programs: list[str] = Field([], max_length=MOST)
    lasts: str = Field("", max_length=30, description="such as 4h or 2d")
    ends_at: Moment | None = None
    reason: Reason


class OfPorts(Wanted):
    """Ports, by the id of their host: ``443`` or ``"53/udp"``."""

    ports: Annotated[list[tuple[Name, Port]], Field(min_length=1, max_length=MOST)]
    reason: Reason


class IgnorePorts(OfPorts):
    """Ports that are not to be watched for some time."""

    lasts: str = Field("", max_length=30, description="such as 4h or 30d")
    ends_at: Moment | None = None


class WriteNote(Wanted):
    """What runs at a port of a host, or what a unit is, and whom to ask."""

    text: str = Field("", max_length=notes.LIMIT)
    host: Name = ""
    port: Port | None = None
    unit: Name = ""
    label: Annotated[Name, Field(description="name=value of the hosts whose unit is meant")] = ""


class AcceptMachine(Wanted):
    """A host for which another machine answers."""

    host: Name
    reason: Reason


class ReleaseKey(Wanted):
    """A host key that a person compared with the host's own."""

    endpoint: str = Field(max_length=300, pattern=r"^[^\x00]+$")
    fingerprint: str = Field(max_length=200, pattern=r"^[^\x00]+$")
    reason: Reason


class Hits(View):
    """What is hit: numbers of ports, of their hosts, and of open alerts of these ports."""

    ports: int
    hosts: int
    alerts: int


class ActionResult(View):
    """What was done, in sentences, or would be done.

    :param effect: when it counts
    """

    done: tuple[Text, ...]
    preview: bool
    effect: str = "it counts from the next run on"
    hits: Hits | None = None


class _UndoneError(Exception):
    """Ends a transaction that was a preview."""


@contextmanager
def _writing(*, preview: bool) -> Iterator[Connection]:
    # Says what is wrong with the database before a connection that writes would make an empty one.
    with reading.reading():
        pass
    try:
        with settings.database(patience=PATIENCE).begin() as conn:
            yield conn
            if preview:
                raise _UndoneError
    except _UndoneError:
        pass


def _do(request: Request, kind: str, act: Callable[[Connection, str, datetime], Result], *, preview: bool) -> Result:
    user = request.state.portmon_user.get_name()
    now = datetime.now(UTC)
    with _writing(preview=preview) as conn:
        result = act(conn, user, now)
    if not preview:
        _audit(user, kind, result)
        reading.forget()
    return result


def _audit(user: str, kind: str, result: Any) -> None:
    """A row in Airflow's own audit log, after the change: what was refused is not in it."""
    from airflow.models.log import Log
    from airflow.utils.session import create_session

    said = result.model_dump_json() if isinstance(result, BaseModel) else str(result)
    row = Log(event=f"portmon.{kind}", owner=user, owner_display_name=user, dag_id="portmon", extra=said)
    try:
        with create_session() as session:
            session.add(row)
    except SQLAlchemyError:
        # It is done, and portmon's own list has it.
        log.exception("portmon's page: Airflow's audit log does not have that %s did %s", user, said)


def _end(lasts: str, now: datetime) -> datetime | None:
    if not lasts:
        return None
    try:
        length = parse_duration(lasts)
    except ValueError as error:
        raise RequestError(f"lasts: {error}") from error
    if length <= timedelta(0):
        raise RequestError("lasts: must be longer than 0")
    return now + length


def _until(wanted: AddSilence | IgnorePorts, now: datetime) -> datetime:
    end = wanted.ends_at or _end(wanted.lasts, now)
    if end is None:
        raise RequestError("say until when: lasts or ends_at")
    return end


def _must_operate(request: Request, what: str) -> None:
    if not request.state.portmon_may_operate():
        raise HTTPException(HTTPStatus.FORBIDDEN, f"only users who may edit Airflow's variables {what}")


@router.post("/acknowledgements")
def acknowledge(request: Request, wanted: Acknowledge, preview: Preview = False) -> ActionResult:
    """Take care of open alerts: their messages are withheld, but for their end."""

    def act(conn: Connection, user: str, now: datetime) -> ActionResult:
        until = _end(wanted.lasts, now)
        done = alerts.acknowledge_alerts(conn, wanted.alerts, until=until, author=user, reason=wanted.reason, now=now)
        return ActionResult(done=tuple(done), preview=preview, effect="it counts at once")

    return _do(request, "acknowledge", act, preview=preview)


@router.post("/silences")
def add_silence(request: Request, wanted: AddSilence, preview: Preview = False) -> NewSilence:
    """Withhold messages about some hosts or ports."""

    def act(conn: Connection, user: str, now: datetime) -> NewSilence:
        given = wanted.model_dump(exclude={"lasts", "ends_at"})
        return silences.silence(conn, **given, ends_at=_until(wanted, now), author=user, now=now)

    return _do(request, "silence", act, preview=preview)


@router.post("/silences/{number}/lift")
def lift_silence(
    request: Request, number: Annotated[int, PathParam(ge=1, le=2**31 - 1)], preview: Preview = False
) -> ActionResult:
    """End a silence or an acknowledgement before its time."""

    def act(conn: Connection, user: str, now: datetime) -> ActionResult:
        said = silences.lift(conn, number, author=user, now=now)
        return ActionResult(done=(said,), preview=preview, effect="it counts at once")

    return _do(request, "lift", act, preview=preview)


@router.post("/ports/accept")
def accept_ports(request: Request, wanted: OfPorts, preview: Preview = False) -> ActionResult:
    """Accept that ports which are down are gone for good."""
    return _each_port(request, "accept", ports.accept, wanted, preview=preview)


@router.post("/ports/promote")
def promote_ports(request: Request, wanted: OfPorts, preview: Preview = False) -> ActionResult:
    """Declare that ports must listen."""
    return _each_port(request, "promote", ports.promote, wanted, preview=preview)


@router.post("/ports/ignore")
def ignore_ports(request: Request, wanted: IgnorePorts, preview: Preview = False) -> ActionResult:
    """Watch ports no more until a time. It is a rule: for those who may edit Airflow's variables."""
    _must_operate(request, "ignore ports")

    def change(conn: Connection, host: str, port: int, *, now: datetime, **given: str) -> str:
        return ignored.ignore(conn, host, port, until=_until(wanted, now), now=now, **given)

    return _each_port(request, "ignore", change, wanted, preview=preview)


@router.post("/ports/watch")
def watch_ports(request: Request, wanted: OfPorts, preview: Preview = False) -> ActionResult:
    """Watch ports again that are ignored. For those who may edit Airflow's variables."""
    _must_operate(request, "change which ports are ignored")
    return _each_port(request, "watch", ignored.watch_again, wanted, preview=preview)


@router.post("/ports/forget-boots")
def forget_boots(request: Request, wanted: OfPorts, preview: Preview = False) -> ActionResult:
    """Forget how long ports took after the last boots of their hosts."""
    return _each_port(request, "forget_boots", ports.forget_boots, wanted, preview=preview)


def _each_port(
    request: Request, kind: str, change: Callable[..., str], wanted: OfPorts, *, preview: bool
) -> ActionResult:
    def act(conn: Connection, user: str, now: datetime) -> ActionResult:
        done = [change(conn, host, port, author=user, reason=wanted.reason, now=now) for host, port in wanted.ports]
        ids = {host: hosts.find_host(conn, host).id for host in {host for host, _ in wanted.ports}}
        keys = {alert_key_of(ids[host], port) for host, port in wanted.ports}
        hits = Hits(ports=len(keys), hosts=len(set(ids.values())), alerts=len(open_alerts.opened(conn, keys)))
        return ActionResult(done=tuple(done), preview=preview, hits=hits)

    return _do(request, kind, act, preview=preview)


@router.post("/notes")
def write_note(request: Request, wanted: WriteNote, preview: Preview = False) -> ActionResult:
    """Write a note on a port or a unit; an empty text removes it."""

    def act(conn: Connection, user: str, now: datetime) -> ActionResult:
        said = notes.write_note(conn, **wanted.model_dump(), author=user, now=now)
        return ActionResult(done=(said,), preview=preview, effect="messages have it from now on")

    return _do(request, "note", act, preview=preview)


@router.post("/hosts/accept")
def accept_machine(request: Request, wanted: AcceptMachine, preview: Preview = False) -> ActionResult:
    """Accept that the machine which answers for a host is the host's own."""

    def act(conn: Connection, user: str, now: datetime) -> ActionResult:
        said = hosts.accept_machine(conn, wanted.host, author=user, reason=wanted.reason, now=now)
        return ActionResult(done=(said,), preview=preview)

    return _do(request, "accept_machine", act, preview=preview)


@router.post("/hosts/keys/release")
def release_key(request: Request, wanted: ReleaseKey, preview: Preview = False) -> ActionResult:
    """Trust the host key that a host shows now. For those who may edit Airflow's variables."""
    _must_operate(request, "release host keys")

    def act(conn: Connection, user: str, now: datetime) -> ActionResult:
        said = hosts.accept_host_key(
            conn, wanted.endpoint, wanted.fingerprint, author=user, reason=wanted.reason, now=now
        )
        return ActionResult(done=(said,), preview=preview, effect="the next run asks the host again")

    return _do(request, "release_key", act, preview=preview)
