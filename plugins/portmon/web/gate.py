"""The gate in front of the page: who may pass, which changes are the user's own, and what every answer carries.

It stands in front of routing, so that nothing is reached around it: no static file, no unknown path, no method.
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from functools import partial
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import anyio
import anyio.to_thread
from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import DagDetails, VariableDetails
from airflow.api_fastapi.core_api.security import get_user, is_safe_url
from fastapi import HTTPException, Request
from fastapi.security import HTTPAuthorizationCredentials
from starlette.requests import ClientDisconnect
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from portmon.airflow import settings
from portmon.errors import PortmonError
from portmon.web.answers import airflow_root, path_of, refuse
from portmon.web.reading import CONNECTIONS, kept

log = logging.getLogger(__name__)

DAG_ID = "portmon"
METRICS_CONN_ID = "portmon_metrics"
"""Airflow connection whose password is the bearer token that reads /metrics, and nothing else."""
READ = frozenset({"GET", "HEAD"})
BODY_LIMIT = 256 * 1024
"""Bytes of a request."""
BODY_SECONDS = 10.0
"""A request has arrived whole after so long."""
WAIT_SECONDS = 10.0
"""A request waits so long for others to be answered."""
HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'self'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cache-control": "no-store",
}


class Gate:
    """Lets through what Airflow's auth manager allows: reading with GET on the DAG, changes with PUT on it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._limit: anyio.CapacityLimiter | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        if scope["type"] != "http":
            return
        sending = partial(_send_with_headers, send)
        answer: list[Message] = []

        async def keep(message: Message) -> None:
            answer.append(message)

        try:
            await self._answer(scope, receive, keep)
        finally:
            # After the request has left its place to the next one: a client may read as slowly as it likes.
            for message in answer:
                await sending(message)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Have one request answered; ``send`` does not wait for the client."""
        request = Request(scope, receive)
        try:
            async with self._place():
                refusal = await self._checked(request)
            body = b""
            if refusal is None and request.method not in READ:
                body = await _body(request)
            if refusal is None:
                async with self._place():
                    await self._app(scope, _replayed(body, receive), send)
                return
        except HTTPException as error:
            refusal = refuse(error.status_code, error.detail)
        except ClientDisconnect:
            return
        await refusal(scope, receive, send)

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        """One of the few places of requests that are being answered.

        :raises HTTPException: none was free for :data:`WAIT_SECONDS`
        """
        if self._limit is None:
            self._limit = anyio.CapacityLimiter(CONNECTIONS)
        with anyio.move_on_after(WAIT_SECONDS) as waiting:
            await self._limit.acquire()
        if waiting.cancelled_caught:
            raise HTTPException(HTTPStatus.SERVICE_UNAVAILABLE, "the page is busy with other requests: try again")
        try:
            yield
        finally:
            self._limit.release()

    async def _checked(self, request: Request) -> Response | None:
        """The same as :meth:`_refusal`, if the auth manager can say anything at all."""
        try:
            return await self._refusal(request)
        except Exception:
            log.exception("portmon's page: Airflow's auth manager failed")
            detail = "Airflow's auth manager failed: the log of the API server says why"
            return refuse(HTTPStatus.SERVICE_UNAVAILABLE, detail)

    async def _refusal(self, request: Request) -> Response | None:
        """What is answered instead, None if the request may pass."""
        path = path_of(request)
        bearer = _bearer(request)
        if path == "/metrics" and bearer and await anyio.to_thread.run_sync(_is_metrics_token, bearer.credentials):
            return None
        try:
            user = await get_user(request, None, bearer)
        except HTTPException as error:
            return _unknown(request, path, error)
        details = DagDetails(id=DAG_ID)
        allowed = await anyio.to_thread.run_sync(
            lambda: {
                method: get_auth_manager().is_authorized_dag(method=method, details=details, user=user)
                for method in ("GET", "PUT")
            }
        )
        if not allowed["GET"]:
            return refuse(HTTPStatus.FORBIDDEN, "you may not read the DAG `portmon`; ask an admin of this Airflow")
        if request.method not in READ:
            wrong = _foreign(request)
            if wrong:
                return refuse(HTTPStatus.FORBIDDEN, wrong)
            if not allowed["PUT"]:
                return refuse(HTTPStatus.FORBIDDEN, "you may read the DAG `portmon`, but not edit it")
        request.state.portmon_user = user
        request.state.portmon_may_edit = allowed["PUT"]
        # Rules and host keys are for those who may also change what all DAGs share.
        request.state.portmon_may_operate = lambda: (
            allowed["PUT"]
            and get_auth_manager().is_authorized_variable(method="PUT", details=VariableDetails(), user=user)
        )
        return None


def _bearer(request: Request) -> HTTPAuthorizationCredentials | None:
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not credentials:
        return None
    return HTTPAuthorizationCredentials(scheme=scheme, credentials=credentials.strip())


def _is_metrics_token(token: str) -> bool:
    try:
        found = kept(METRICS_CONN_ID, lambda: settings.connection(METRICS_CONN_ID))
    except PortmonError:
        return False
    secret = found.password if found is not None else None
    return bool(secret) and hmac.compare_digest(str(secret).encode(), token.encode())


def _unknown(request: Request, path: str, error: HTTPException) -> Response:
    """A person is led to the login, a program is told."""
    wants_page = request.method in READ and "text/html" in request.headers.get("accept", "")
    if not wants_page or path.startswith(("/api/", "/static/")):
        return refuse(error.status_code, str(error.detail))
    if request.headers.get("sec-fetch-dest") == "iframe":
        # The login page would be shown within the frame.
        script = f'<script src="{request.scope.get("root_path", "")}/static/reload.js"></script>'
        return HTMLResponse(f"<!doctype html><title>portmon</title>{script}", status_code=HTTPStatus.UNAUTHORIZED)
    query = f"?{request.url.query}" if request.url.query else ""
    back = quote(request.scope["path"] + query, safe="")
    return RedirectResponse(f"{airflow_root(request)}/api/v2/auth/login?next={back}", HTTPStatus.SEE_OTHER)


def _foreign(request: Request) -> str | None:
    """Why a change may come from another site than this one. The cookie travels with a request from anywhere."""
    headers = request.headers
    if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        return "a change is JSON: set Content-Type to application/json"
    # Sent by browsers over https and to localhost only.
    if headers.get("sec-fetch-site", "same-origin") != "same-origin":
        return "this request comes from another site"
    if _bearer(request) is not None and "cookie" not in headers:
        return None
    origin = headers.get("origin", "")
    outer = Request({**request.scope, "root_path": airflow_root(request)})
    if not origin or origin == "null" or not is_safe_url(f"{origin}{airflow_root(request)}/", outer):
        return "this request has no Origin of this site"
    return None


async def _send_with_headers(send: Send, message: Message) -> None:
    if message["type"] == "http.response.start":
        headers = [*message.get("headers", ())]
        given = {name.lower() for name, _ in headers}
        for name, value in HEADERS.items():
            if name.encode() not in given:
                headers.append((name.encode(), value.encode()))
        message = {**message, "headers": headers}
    await send(message)


async def _body(request: Request) -> bytes:
    """The body of a request.

    :raises HTTPException: it has more than :data:`BODY_LIMIT`, or did not arrive within :data:`BODY_SECONDS`
    """
    read = bytearray()
    with anyio.move_on_after(BODY_SECONDS):
        async for part in request.stream():
            read += part
            if len(read) > BODY_LIMIT:
                detail = f"a request has at most {BODY_LIMIT} bytes"
                raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail)
        return bytes(read)
    raise HTTPException(HTTPStatus.REQUEST_TIMEOUT, f"the request did not arrive within {BODY_SECONDS:g} s")


def _replayed(body: bytes, receive: Receive) -> Receive:
    """A body that was read already; then what the client sends."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> MutableMapping[str, Any]:
        return messages.pop() if messages else await receive()

    return replayed
