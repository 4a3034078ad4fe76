"""Create the tables."""

from __future__ import annotations

from alembic import op
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Integer,
    LargeBinary,
    String,
    Text,
    false,
    text,
    true,
)

from portmon.storage.tables import SafeJson, SafeText, UtcDateTime

revision = "r0001"
down_revision = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "alerts",
        Column("id", String(32), primary_key=True),
        Column("key", SafeText, nullable=False, index=True),
        Column("host_id", SafeText),
        Column("last_event_id", String(32), nullable=False),
        Column("starts_at", UtcDateTime, nullable=False),
        Column("ends_at", UtcDateTime),
        comment="what went wrong, from the event that began it (whose id it has) to the one that ended it",
    )
    op.create_table(
        "checkpoints",
        Column("seq", Integer, autoincrement=False, primary_key=True),
        Column("part", Integer, autoincrement=False, primary_key=True),
        Column("at", UtcDateTime, nullable=False, index=True),
        Column("content", String(64), nullable=False),
        comment="the state as it was after a step of the journal, in parts; 0 is before all of them",
    )
    op.create_table(
        "conditions",
        Column("name", SafeText, primary_key=True),
        Column("since", UtcDateTime, nullable=False),
        comment="what is wrong with the monitoring itself just now: one event per episode",
    )
    op.create_table(
        "contents",
        Column("digest", String(64), primary_key=True),
        Column("data", LargeBinary, nullable=False),
        Column("size", Integer, nullable=False),
        Column("used_at", UtcDateTime, nullable=False, index=True),
        Column("damaged", Boolean, server_default=false(), nullable=False),
        comment="compressed bytes by SHA-256 of what they were before: raw answers, facts, inventories, settings",
    )
    op.create_table(
        "decisions",
        Column("host_id", SafeText, primary_key=True),
        Column("protocol", String(8), primary_key=True),
        Column("port", Integer, primary_key=True),
        Column("kind", String(16), primary_key=True),
        Column("at", UtcDateTime, nullable=False),
        Column("author", SafeText, nullable=False),
        Column("reason", SafeText, nullable=False),
        comment="what people decided about ports: accepted as gone, promoted to declared",
    )
    op.create_table(
        "events",
        Column("seq", Integer, autoincrement=True, primary_key=True),
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
        Column("dispatched", Boolean, server_default=false(), nullable=False),
        Column("alert_id", String(32), index=True),
        Column("step", Integer, index=True),
        Column("replayed_by", SafeText),
        Column("retracted_by", SafeText),
        comment="what happened; dispatched once its deliveries exist",
    )
    op.create_table(
        "host_keys",
        Column("endpoint", SafeText, primary_key=True),
        Column("key_type", SafeText, primary_key=True),
        Column("state", String(16), primary_key=True),
        Column("key_base64", Text, nullable=False),
        Column("fingerprint", Text, nullable=False),
        Column("first_seen", UtcDateTime, nullable=False),
        comment="SSH host keys: trusted on first use, or offered instead and refused",
    )
    op.create_table(
        "hosts",
        Column("host_id", SafeText, primary_key=True),
        Column("name", SafeText, nullable=False),
        Column("address", SafeText, nullable=False),
        Column("ssh_port", Integer),
        Column("labels", SafeJson, nullable=False),
        Column("declared", SafeJson, server_default="[]", nullable=False),
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
        Column("fingerprint", String(32)),
        Column("probe", Integer),
        Column("reader", Integer),
        Column("hung", String(32)),
        Column("hung_at", UtcDateTime),
        comment="what is known of each host",
    )
    op.create_table(
        "inventories",
        Column("digest", String(64), primary_key=True),
        Column("fetched_at", UtcDateTime, nullable=False, index=True),
        Column("run_id", SafeText, nullable=False),
        comment="good host lists by content, with the last time each was fetched",
    )
    op.create_table(
        "journal",
        Column("seq", Integer, autoincrement=True, primary_key=True),
        Column("run_id", SafeText, nullable=False, index=True),
        Column("kind", String(16), nullable=False),
        Column("at", UtcDateTime, nullable=False, index=True),
        Column("inventory", String(64), nullable=False),
        Column("what", String(64), nullable=False),
        Column("late", SafeJson, nullable=False),
        comment="what changed the state, step by step: prunes and evaluations",
    )
    op.create_table(
        "leases",
        Column("name", SafeText, primary_key=True),
        Column("holder", SafeText),
        Column("token", BigInteger, nullable=False),
        Column("expires_at", UtcDateTime, nullable=False),
        Column("try_number", Integer, server_default="0", nullable=False),
        Column("ttl", Float),
        comment="who may write; the token grows with every holder",
    )
    op.create_table(
        "observations",
        Column("host_id", SafeText, primary_key=True),
        Column("observed_at", UtcDateTime, primary_key=True, index=True),
        Column("run_id", SafeText, nullable=False, index=True),
        Column("try_number", Integer, nullable=False),
        Column("logical_date", UtcDateTime),
        Column("outcome", String(16), nullable=False),
        Column("error_class", SafeText),
        Column("error", SafeText),
        Column("facts", String(64)),
        Column("frame", String(64)),
        Column("second_frame", String(64)),
        Column("duration", Float, nullable=False),
        Column("confirmed", Boolean, nullable=False),
        Column("live", Boolean, server_default=true(), nullable=False),
        Column("provisional", Boolean, server_default=false(), nullable=False),
        comment="the archive: every look at a host; live unless the host was deleted since",
    )
    op.create_table(
        "ports",
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
        Column("comms", SafeJson, server_default="[]", nullable=False),
        Column("notices", SafeJson, server_default="[]", nullable=False),
        comment="state of each port; last_seen_at is null while it is seen, so that a quiet run writes nothing here",
    )
    op.create_table(
        "replays",
        Column("id", Integer, autoincrement=True, primary_key=True),
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
    op.create_table(
        "runs",
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
    op.create_table(
        "silences",
        Column("id", Integer, autoincrement=True, primary_key=True),
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
    op.create_table(
        "stored",
        Column("host_id", SafeText, primary_key=True),
        Column("day", String(10), nullable=False),
        Column("bytes", BigInteger, nullable=False),
        comment="how much was stored of what a host said, on the last day on which it said something new",
    )
    op.create_table(
        "deliveries",
        Column("event_id", String(32), ForeignKey("events.id", ondelete="CASCADE"), primary_key=True),
        Column("channel", SafeText, primary_key=True),
        Column("route", SafeText, server_default="default", nullable=False),
        Column("state", String(16), nullable=False),
        Column("tries", Integer, nullable=False),
        Column("last_error", SafeText),
        Column("targets_done", SafeJson, nullable=False),
        Column("message_id", String(32)),
        Column("reminder", Boolean, server_default=false(), nullable=False),
        Column("notified_at", UtcDateTime),
        Column("created_at", UtcDateTime, nullable=False),
        Column("updated_at", UtcDateTime, nullable=False),
        comment="one row per event and channel",
    )
    for name, table, column, unique, where in (
        ("ix_alerts_open", "alerts", "key", True, "ends_at IS NULL"),
        ("ix_events_undispatched", "events", "seq", False, "NOT dispatched"),
        ("ix_deliveries_unfinished", "deliveries", "channel", False, "state IN ('pending', 'sending', 'withheld')"),
    ):
        op.create_index(name, table, [column], unique=unique, postgresql_where=text(where), sqlite_where=text(where))

    # A new version of a row that fits beside the old one concerns no index, and is logged by what is new of it:
    # https://www.postgresql.org/docs/current/storage-hot.html
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER TABLE hosts SET (fillfactor = 50)")
