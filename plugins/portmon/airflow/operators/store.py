"""Shared by the operators: the state database, stored host keys, names of mapped tasks."""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from portmon.airflow import settings
from portmon.errors import ParamError, PastRunError, RunError
from portmon.ssh.trust import HostKey

if TYPE_CHECKING:
    from portmon.storage.database import Database

log = logging.getLogger(__name__)

MAP_INDEX_TEMPLATE = "{{ task.shown_name }}"
"""Names a mapped task by its operator's word. That is a value here, so nothing in it is rendered."""

NAME_LIMIT = 250
"""Characters that Airflow's database takes for the name of a mapped task."""


class StateMixin:
    """The state database of an operator. Its Airflow connection is read once: that is a request to the API server."""

    _state: Database | None = None

    @contextmanager
    def task_errors(self) -> Iterator[None]:
        """Skip the task if a later run was evaluated since, fail it if another try would not help."""
        try:
            yield
        except PastRunError as error:
            # Airflow's page folds up the message of the exception.
            log.warning("Skipped: %s", error)
            raise AirflowSkipException(str(error)) from None
        except (ParamError, RunError) as error:
            raise AirflowFailException(str(error)) from None
        finally:
            self.disconnect()

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        """One transaction. The connection to the database stays open for the next one, until :meth:`disconnect`."""
        if self._state is None:
            self._state = settings.database(keep_open=True)
        with self._state.begin() as conn:
            yield conn

    def disconnect(self) -> None:
        """Close the connection to the database, as before a long wait; a transaction opens another one."""
        if self._state is not None:
            self._state.dispose()


class StoredHostKeys:
    """Host keys trusted on first use, as they are when they are loaded; see :class:`portmon.ssh.trust.HostKeyStore`.

    What is new is kept by :meth:`saved`, in the transaction of the observations that it belongs to. Any thread may ask.

    :param read_only: for dry runs, which leave no trace
    """

    def __init__(self, *, read_only: bool = False) -> None:
        self._read_only = read_only
        self._lock = threading.Lock()
        self._keys: dict[str, list[HostKey]] = {}
        self._news: list[tuple[bool, str, HostKey, datetime]] = []
        self._saved = 0

    def load(self, conn: Any, endpoints: Collection[str]) -> None:
        """Read what is known of these endpoints; :meth:`get` knows no other ones."""
        from portmon.storage import host_keys

        found = host_keys.trusted(conn, endpoints)
        with self._lock:
            for endpoint in endpoints:
                self._keys[endpoint] = [HostKey(key.key_type, key.key_base64) for key in found.get(endpoint, ())]

    def get(self, endpoint: str) -> Sequence[HostKey]:
        """The trusted keys of an endpoint."""
        with self._lock:
            return tuple(self._keys[endpoint])

    def remember(self, endpoint: str, key: HostKey) -> None:
        """Trust the first key of an endpoint."""
        with self._lock:
            self._keys[endpoint].append(key)
            self._news.append((True, endpoint, key, datetime.now(UTC)))

    def report_change(self, endpoint: str, key: HostKey) -> None:
        """Note that an endpoint shows another key."""
        with self._lock:
            self._news.append((False, endpoint, key, datetime.now(UTC)))

    @contextmanager
    def saved(self, conn: Any) -> Iterator[None]:
        """Keep what is new in a transaction that ends with the block; what is rolled back is new the next time."""
        from portmon.storage import host_keys

        with self._lock:
            news = self._news[self._saved :]
        if not self._read_only:
            for trusted, endpoint, key, at in news:
                keep = host_keys.remember if trusted else host_keys.report_change
                keep(conn, endpoint, key.type, key.base64, key.fingerprint, at)
        yield
        self._saved += len(news)

    @property
    def has_news(self) -> bool:
        """Whether there is something to save."""
        return not self._read_only and len(self._news) > self._saved
