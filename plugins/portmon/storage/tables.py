"""Tables, and the column types that both databases store alike."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    false,
    true,
)

from portmon.model.alert import UNFINISHED

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
"""Before anything that is stored."""
WRITTEN = len("2026-01-01 00:00:00.000000")
"""Length of a time as SQLite has it, unless something else than portmon wrote it."""
ESCAPE = "\x1a"
_STORED = re.compile("[\x00\x1a\ud800-\udfff]")
_READ = re.compile("\x1a([0-9a-f]{4})")

# json.dumps() would make an encoder for each value.
as_json = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode
"""What a column of :class:`SafeJson` has for a value."""


def _utc(value: datetime | None) -> datetime | None:
    if value is None or value.tzinfo is UTC:
        return value
    if value.tzinfo is None:
        raise ValueError(f"naive datetime {value!r}")
    return value.astimezone(UTC)


# A host has one time in several columns.
@lru_cache(maxsize=1 << 10)
def _written(value: datetime | None) -> str | None:
    at = _utc(value)
    return None if at is None else at.isoformat(" ", "microseconds").removesuffix("+00:00")


def _read(value: str | None) -> datetime | None:
    if value is None:
        return None
    if len(value) == WRITTEN:
        return datetime.fromisoformat(value + "+00:00")
    at = datetime.fromisoformat(value)
    return _utc(at) if at.tzinfo else at.replace(tzinfo=UTC)


def _text(value: str | bytes | None) -> str | None:
    if isinstance(value, bytes):
        # SQLite takes them into any column; only a damaged row has some.
        value = value.decode("utf-8", "backslashreplace")
    if value is None or ESCAPE not in value:
        return value
    return _READ.sub(lambda match: chr(int(match[1], 16)), value)


def _escaped(value: str | None) -> str | None:
    return None if value is None else _STORED.sub(lambda match: f"{ESCAPE}{ord(match[0]):04x}", value)


class UtcDateTime(TypeDecorator[datetime]):
    """Aware datetimes in UTC, to the microsecond. Naive ones are a mistake and refused."""

    impl = DateTime
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> Any:
        """``timestamptz`` on PostgreSQL; SQLite keeps UTC without a zone."""
        return dialect.type_descriptor(DateTime(timezone=dialect.name == "postgresql"))

    # Functions of the value alone, which are called ten thousand times in a run.

    def bind_processor(self, dialect: Dialect) -> Callable[[Any], Any]:
        """Into the database."""
        return _utc if dialect.name == "postgresql" else _written

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], datetime | None]:
        """Out of the database."""
        return _utc if dialect.name == "postgresql" else _read


class LenientDateTime(UtcDateTime):
    """The same where one damaged row must stop nothing: a time that can't be read is EPOCH, which no look has.

    SQLite takes any text for a time.
    """

    cache_ok = True

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], datetime | None]:
        """Out of the database: as of :class:`UtcDateTime`."""
        read = super().result_processor(dialect, coltype)

        def read_or_epoch(value: Any) -> datetime | None:
            try:
                return read(value)
            except (ValueError, TypeError, OverflowError):
                return EPOCH

        return read_or_epoch


class SafeText(TypeDecorator[str]):
    """Text of hosts and CMDBs: NUL and lone surrogates, which PostgreSQL refuses, come back as they were."""

    impl = Text
    cache_ok = True

    def bind_processor(self, dialect: Dialect) -> Callable[[Any], str | None]:
        """Into the database: as of :class:`UtcDateTime`."""
        return _escaped

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], str | None]:
        """Out of the database: as of :class:`UtcDateTime`."""
        return _text


class SafeJson(TypeDecorator[Any]):
    """JSON as ASCII text, so that it holds whatever Python's ``str`` does; sorted, so that equal is equal."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        """Into the database."""
        if value is None:
            return None
        if value == () or value == []:
            # Most lists are.
            return "[]"
        if not isinstance(value, dict | tuple | list) and isinstance(value, Mapping):
            value = dict(value)
        return as_json(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        """Out of the database."""
        return None if value is None else json.loads(value)


metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _partial_index(name: str, column: Column[Any], where: ColumnElement[bool], *, unique: bool = False) -> None:
    Index(name, column, unique=unique, postgresql_where=where, sqlite_where=where)


contents = Table(
    "contents",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("data", LargeBinary, nullable=False),
    Column("size", Integer, nullable=False),
    Column("used_at", LenientDateTime, nullable=False, index=True),
    # Could not be read: stored again as soon as the same bytes are seen.
    Column("damaged", Boolean, nullable=False, server_default=false()),
    comment="compressed bytes by SHA-256 of what they were before: raw answers, facts, inventories, settings",
)

hosts = Table(
    "hosts",
    metadata,
    Column("host_id", SafeText, primary_key=True),
    Column("name", SafeText, nullable=False),
    Column("address", SafeText, nullable=False),
    Column("ssh_port", Integer),
    Column("labels", SafeJson, nullable=False),
    Column("declared", SafeJson, nullable=False, server_default="[]"),
    Column("removed_at", UtcDateTime),
    Column("status", String(16), nullable=False),
    Column("status_since", UtcDateTime),
    Column("failures", Integer, nullable=False),
    Column("failing_since", UtcDateTime),
    Column("counted_at", UtcDateTime),
    Column("last_evaluated_at", UtcDateTime),
    Column("last_ok_at", UtcDateTime),
    Column("boot_id", SafeText),
    Column("grace_until", UtcDateTime),
    Column("netns", BigInteger),
    Column("ephemeral_low", Integer),
    Column("ephemeral_high", Integer),
    Column("tool", SafeText),
    Column("rules", String(16)),
    Column("duplicate_of", SafeText),
    Column("error_class", SafeText),
    Column("error", SafeText),
    Column("listening", SafeJson),
    # By what its last ok observation was evaluated, as long as nothing about its ports is pending.
    Column("fingerprint", String(32)),
    # Versions of the last ok observation's frame and of its reader; tools that hung there, with commas.
    Column("probe", Integer),
    Column("reader", Integer),
    Column("hung", String(32)),
    Column("hung_at", UtcDateTime),
    # Clocks in seconds, of observations with evidence and of runs that tried the host.
    Column("evidence", Float, nullable=False, server_default="0"),
    Column("tried", Float, nullable=False, server_default="0"),
    Column("known_since", UtcDateTime),
    Column("tried_at", UtcDateTime),
    Column("pid1_start", BigInteger),
    Column("boot_looks", Integer),
    Column("booted_at", UtcDateTime),
    Column("many", SafeJson, nullable=False, server_default="[]"),
    Column("unnamed", Integer),
    Column("young", SafeJson, nullable=False, server_default="[]"),
    Column("shared", Boolean, nullable=False, server_default=false()),
    Column("kept", SafeJson),
    Column("changes", SafeJson, nullable=False, server_default="[]"),
    Column("flapping_since", UtcDateTime),
    Column("changed_at", UtcDateTime),
    Column("told", SafeJson, nullable=False, server_default="[]"),
    comment="what is known of each host",
)

ports = Table(
    "ports",
    metadata,
    Column("host_id", SafeText, primary_key=True),
    Column("protocol", String(8), primary_key=True),
    Column("port", Integer, primary_key=True),
    Column("status", String(16), nullable=False),
    Column("status_since", UtcDateTime),
    Column("misses", Integer, nullable=False),
    Column("streak", Integer, nullable=False),
    Column("counted_at", UtcDateTime),
    Column("first_seen_at", UtcDateTime),
    Column("last_seen_at", UtcDateTime),
    Column("addresses", SafeJson, nullable=False),
    Column("programs", SafeJson, nullable=False),
    Column("pids", SafeJson, nullable=False),
    Column("uids", SafeJson, nullable=False),
    Column("units", SafeJson, nullable=False),
    Column("tool", SafeText),
    Column("at_baseline", Boolean, nullable=False),
    Column("declared", SafeText),
    Column("grace_until", UtcDateTime),
    Column("flapping_since", UtcDateTime),
    Column("changes", SafeJson, nullable=False),
    Column("lost", SafeJson, nullable=False),
    Column("lost_since", UtcDateTime),
    Column("late", SafeJson, nullable=False, server_default="[]"),
    Column("comms", SafeJson, nullable=False, server_default="[]"),
    Column("notices", SafeJson, nullable=False, server_default="[]"),
    # Clocks are the evidence clock of the host, in seconds; so are the changes.
    Column("seen_clock", Float),
    Column("lost_clock", Float),
    Column("inodes", SafeJson, nullable=False, server_default="[]"),
    Column("changed_at", UtcDateTime),
    Column("bind_changes", SafeJson, nullable=False, server_default="[]"),
    Column("bind_flapping_since", UtcDateTime),
    Column("bind_changed_at", UtcDateTime),
    Column("told", SafeJson, nullable=False, server_default="[]"),
    Column("unwatched", SafeJson, nullable=False, server_default="[]"),
    Column("hidden_since", UtcDateTime),
    Column("paused", Boolean, nullable=False, server_default=false()),
    Column("owners", SafeJson, nullable=False, server_default="[]"),
    Column("holders", SafeJson, nullable=False, server_default="[]"),
    Column("young_since", Float),
    Column("restarts", SafeJson, nullable=False, server_default="[]"),
    Column("boots", SafeJson, nullable=False, server_default="[]"),
    comment="state of each port; last_seen_at is null while it is seen, so that a quiet run writes nothing here",
)

decisions = Table(
    "decisions",
    metadata,
    Column("host_id", SafeText, primary_key=True),
    Column("protocol", String(8), primary_key=True),
    Column("port", Integer, primary_key=True),
    Column("kind", String(16), primary_key=True),
    Column("at", UtcDateTime, nullable=False),
    Column("author", SafeText, nullable=False),
    Column("reason", SafeText, nullable=False),
    Column("ends_at", UtcDateTime),
    comment="what people decided about ports: accepted as gone, promoted to declared, ignored until a time",
)

events = Table(
    "events",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("id", String(32), nullable=False, unique=True),
    Column("kind", String(32), nullable=False),
    Column("alert_group", String(16)),
    Column("at", UtcDateTime, nullable=False, index=True),
    Column("run_id", SafeText, nullable=False, index=True),
    Column("host_id", SafeText, index=True),
    Column("host_name", SafeText),
    Column("protocol", String(8)),
    Column("port", Integer),
    Column("severity", String(16), nullable=False),
    Column("reason", SafeText, nullable=False),
    Column("program", SafeText),
    Column("unit", SafeText),
    Column("since", UtcDateTime),
    Column("last_seen", UtcDateTime),
    Column("labels", SafeJson, nullable=False),
    Column("details", SafeJson, nullable=False),
    Column("dispatched", Boolean, nullable=False, server_default=false()),
    Column("alert_id", String(32), index=True),
    Column("step", Integer, index=True),
    Column("replayed_by", SafeText),
    Column("retracted_by", SafeText),
    comment="what happened; dispatched once its deliveries exist",
)
_partial_index("ix_events_undispatched", events.c.seq, ~events.c.dispatched)

event_counts = Table(
    "event_counts",
    metadata,
    Column("kind", String(32), primary_key=True),
    Column("count", BigInteger, nullable=False),
    comment="how many events of each kind there ever were; it never falls, whatever expires or is retracted",
)

alerts = Table(
    "alerts",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("key", SafeText, nullable=False, index=True),
    Column("host_id", SafeText),
    Column("last_event_id", String(32), nullable=False),
    Column("starts_at", UtcDateTime, nullable=False),
    Column("ends_at", UtcDateTime),
    comment="what went wrong, from the event that began it (whose id it has) to the one that ended it",
)
_partial_index("ix_alerts_open", alerts.c.key, alerts.c.ends_at.is_(None), unique=True)

deliveries = Table(
    "deliveries",
    metadata,
    Column("event_id", String(32), ForeignKey(events.c.id, ondelete="CASCADE"), primary_key=True),
    Column("channel", SafeText, primary_key=True),
    Column("route", SafeText, nullable=False, server_default="default"),
    Column("state", String(16), nullable=False),
    Column("tries", Integer, nullable=False),
    Column("last_error", SafeText),
    Column("targets_done", SafeJson, nullable=False),
    Column("message_id", String(32)),
    Column("reminder", Boolean, nullable=False, server_default=false()),
    Column("notified_at", UtcDateTime),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    comment="one row per event and channel",
)
_partial_index("ix_deliveries_unfinished", deliveries.c.channel, deliveries.c.state.in_(UNFINISHED))

silences = Table(
    "silences",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("alert_id", String(32), index=True),
    Column("hosts", SafeJson, nullable=False),
    Column("labels", SafeJson, nullable=False),
    Column("ports", SafeJson, nullable=False),
    Column("programs", SafeJson, nullable=False),
    Column("starts_at", UtcDateTime, nullable=False),
    Column("ends_at", UtcDateTime),
    Column("weekly", SafeJson, nullable=False),
    Column("timezone", SafeText, nullable=False),
    Column("author", SafeText, nullable=False),
    Column("reason", SafeText, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("lifted_at", UtcDateTime),
    Column("lifted_by", SafeText),
    comment="messages that are withheld, and until when; with alert_id an acknowledgement of that alert",
)

told_acknowledgements = Table(
    "told_acknowledgements",
    metadata,
    Column("silence_id", Integer, ForeignKey(silences.c.id, ondelete="CASCADE"), primary_key=True),
    Column("channel", SafeText, primary_key=True),
    Column("told_at", UtcDateTime, nullable=False),
    comment="acknowledgements that a channel was told of",
)

silenced_elsewhere = Table(
    "silenced_elsewhere",
    metadata,
    Column("alert_id", String(32), ForeignKey(alerts.c.id, ondelete="CASCADE"), primary_key=True),
    Column("channel", SafeText, primary_key=True),
    Column("told", SafeText, nullable=False),
    Column("ends_at", UtcDateTime, nullable=False),
    comment="alerts that a receiver such as Alertmanager withholds, as it said when it was last asked",
)

observations = Table(
    "observations",
    metadata,
    Column("host_id", SafeText, primary_key=True),
    Column("observed_at", LenientDateTime, primary_key=True, index=True),
    Column("run_id", SafeText, nullable=False, index=True),
    Column("try_number", Integer, nullable=False),
    Column("logical_date", LenientDateTime),
    Column("outcome", String(16), nullable=False),
    Column("error_class", SafeText),
    Column("error", SafeText),
    Column("facts", String(64)),
    Column("frame", String(64)),
    Column("second_frame", String(64)),
    Column("duration", Float, nullable=False),
    Column("confirmed", Boolean, nullable=False),
    Column("live", Boolean, nullable=False, server_default=true()),
    # Failed in the sweep: counts only if no other observation of its run and host follows.
    Column("provisional", Boolean, nullable=False, server_default=false()),
    comment="the archive: every look at a host; live unless the host was deleted since",
)

stored = Table(
    "stored",
    metadata,
    Column("host_id", SafeText, primary_key=True),
    Column("day", String(10), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    comment="how much was stored of what a host said, on the last day on which it said something new",
)

runs = Table(
    "runs",
    metadata,
    Column("run_id", SafeText, primary_key=True),
    Column("run_type", String(32), nullable=False),
    Column("logical_date", UtcDateTime),
    Column("started_at", UtcDateTime, nullable=False, index=True),
    Column("finished_at", UtcDateTime),
    Column("scope", SafeJson),
    Column("inventory", String(64), nullable=False),
    Column("inventory_fetched_at", UtcDateTime, nullable=False),
    Column("inventory_stale", Boolean, nullable=False),
    Column("settings", String(64), nullable=False),
    Column("summary", SafeJson),
    Column("after_step", Integer, nullable=False),
    comment="what each run had to go by, and what it came to",
)

journal = Table(
    "journal",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("run_id", SafeText, nullable=False, index=True),
    Column("kind", String(16), nullable=False),
    Column("at", UtcDateTime, nullable=False, index=True),
    Column("inventory", String(64), nullable=False),
    Column("what", String(64), nullable=False),
    Column("late", SafeJson, nullable=False),
    comment="what changed the state, step by step: prunes and evaluations",
)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("part", Integer, primary_key=True, autoincrement=False),
    Column("at", UtcDateTime, nullable=False, index=True),
    Column("content", String(64), nullable=False),
    comment="the state as it was after a step of the journal, in parts; 0 is before all of them",
)

replays = Table(
    "replays",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("run_id", SafeText, nullable=False, index=True),
    Column("since", UtcDateTime, nullable=False),
    Column("until", UtcDateTime, nullable=False),
    Column("notify", Boolean, nullable=False),
    Column("asked_at", UtcDateTime, nullable=False, index=True),
    Column("done_at", UtcDateTime),
    Column("done_by", SafeText),
    Column("evaluated_from", UtcDateTime),
    Column("last_step", Integer),
    Column("rules", String(64)),
    Column("summary", SafeJson),
    comment="times that are to be evaluated again, and what came of those that were",
)

inventories = Table(
    "inventories",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("fetched_at", UtcDateTime, nullable=False, index=True),
    Column("run_id", SafeText, nullable=False),
    comment="good host lists by content, with the last time each was fetched",
)

leases = Table(
    "leases",
    metadata,
    Column("name", SafeText, primary_key=True),
    Column("holder", SafeText),
    Column("token", BigInteger, nullable=False),
    Column("expires_at", LenientDateTime, nullable=False),
    Column("try_number", Integer, nullable=False, server_default="0"),
    Column("ttl", Float),
    comment="who may write; the token grows with every holder",
)

host_keys = Table(
    "host_keys",
    metadata,
    Column("endpoint", SafeText, primary_key=True),
    Column("key_type", SafeText, primary_key=True),
    Column("state", String(16), primary_key=True),
    Column("key_base64", Text, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("first_seen", UtcDateTime, nullable=False),
    comment="SSH host keys: trusted on first use, or offered instead and refused",
)

conditions = Table(
    "conditions",
    metadata,
    Column("name", SafeText, primary_key=True),
    Column("since", UtcDateTime, nullable=False),
    Column("details", SafeJson, nullable=False, server_default="{}"),
    comment="what is wrong with hosts and with the monitor just now: one event per episode",
)

actions = Table(
    "actions",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("at", UtcDateTime, nullable=False, index=True),
    Column("author", SafeText, nullable=False),
    Column("kind", String(32), nullable=False),
    Column("subject", SafeText, nullable=False),
    Column("reason", SafeText, nullable=False),
    Column("before", SafeJson),
    Column("after", SafeJson),
    comment="what people did: who, when, why, what was before and what is after",
)

notes = Table(
    "notes",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("host_id", SafeText, nullable=False),
    Column("protocol", String(8), nullable=False),
    Column("port", Integer, nullable=False),
    Column("unit", SafeText, nullable=False),
    Column("label", SafeText, nullable=False),
    Column("text", SafeText, nullable=False),
    Column("author", SafeText, nullable=False),
    Column("at", UtcDateTime, nullable=False),
    comment="what people wrote about a port of a host, or about a unit of the hosts with a label",
)

# For the page's lists, see portmon.storage.lookups.
Index("ix_hosts_name_host_id", hosts.c.name, hosts.c.host_id)
Index("ix_ports_port_host_id", ports.c.port, ports.c.host_id)
Index("ix_events_kind_at", events.c.kind, events.c.at)
_partial_index("ix_observations_failed", observations.c.run_id, observations.c.outcome != "ok")
