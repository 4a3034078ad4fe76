"""Create the tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from portmon.storage.tables import SafeJson, SafeText, UtcDateTime

revision = "r0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "alerts",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("key", SafeText(), nullable=False),
        sa.Column("host_id", SafeText(), nullable=True),
        sa.Column("last_event_id", sa.String(length=32), nullable=False),
        sa.Column("starts_at", UtcDateTime(), nullable=False),
        sa.Column("ends_at", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_alerts")),
        comment="what went wrong, from the event that began it (whose id it has) to the one that ended it",
    )
    op.create_index("ix_alerts_key", "alerts", ["key"])
    op.create_index(
        "ix_alerts_open",
        "alerts",
        ["key"],
        unique=True,
        postgresql_where=sa.text("ends_at IS NULL"),
        sqlite_where=sa.text("ends_at IS NULL"),
    )
    op.create_table(
        "checkpoints",
        sa.Column("seq", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("part", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("content", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("seq", "part", name=op.f("pk_checkpoints")),
        comment="the state as it was after a step of the journal, in parts; 0 is before all of them",
    )
    op.create_index("ix_checkpoints_at", "checkpoints", ["at"])
    op.create_table(
        "conditions",
        sa.Column("name", SafeText(), nullable=False),
        sa.Column("since", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_conditions")),
        comment="what is wrong with the monitoring itself just now: one event per episode",
    )
    op.create_table(
        "contents",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("used_at", UtcDateTime(), nullable=False),
        sa.Column("damaged", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_contents")),
        comment="compressed bytes by SHA-256 of what they were before: raw answers, facts, inventories, settings",
    )
    op.create_index("ix_contents_used_at", "contents", ["used_at"])
    op.create_table(
        "decisions",
        sa.Column("host_id", SafeText(), nullable=False),
        sa.Column("protocol", sa.String(length=8), nullable=False),
        sa.Column("port", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("author", SafeText(), nullable=False),
        sa.Column("reason", SafeText(), nullable=False),
        sa.PrimaryKeyConstraint("host_id", "protocol", "port", "kind", name=op.f("pk_decisions")),
        comment="what people decided about ports: accepted as gone, promoted to declared",
    )
    op.create_table(
        "events",
        sa.Column("seq", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("alert_group", sa.String(length=16), nullable=True),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("run_id", SafeText(), nullable=False),
        sa.Column("host_id", SafeText(), nullable=True),
        sa.Column("host_name", SafeText(), nullable=True),
        sa.Column("protocol", sa.String(length=8), nullable=True),
        sa.Column("port", sa.Integer(), nullable=True),
        sa.Column("severity", sa.String(length=16), nullable=False),
        sa.Column("reason", SafeText(), nullable=False),
        sa.Column("program", SafeText(), nullable=True),
        sa.Column("unit", SafeText(), nullable=True),
        sa.Column("since", UtcDateTime(), nullable=True),
        sa.Column("last_seen", UtcDateTime(), nullable=True),
        sa.Column("labels", SafeJson(), nullable=False),
        sa.Column("details", SafeJson(), nullable=False),
        sa.Column("dispatched", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("alert_id", sa.String(length=32), nullable=True),
        sa.Column("step", sa.Integer(), nullable=True),
        sa.Column("replayed_by", SafeText(), nullable=True),
        sa.Column("retracted_by", SafeText(), nullable=True),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_events")),
        sa.UniqueConstraint("id", name=op.f("uq_events_id")),
        comment="what happened; dispatched once its deliveries exist",
    )
    op.create_index("ix_events_alert_id", "events", ["alert_id"])
    op.create_index("ix_events_at", "events", ["at"])
    op.create_index("ix_events_host_id", "events", ["host_id"])
    op.create_index("ix_events_run_id", "events", ["run_id"])
    op.create_index("ix_events_step", "events", ["step"])
    op.create_index(
        "ix_events_undispatched",
        "events",
        ["seq"],
        postgresql_where=sa.text("NOT dispatched"),
        sqlite_where=sa.text("NOT dispatched"),
    )
    op.create_table(
        "host_keys",
        sa.Column("endpoint", SafeText(), nullable=False),
        sa.Column("key_type", SafeText(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("key_base64", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("first_seen", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("endpoint", "key_type", "state", name=op.f("pk_host_keys")),
        comment="SSH host keys: trusted on first use, or offered instead and refused",
    )
    op.create_table(
        "hosts",
        sa.Column("host_id", SafeText(), nullable=False),
        sa.Column("name", SafeText(), nullable=False),
        sa.Column("address", SafeText(), nullable=False),
        sa.Column("ssh_port", sa.Integer(), nullable=True),
        sa.Column("labels", SafeJson(), nullable=False),
        sa.Column("declared", SafeJson(), server_default="[]", nullable=False),
        sa.Column("removed_at", UtcDateTime(), nullable=True),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("status_since", UtcDateTime(), nullable=True),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("failing_since", UtcDateTime(), nullable=True),
        sa.Column("counted_at", UtcDateTime(), nullable=True),
        sa.Column("last_evaluated_at", UtcDateTime(), nullable=True),
        sa.Column("last_ok_at", UtcDateTime(), nullable=True),
        sa.Column("boot_id", SafeText(), nullable=True),
        sa.Column("grace_until", UtcDateTime(), nullable=True),
        sa.Column("netns", sa.BigInteger(), nullable=True),
        sa.Column("ephemeral_low", sa.Integer(), nullable=True),
        sa.Column("ephemeral_high", sa.Integer(), nullable=True),
        sa.Column("tool", SafeText(), nullable=True),
        sa.Column("rules", sa.String(length=16), nullable=True),
        sa.Column("duplicate_of", SafeText(), nullable=True),
        sa.Column("error_class", SafeText(), nullable=True),
        sa.Column("error", SafeText(), nullable=True),
        sa.Column("listening", SafeJson(), nullable=True),
        sa.Column("fingerprint", sa.String(length=32), nullable=True),
        sa.Column("probe", sa.Integer(), nullable=True),
        sa.Column("reader", sa.Integer(), nullable=True),
        sa.Column("hung", sa.String(length=32), nullable=True),
        sa.Column("hung_at", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("host_id", name=op.f("pk_hosts")),
        comment="what is known of each host",
    )
    op.create_table(
        "inventories",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("fetched_at", UtcDateTime(), nullable=False),
        sa.Column("run_id", SafeText(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_inventories")),
        comment="good host lists by content, with the last time each was fetched",
    )
    op.create_index("ix_inventories_fetched_at", "inventories", ["fetched_at"])
    op.create_table(
        "journal",
        sa.Column("seq", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("run_id", SafeText(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("inventory", sa.String(length=64), nullable=False),
        sa.Column("what", sa.String(length=64), nullable=False),
        sa.Column("late", SafeJson(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_journal")),
        comment="what changed the state, step by step: prunes and evaluations",
    )
    op.create_index("ix_journal_at", "journal", ["at"])
    op.create_index("ix_journal_run_id", "journal", ["run_id"])
    op.create_table(
        "leases",
        sa.Column("name", SafeText(), nullable=False),
        sa.Column("holder", SafeText(), nullable=True),
        sa.Column("token", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", UtcDateTime(), nullable=False),
        sa.Column("try_number", sa.Integer(), server_default="0", nullable=False),
        sa.Column("ttl", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_leases")),
        comment="who may write; the token grows with every holder",
    )
    op.create_table(
        "observations",
        sa.Column("host_id", SafeText(), nullable=False),
        sa.Column("observed_at", UtcDateTime(), nullable=False),
        sa.Column("run_id", SafeText(), nullable=False),
        sa.Column("try_number", sa.Integer(), nullable=False),
        sa.Column("logical_date", UtcDateTime(), nullable=True),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.Column("error_class", SafeText(), nullable=True),
        sa.Column("error", SafeText(), nullable=True),
        sa.Column("facts", sa.String(length=64), nullable=True),
        sa.Column("frame", sa.String(length=64), nullable=True),
        sa.Column("second_frame", sa.String(length=64), nullable=True),
        sa.Column("duration", sa.Float(), nullable=False),
        sa.Column("confirmed", sa.Boolean(), nullable=False),
        sa.Column("live", sa.Boolean(), server_default=sa.true(), nullable=False),
        sa.Column("provisional", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.PrimaryKeyConstraint("host_id", "observed_at", name=op.f("pk_observations")),
        comment="the archive: every look at a host; live unless the host was deleted since",
    )
    op.create_index("ix_observations_observed_at", "observations", ["observed_at"])
    op.create_index("ix_observations_run_id", "observations", ["run_id"])
    op.create_table(
        "ports",
        sa.Column("host_id", SafeText(), nullable=False),
        sa.Column("protocol", sa.String(length=8), nullable=False),
        sa.Column("port", sa.Integer(), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("status_since", UtcDateTime(), nullable=True),
        sa.Column("misses", sa.Integer(), nullable=False),
        sa.Column("streak", sa.Integer(), nullable=False),
        sa.Column("counted_at", UtcDateTime(), nullable=True),
        sa.Column("first_seen_at", UtcDateTime(), nullable=True),
        sa.Column("last_seen_at", UtcDateTime(), nullable=True),
        sa.Column("addresses", SafeJson(), nullable=False),
        sa.Column("programs", SafeJson(), nullable=False),
        sa.Column("pids", SafeJson(), nullable=False),
        sa.Column("uids", SafeJson(), nullable=False),
        sa.Column("units", SafeJson(), nullable=False),
        sa.Column("tool", SafeText(), nullable=True),
        sa.Column("at_baseline", sa.Boolean(), nullable=False),
        sa.Column("declared", SafeText(), nullable=True),
        sa.Column("grace_until", UtcDateTime(), nullable=True),
        sa.Column("flapping_since", UtcDateTime(), nullable=True),
        sa.Column("changes", SafeJson(), nullable=False),
        sa.Column("lost", SafeJson(), nullable=False),
        sa.Column("lost_since", UtcDateTime(), nullable=True),
        sa.Column("comms", SafeJson(), server_default="[]", nullable=False),
        sa.Column("notices", SafeJson(), server_default="[]", nullable=False),
        sa.PrimaryKeyConstraint("host_id", "protocol", "port", name=op.f("pk_ports")),
        comment="state of each port; last_seen_at is null while it is seen, so that a quiet run writes nothing here",
    )
    op.create_table(
        "replays",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("run_id", SafeText(), nullable=False),
        sa.Column("since", UtcDateTime(), nullable=False),
        sa.Column("until", UtcDateTime(), nullable=False),
        sa.Column("notify", sa.Boolean(), nullable=False),
        sa.Column("asked_at", UtcDateTime(), nullable=False),
        sa.Column("done_at", UtcDateTime(), nullable=True),
        sa.Column("done_by", SafeText(), nullable=True),
        sa.Column("evaluated_from", UtcDateTime(), nullable=True),
        sa.Column("last_step", sa.Integer(), nullable=True),
        sa.Column("rules", sa.String(length=64), nullable=True),
        sa.Column("summary", SafeJson(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_replays")),
        comment="times that are to be evaluated again, and what came of those that were",
    )
    op.create_index("ix_replays_asked_at", "replays", ["asked_at"])
    op.create_index("ix_replays_run_id", "replays", ["run_id"])
    op.create_table(
        "runs",
        sa.Column("run_id", SafeText(), nullable=False),
        sa.Column("run_type", sa.String(length=32), nullable=False),
        sa.Column("logical_date", UtcDateTime(), nullable=True),
        sa.Column("started_at", UtcDateTime(), nullable=False),
        sa.Column("finished_at", UtcDateTime(), nullable=True),
        sa.Column("scope", SafeJson(), nullable=True),
        sa.Column("inventory", sa.String(length=64), nullable=False),
        sa.Column("inventory_fetched_at", UtcDateTime(), nullable=False),
        sa.Column("inventory_stale", sa.Boolean(), nullable=False),
        sa.Column("settings", sa.String(length=64), nullable=False),
        sa.Column("summary", SafeJson(), nullable=True),
        sa.Column("after_step", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", name=op.f("pk_runs")),
        comment="what each run had to go by, and what it came to",
    )
    op.create_index("ix_runs_started_at", "runs", ["started_at"])
    op.create_table(
        "silences",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("alert_id", sa.String(length=32), nullable=True),
        sa.Column("hosts", SafeJson(), nullable=False),
        sa.Column("labels", SafeJson(), nullable=False),
        sa.Column("ports", SafeJson(), nullable=False),
        sa.Column("programs", SafeJson(), nullable=False),
        sa.Column("starts_at", UtcDateTime(), nullable=False),
        sa.Column("ends_at", UtcDateTime(), nullable=True),
        sa.Column("weekly", SafeJson(), nullable=False),
        sa.Column("timezone", SafeText(), nullable=False),
        sa.Column("author", SafeText(), nullable=False),
        sa.Column("reason", SafeText(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("lifted_at", UtcDateTime(), nullable=True),
        sa.Column("lifted_by", SafeText(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_silences")),
        comment="messages that are withheld, and until when; with alert_id an acknowledgement of that alert",
    )
    op.create_index("ix_silences_alert_id", "silences", ["alert_id"])
    op.create_table(
        "stored",
        sa.Column("host_id", SafeText(), nullable=False),
        sa.Column("day", sa.String(length=10), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("host_id", name=op.f("pk_stored")),
        comment="how much was stored of what a host said, on the last day on which it said something new",
    )
    op.create_table(
        "deliveries",
        sa.Column("event_id", sa.String(length=32), nullable=False),
        sa.Column("channel", SafeText(), nullable=False),
        sa.Column("route", SafeText(), server_default="default", nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("last_error", SafeText(), nullable=True),
        sa.Column("targets_done", SafeJson(), nullable=False),
        sa.Column("message_id", sa.String(length=32), nullable=True),
        sa.Column("reminder", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("notified_at", UtcDateTime(), nullable=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["event_id"], ["events.id"], name=op.f("fk_deliveries_event_id_events"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("event_id", "channel", name=op.f("pk_deliveries")),
        comment="one row per event and channel",
    )
    op.create_index(
        "ix_deliveries_unfinished",
        "deliveries",
        ["channel"],
        postgresql_where=sa.text("state IN ('pending', 'sending', 'withheld')"),
        sqlite_where=sa.text("state IN ('pending', 'sending', 'withheld')"),
    )

    # A new version of a row that fits beside the old one concerns no index, and is logged by what is new of it:
    # https://www.postgresql.org/docs/current/storage-hot.html
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER TABLE hosts SET (fillfactor = 50)")


def downgrade() -> None:
    """Take back."""
    first = "deliveries events alerts silences observations stored runs journal checkpoints replays"
    for name in f"{first} inventories contents hosts ports decisions conditions host_keys leases".split():
        op.drop_table(name)
