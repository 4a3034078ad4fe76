"""The application behind the gate: pages, the JSON API, metrics, static files, and one form for every error."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from portmon.errors import CommandError, PortmonError, RequestError
from portmon.text import REASON_LIMIT, plain
from portmon.web import actions, json_api, metrics, pages
from portmon.web.answers import path_of, refuse
from portmon.web.render import FOLDER, page

log = logging.getLogger(__name__)

_STATUS: tuple[tuple[type[Exception], int], ...] = (
    (RequestError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (CommandError, HTTPStatus.NOT_FOUND),
    (PortmonError, HTTPStatus.SERVICE_UNAVAILABLE),
)


def application() -> FastAPI:
    """Pages, JSON API and metrics, open to anyone."""
    # FastAPI's own pages of documentation would be open to anyone and load scripts from elsewhere.
    made = FastAPI(title="portmon", docs_url=None, redoc_url=None, openapi_url=None, version="1")
    made.include_router(json_api.router, prefix="/api/v1")
    made.include_router(actions.router, prefix="/api/v1")
    made.include_router(metrics.router)
    made.include_router(pages.router)
    made.mount("/static", StaticFiles(directory=FOLDER / "static"))
    made.add_exception_handler(PortmonError, _failed)
    made.add_exception_handler(HTTPException, _http)
    made.add_exception_handler(RequestValidationError, _invalid)
    return made


# No coroutines: a page asks the auth manager, which may wait for its database.
def _failed(request: Request, error: Exception) -> Response:
    status = next(status for kind, status in _STATUS if isinstance(error, kind))
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        log.warning("portmon's page: %s", plain(str(error), REASON_LIMIT))
    return _answer(request, status, plain(str(error), REASON_LIMIT))


def _http(request: Request, error: Any) -> Response:
    return _answer(request, error.status_code, str(error.detail))


def _invalid(request: Request, error: Any) -> Response:
    wrong = [{"field": plain(".".join(map(str, one["loc"]))), "detail": plain(one["msg"])} for one in error.errors()]
    detail = "; ".join(f"{one['field']}: {one['detail']}" for one in wrong)
    return _answer(request, HTTPStatus.UNPROCESSABLE_ENTITY, detail, errors=wrong)


def _answer(request: Request, status: int, detail: str, **more: Any) -> Response:
    if "text/html" in request.headers.get("accept", "") and not path_of(request).startswith("/api/"):
        return page(request, "error", status=status, detail=detail)
    return refuse(status, detail, **more)
