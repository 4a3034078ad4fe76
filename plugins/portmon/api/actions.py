"""The list of what people did."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from portmon.api.view import Text, View
from portmon.storage import actions


class ActionView(View):
    """Something that a person did, see :class:`portmon.storage.actions.Action`."""

    id: int
    at: datetime
    author: Text
    kind: str
    subject: Text
    reason: Text
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None


def list_actions(conn: Connection, *, limit: int = 100, before: int | None = None) -> list[ActionView]:
    """What people did last, newest first."""
    return [ActionView.model_validate(one) for one in actions.newest(conn, limit=limit, before=before)]
