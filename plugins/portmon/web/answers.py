"""What answers have in common."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import Request
from starlette.responses import JSONResponse


def refuse(status: int, detail: str, **more: Any) -> JSONResponse:
    """A problem document of RFC 9457."""
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": int(status), "detail": detail, **more}
    return JSONResponse(body, status_code=status, media_type="application/problem+json")


def path_of(request: Request) -> str:
    """The path below the page's own address, as routing sees it: the URL is made of the Host header as well."""
    path: str = request.scope["path"]
    return path.removeprefix(request.scope.get("root_path", ""))


def airflow_root(request: Request) -> str:
    """Path below which Airflow is, without a slash at its end."""
    root: str = request.scope.get("app_root_path", "")
    return root.rstrip("/")
