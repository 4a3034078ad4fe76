"""The operator that asks one host."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.providers.ssh.operators.ssh import SSHOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowTaskTimeout

from portmon.airflow import settings
from portmon.airflow.observability import phase
from portmon.airflow.operators.store import NAME_LIMIT, StateMixin, StoredHostKeys
from portmon.airflow.ssh_hook import HostSSHHook
from portmon.errors import RunError, ScanError, ScanTimeoutError
from portmon.model.host import Host
from portmon.model.observation import Observation
from portmon.scan.answer import Recorder, table, to_xcom
from portmon.scan.host import HostScan, Stopwatch, ports_text
from portmon.ssh.config import HostSettings
from portmon.steps.run import run_of
from portmon.text import counted, plain

if TYPE_CHECKING:
    from portmon.config import Config

log = logging.getLogger(__name__)

COMMAND_SHOWN = 100
"""Characters of the command that the log shows."""


class NetstatOperator(StateMixin, SSHOperator):
    """Log in to one host, list its listening TCP ports, confirm what is missing, store the observation.

    Mapped over the plan::

        NetstatOperator.partial(
            task_id="netstat", map_index_template=MAP_INDEX_TEMPLATE, retries=1,
            retry_delay=timedelta(seconds=10), execution_timeout=timedelta(seconds=90),
        ).expand(host=plan)

    It has no template fields: host names, addresses and labels are the CMDB's, and a ``{{`` in them must
    stay two braces.

    Which ports are expected is read from the database when the host is asked, not when that was planned: a task that
    is cleared hours later confirms what is expected by then.

    A failed visit is stored as well, by the last try; what another try can't heal (a refused login, an
    unknown host key) is stored at once and fails the task without another try. A dry run stores nothing.

    :param host: one item of :func:`portmon.steps.plan.plan_hosts`: ``id``, ``name``, ``address``, and where there
        is one ``port``, ``group`` (of ssh settings, by name), ``must`` (declared ports), ``dry_run``
    :returns: nothing, the observation is in the database; of a dry run the observation, see
        :func:`portmon.scan.answer.to_xcom`
    """

    template_fields: Sequence[str] = ()
    template_ext: Sequence[str] = ()
    template_fields_renderers: dict[str, str] = {}  # noqa: RUF012 - as BaseOperator declares it
    ui_color = "#d6e9f8"

    def __init__(self, *, host: Mapping[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.host = host
        self._target = Host(host["id"], host["name"], host["address"], host.get("port"))
        self._shown = plain(self._target.shown(), 300)
        self._dry_run = bool(host.get("dry_run"))
        self._killed: threading.Event | None = None

    @property
    def shown_name(self) -> str:
        """The host's name for the list of mapped tasks."""
        return plain(self.host["name"], NAME_LIMIT)

    @cached_property
    def ssh_hook(self) -> HostSSHHook:
        """The hook for this host."""
        return HostSSHHook(self._target, self._ssh, self._config.ssh, self._keys)

    def execute(self, context: Any) -> dict[str, Any] | None:
        """Visit the host.

        :raises ScanError: it could not be asked; another try may help
        :raises AirflowFailException: another try would not help
        :raises AirflowSkipException: a later run was evaluated since
        """
        with self.task_errors(), phase("look", host=str(self.host["name"])):
            run, ti = run_of(context["dag_run"]), context["ti"]
            run.must_be_live()
            self._killed = threading.Event()
            recorder = Recorder(self.host["id"], run.run_id, ti.try_number, run.logical_date)
            try:
                if ti.try_number > 1 and not self._dry_run:
                    self._must_be_newest(run.run_id)
                return self._visit(recorder, last_try=ti.try_number > (ti.max_tries or 0))
            finally:
                self._hang_up()

    def on_kill(self) -> None:
        """Hang up, so that the task ends at once. A task that a person ended is no evidence and no failure."""
        if self._killed is not None:
            self._killed.set()
        self._hang_up()

    def _visit(self, recorder: Recorder, *, last_try: bool) -> dict[str, Any] | None:
        watch = Stopwatch()
        try:
            observation = self._ask(recorder, watch)
        except ScanError as error:
            final = last_try or not error.retry
            what_next = "No other try" if final else "Another try follows"
            log.error("%s (%s). %s", error.problem, error.error_class, what_next)
            if error.remedy:
                log.error("What to do: %s", error.remedy)
            self._store_failure(recorder, error, watch, final=final)
            if not error.retry:
                raise AirflowFailException(str(error)) from None
            # The message says it all; what paramiko said, and where, would bury it.
            raise error.with_traceback(None) from None
        except RunError:
            raise
        except AirflowTaskTimeout:
            limit = self.execution_timeout.total_seconds() if self.execution_timeout else 0
            text = f"the whole look took longer than {limit:g} s (the task's time limit)"
            self._store_failure(recorder, ScanTimeoutError(text, host=self._shown), watch, final=last_try)
            raise
        except Exception as error:
            self._store_failure(recorder, error, watch, final=last_try)
            raise
        self._hang_up()
        if self._dry_run:
            log.info("Done after %.2f s: dry run, nothing is kept", observation.duration)
            return to_xcom(observation)
        self._store(observation)
        log.info("Done after %.2f s", observation.duration)
        return None

    def _must_be_newest(self, run_id: str) -> None:
        # A task that is cleared may be of long ago. One that never ran then is not told apart: what it sees now is
        # evidence of now, for the next run that evaluates.
        from portmon.storage import runs

        with self.transaction() as conn:
            runs.must_be_newest(conn, run_id)
        self.disconnect()

    # ── the visit ───────────────────────────────────────────────────────────────────────────────

    def _ask(self, recorder: Recorder, watch: Stopwatch) -> Observation:
        from portmon.steps.plan import expected

        hook, host_id = self.ssh_hook, self.host["id"]
        place = self._shown, hook.target.port, plain(hook.username), hook.ssh_conn_id
        log.info("Asking %s, port %d, as user %r with connection %r", *place)
        if hook.lane is None:
            # Before the database is asked: what waits for a host that is off should keep no connection to it.
            hook.dial()
        with self.transaction() as conn:
            self._keys.load(conn, hook.endpoints)
            wanted = expected(conn, [host_id], {host_id: self.host.get("must", ())})[host_id]
        scan = HostScan(recorder, self._shown, wanted, self._ssh)
        session = hook.login()
        log.info(
            "Logged in after %.2f s: %s, host key %s (%s), with %s; %s expected",
            watch.seconds,
            session.server,
            session.key,
            session.trusted,
            session.method,
            counted(len(wanted.ports), "port"),
        )
        command = scan.command("nonce")
        log.info("Running (%d characters): %s", len(command), plain(command, COMMAND_SHOWN))
        scan.ask(session)
        self._log_answer(scan)
        log.info("Listening:\n%s", table(scan.answers[0].listing))
        self._log_what_is_not_shown(scan)
        if scan.gone:
            owners = self._owners(scan.gone)
            self._wait(ports_text(scan.gone, owners))
            scan.ask_again(session)
            self._log_answer(scan)
            if scan.back:
                log.info("Back in the second answer: %s", ports_text(scan.back, owners))
            if scan.still:
                log.warning("Missing in both answers: %s", ports_text(scan.still, owners))
        return scan.success(duration=watch.seconds)

    def _log_answer(self, scan: HostScan) -> None:
        result, found = scan.result, scan.answers[-1].listing
        assert result is not None  # noqa: S101 - for the type checker: there is an answer
        asked = f"{found.tool} answered as uid {found.uid}{f' through {plain(found.via)}' if found.via else ''}"
        count, size = len(found.listeners), len(result.stdout)
        udp = "" if found.udp is None else f" and {len(found.udp)} of UDP"
        log.info("%s after %.2f s: %d listening sockets%s, %d bytes", asked, result.seconds, count, udp, size)

    def _log_what_is_not_shown(self, scan: HostScan) -> None:
        listing = scan.answers[0].listing
        nameless, count = sum(listener.program is None for listener in listing.listeners), len(listing.listeners)
        if nameless and listing.uid != 0 and listing.via is None:
            advice = "`sudo: true` in ssh or in this host's group shows them"
            if self._ssh.sudo:
                advice = "`sudo: true` is set, but sudoers allows none of the listings there (docs/security.md)"
            text = "%d of %d sockets show no program: uid %d may not see other users' processes"
            log.info(text, nameless, count, listing.uid)
            log.info("What to do: %s", advice)
        if scan.lacks_udp:
            log.warning(
                "UDP was asked for and is not shown: the forced command there is of an earlier version "
                "(docs/forced-command.md), or /proc/net/udp can't be read"
            )
        if listing.hung:
            text = "Did not end within their limit there: %s. They are not tried on this host for a day"
            log.warning(text, ", ".join(listing.hung))

    def _owners(self, numbers: Sequence[int]) -> dict[int, str]:
        """What is known of missing ports, so that the log says what died."""
        from portmon.storage import hosts

        with self.transaction() as conn:
            found = hosts.owners(conn, self.host["id"], numbers)
        return {port: plain(names, 300) for port, names in found.items()}

    def _wait(self, gone: str) -> None:
        seconds = self._config.scan.confirm_after.total_seconds()
        text = "Missing: %s. Asking once more in %g s over the same connection, in case of a restart"
        log.warning(text, gone, seconds)
        self.disconnect()
        if self._killed is not None:
            self._killed.wait(seconds)

    # ── the observation ─────────────────────────────────────────────────────────────────────────

    def _store(self, observation: Observation | None) -> None:
        from portmon.storage import archive

        with self.transaction() as conn, self._keys.saved(conn):
            if observation is not None:
                archive.save_observation(conn, observation, per_host=self._config.retention.per_host)

    def _store_failure(self, recorder: Recorder, error: BaseException, watch: Stopwatch, *, final: bool) -> None:
        if self._dry_run or (self._killed is not None and self._killed.is_set()):
            return
        if not final and not self._keys.has_news:
            return
        observation = None
        if final:
            observation = recorder.failure(error, observed_at=datetime.now(UTC), duration=watch.seconds)
        try:
            self._store(observation)
        except Exception:
            # The host's error is what must end this task; without a record the host counts as not scanned.
            log.exception("The failure could not be stored")
        else:
            if observation is not None:
                log.info("Stored as %s (%s): no evidence about any port", observation.outcome, observation.error_class)

    @cached_property
    def _config(self) -> Config:
        return settings.config()

    @cached_property
    def _ssh(self) -> HostSettings:
        from portmon.steps.plan import settings_of

        return settings_of(self._config, self.host.get("group"))

    @cached_property
    def _keys(self) -> StoredHostKeys:
        return StoredHostKeys(read_only=self._dry_run)

    def _hang_up(self) -> None:
        # The hook is never made here: making it reads the connection.
        hook = self.__dict__.get("ssh_hook")
        if hook is not None:
            hook.close()
