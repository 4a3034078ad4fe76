"""The operator that looks at one host."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.providers.ssh.operators.ssh import SSHOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowTaskTimeout

from portmon import probe, scan, settings
from portmon.errors import AnswerError, ScanError
from portmon.hooks import HostSSHHook
from portmon.models import Attempt, Host, Observation
from portmon.render import plain
from portmon.ssh.session import Session
from portmon.ssh.trust import HostKey

if TYPE_CHECKING:
    pass

log = logging.getLogger(__name__)

MAP_INDEX_TEMPLATE = "{{ task.shown_name }}"
"""Names a mapped task after its host. The name is a value here, so nothing in it is rendered."""

NAME_LIMIT = 250
"""Characters that Airflow's database takes for the name of a mapped task."""

COMMAND_SHOWN = 100
"""Characters of the command that the log shows."""


class NetstatOperator(SSHOperator):
    """Log in to one host, list its listening TCP ports, confirm what is missing, store the record.

    Mapped over the plan::

        NetstatOperator.partial(
            task_id="netstat", map_index_template=MAP_INDEX_TEMPLATE, retries=1,
            retry_delay=timedelta(seconds=10), execution_timeout=timedelta(seconds=90),
        ).expand(host=plan)

    It has no template fields: host names, addresses and labels are the CMDB's, and a ``{{`` in them must
    stay two braces.

    A failed look is stored as well, by the last try; what another try can't heal (a refused login, an
    unknown host key) is stored at once and fails the task without another try. A dry run stores nothing.

    :param host: one item of :func:`portmon.pipeline.plan.plan_hosts`: ``id``, ``name``, ``address``, ``port``,
        ``labels``, ``ports`` (to expect), ``binds`` (port: addresses to expect), ``dry_run``, and ``ssh`` with
        ``conn_id``, ``port``, ``user``, ``connect_timeout`` and ``command_timeout`` (seconds), ``max_output`` (bytes),
        ``sudo``, ``host_keys``, ``known_hosts``, ``confirm_after`` (seconds)
    :returns: ``host_id``, ``outcome`` and ``digest``; of a dry run also the record
    """

    template_fields: Sequence[str] = ()
    template_ext: Sequence[str] = ()
    template_fields_renderers: dict[str, str] = {}  # noqa: RUF012 - as BaseOperator declares it
    ui_color = "#d6e9f8"

    def __init__(self, *, host: Mapping[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.host = host
        self._killed: threading.Event | None = None

    @property
    def shown_name(self) -> str:
        """The host's name for the list of mapped tasks."""
        return plain(self.host["name"], NAME_LIMIT)

    @cached_property
    def ssh_hook(self) -> HostSSHHook:
        """The hook for this host."""
        ssh = self.host["ssh"]
        return HostSSHHook(
            host=self._target,
            ssh_conn_id=ssh["conn_id"],
            port=ssh["port"],
            user=ssh["user"],
            connect_timeout=ssh["connect_timeout"],
            strict=ssh["host_keys"] == "strict",
            known_hosts=ssh["known_hosts"],
            store=StoredHostKeys(read_only=self._dry_run),
        )

    def execute(self, context: Any) -> dict[str, Any]:
        """Look at the host.

        :raises ScanError: it could not be asked; another try may help
        :raises AirflowFailException: another try would not help
        """
        run, ti = context["dag_run"], context["ti"]
        if str(getattr(run.run_type, "value", run.run_type)) == "backfill":
            raise AirflowFailException(
                "This is a backfill run: a port can't be looked at in the past, so the host is not asked"
            )
        self._killed = threading.Event()
        look = scan.Look(self.host["id"], run.run_id, ti.try_number, run.logical_date)
        last_try = ti.try_number > (ti.max_tries or 0)
        started = time.monotonic()
        try:
            attempt = self._look(look, started)
        except ScanError as error:
            final = last_try or not error.retry
            log.error("%s (%s). %s", error, error.error_class, "No other try" if final else "Another try follows")
            self._store_failure(look, error, started, final=final)
            if not error.retry:
                raise AirflowFailException(str(error)) from None
            # The message says it all; what paramiko said, and where, would bury it.
            raise error.with_traceback(None) from None
        except AirflowTaskTimeout:
            limit = self.execution_timeout.total_seconds() if self.execution_timeout else 0
            self._store_failure(look, scan.timed_out(limit, host=self._shown), started, final=last_try)
            raise
        except Exception as error:
            self._store_failure(look, error, started, final=last_try)
            raise
        finally:
            self._hang_up()
        digest = None if self._dry_run else self._store(attempt)
        log.info("Done after %.2f s%s", attempt.duration, ": dry run, nothing is kept" if self._dry_run else "")
        return scan.to_xcom(attempt, digest=digest)

    def on_kill(self) -> None:
        """Hang up, so that the task ends at once. What a person ended is no evidence and no failure."""
        if self._killed is not None:
            self._killed.set()
        self._hang_up()

    # ── the look ────────────────────────────────────────────────────────────────────────────────

    def _look(self, look: scan.Look, started: float) -> Attempt:
        expected = self.host["ports"]
        binds = {int(port): addresses for port, addresses in self.host.get("binds", {}).items()}
        hook = self.ssh_hook
        log.info(
            "Asking %s, port %d, as user %r with connection %r; %d ports expected",
            self._shown,
            hook.target.port,
            plain(hook.username),
            hook.ssh_conn_id,
            len(expected),
        )
        session = hook.login()
        log.info(
            "Logged in after %.2f s: %s, host key %s (%s), with %s",
            session.seconds,
            session.server,
            session.key,
            session.trusted,
            session.method,
        )
        answers = [self._ask(session, first=True)]
        observed_at = datetime.now(UTC)
        observation = answers[0].observation
        self._tell(observation)
        gone = scan.missing(observation, expected, binds)
        if gone:
            self._wait(gone)
            answers.append(self._ask_again(session, gone))
            both = scan.merge([answer.observation for answer in answers])
            still = scan.missing(both, expected, binds)
            back = sorted(set(gone) - set(still))
            if back:
                log.info("Back in the second answer: %s", _ports(back))
            if still:
                log.warning("Missing in both answers: %s", _ports(still))
        return look.success(answers, observed_at=observed_at, duration=time.monotonic() - started)

    def _ask(self, session: Session, *, first: bool = False) -> scan.Answer:
        ssh = self.host["ssh"]
        nonce = probe.new_nonce()
        command = probe.command(nonce, sudo=ssh["sudo"])
        if first:
            log.info("Running (%d characters): %s", len(command), plain(command, COMMAND_SHOWN))
        result = session.run(command, deadline=ssh["command_timeout"], max_output=ssh["max_output"])
        answer = scan.read_answer(
            result.stdout, nonce, host=self._shown, exit_status=result.exit_status, stderr=result.stderr
        )
        found = answer.observation
        log.info(
            "%s answered as uid %d%s after %.2f s: %d listening sockets, %d bytes",
            found.tool,
            found.uid,
            f" through {plain(found.via)}" if found.via else "",
            result.seconds,
            len(found.listeners),
            len(result.stdout),
        )
        return answer

    def _ask_again(self, session: Session, gone: Sequence[int]) -> scan.Answer:
        try:
            return self._ask(session)
        except ScanError as error:
            # The host did answer once, so it is not unreachable; but half a look proves nothing.
            raise AnswerError(
                f"{_ports(gone)} missing, and no second answer that confirms it: "
                + str(error).removeprefix(f"{error.host}: "),
                host=self._shown,
            ) from error

    def _tell(self, observation: Observation) -> None:
        log.info("Listening:\n%s", scan.table(observation))
        nameless = sum(listener.program is None for listener in observation.listeners)
        if nameless and observation.uid != 0:
            log.info(
                "%d of %d sockets show no program: uid %d may not see other users' processes; `sudo: true` in ssh or "
                "in this host's group shows them",
                nameless,
                len(observation.listeners),
                observation.uid,
            )

    def _wait(self, gone: Sequence[int]) -> None:
        seconds = self.host["ssh"]["confirm_after"]
        log.warning(
            "Missing: %s. Asking once more in %g s over the same connection, in case of a restart",
            _ports(gone),
            seconds,
        )
        if self._killed is not None:
            self._killed.wait(seconds)

    # ── the record ──────────────────────────────────────────────────────────────────────────────

    def _store(self, attempt: Attempt) -> str:
        from portmon.storage import archive

        with _transaction() as conn:
            return archive.save_attempt(conn, attempt)

    def _store_failure(self, look: scan.Look, error: BaseException, started: float, *, final: bool) -> None:
        if not final or self._dry_run or (self._killed is not None and self._killed.is_set()):
            return
        attempt = look.failure(error, observed_at=datetime.now(UTC), duration=time.monotonic() - started)
        try:
            self._store(attempt)
        except Exception:
            # The host's error is what must end this task; without a record the host counts as not scanned.
            log.exception("The failure could not be stored")
        else:
            log.info("Stored as %s (%s): no evidence about any port", attempt.outcome, attempt.error_class)

    # ── small things ────────────────────────────────────────────────────────────────────────────

    @property
    def _target(self) -> Host:
        host = self.host
        return Host(host["id"], host["name"], host["address"], host["port"], host["labels"])

    @property
    def _shown(self) -> str:
        return plain(self._target.shown(), 300)

    @property
    def _dry_run(self) -> bool:
        return bool(self.host.get("dry_run"))

    def _hang_up(self) -> None:
        # Never made here: making it reads the connection.
        hook = self.__dict__.get("ssh_hook")
        if hook is not None:
            hook.close()


class StoredHostKeys:
    """Host keys trusted on first use, in the state database; see :class:`portmon.ssh.trust.HostKeyStore`.

    :param read_only: for dry runs, which leave no trace
    """

    def __init__(self, *, read_only: bool = False) -> None:
        self._read_only = read_only

    def get(self, endpoint: str) -> Sequence[HostKey]:
        """The trusted keys of an endpoint."""
        from portmon.storage import host_keys

        with _transaction() as conn:
            return [HostKey(key.key_type, key.key_base64) for key in host_keys.get(conn, endpoint)]

    def remember(self, endpoint: str, key: HostKey) -> None:
        """Trust the first key of an endpoint."""
        from portmon.storage import host_keys

        if not self._read_only:
            with _transaction() as conn:
                host_keys.remember(conn, endpoint, key.type, key.base64, key.fingerprint, datetime.now(UTC))

    def report_change(self, endpoint: str, key: HostKey) -> None:
        """Note that an endpoint shows another key."""
        from portmon.storage import host_keys

        if not self._read_only:
            with _transaction() as conn:
                host_keys.report_change(conn, endpoint, key.type, key.base64, key.fingerprint, datetime.now(UTC))


@contextmanager
def _transaction() -> Iterator[Any]:
    """One transaction in the state database, whose connection is closed at once: a scan waits most of its time."""
    database = settings.database()
    try:
        with database.begin() as conn:
            yield conn
    finally:
        database.dispose()


def _ports(ports: Sequence[int]) -> str:
    shown = ", ".join(map(str, ports[:20]))
    return shown if len(ports) <= 20 else f"{shown} and {len(ports) - 20} more"
