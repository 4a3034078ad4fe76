"""What a channel is told next: order, what is left out, how messages are made."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from portmon.alerting.queue import Notification, message_id, next_notifications, rests_until, superseded
from portmon.model.alert import Alert, Delivery, DeliveryState
from portmon.model.event import Event
from portmon.model.event_kinds import AlertGroup, AlertRole, EventKind

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def queued(
    seq: int,
    kind: EventKind,
    port: int | None = 80,
    *,
    alert: str = "",
    route: str = "default",
    done: tuple[str, ...] = (),
    message: str | None = None,
    reminder: bool = False,
    since: datetime = NOW,
    tries: int = 0,
    channel: str = "a",
    host: str = "h1",
    **labels: str,
) -> Delivery:
    event = Event(
        id=f"e{seq}",
        kind=kind,
        at=NOW + timedelta(minutes=seq),
        run_id="r",
        host_id=host,
        host_name=host,
        protocol="tcp" if port else None,
        port=port,
        labels=labels,
    )
    assert event.role is not None
    assert event.group is not None
    told = Alert(alert or f"a-{host}-{port}", event.role, event, event, event.at)
    return Delivery(
        told,
        event.group,
        seq,
        channel,
        route,
        since,
        tries=tries,
        targets_done=done,
        message_id=message,
        reminder=reminder,
    )


def reasons(queue: Iterable[Delivery]) -> dict[str, str]:
    return {one.event.id: reason for one, reason in superseded(queue)}


def ids(batches: Iterable[Notification]) -> list[list[str]]:
    return [batch.event_ids for batch in batches]


DOWN, UP, NEW = EventKind.DOWN, EventKind.RECOVERED, EventKind.NEW
SAME = {"default": None}


def test_what_is_over_is_not_told_as_news() -> None:
    assert reasons([queued(1, DOWN), queued(2, UP)]) == {"e1": "over before it was delivered"}


def test_a_newer_trouble_of_the_same_alert_replaces_an_older_one() -> None:
    assert reasons([queued(1, DOWN), queued(2, EventKind.FLAPPING)]) == {"e1": "overtaken by flapping"}


def test_what_another_channel_gets_replaces_nothing() -> None:
    assert reasons([queued(1, DOWN), queued(2, UP, channel="b")]) == {}


def test_the_end_of_one_alert_and_the_beginning_of_the_next_are_both_told() -> None:
    queue = [queued(1, DOWN, alert="a"), queued(2, UP, alert="a"), queued(3, DOWN, alert="b")]
    assert reasons(queue) == {"e1": "over before it was delivered"}


def test_other_ports_hold_nothing() -> None:
    queue = [queued(1, DOWN, 80), queued(2, UP, 443)]
    assert ids(next_notifications(queue, AlertGroup.DOWN, group_by=SAME)) == [["e1"]]
    assert ids(next_notifications(queue, AlertGroup.RECOVERED, group_by=SAME)) == [["e2"]]


def test_what_comes_before_is_sent_before_whatever_its_kind() -> None:
    queue = [queued(1, UP, alert="a"), queued(2, DOWN, alert="b"), queued(3, UP, 443)]
    # With the recovered that must come first everything recovered, so that it is one message.
    assert ids(next_notifications(queue, AlertGroup.DOWN, group_by=SAME)) == [["e1", "e3"]]
    assert ids(next_notifications(queue[1:], AlertGroup.DOWN, group_by=SAME)) == [["e2"]]


def test_what_failed_just_now_holds_its_own_and_nothing_else() -> None:
    queue = [queued(1, DOWN, 80), queued(2, DOWN, 443)]
    assert ids(next_notifications(queue, AlertGroup.DOWN, group_by=SAME, held={queue[0].event.alert_key})) == [["e2"]]


def test_one_message_per_route_label_and_targets_that_are_left() -> None:
    queue = [
        queued(1, DOWN, 1, team="a"),
        queued(2, DOWN, 2, team="b"),
        queued(3, DOWN, 3, team="a", done=("x",)),
        queued(4, DOWN, 4, team="a", route="other"),
        queued(5, DOWN, 5, team="a"),
        queued(6, DOWN, 6),
        queued(7, DOWN, 7, team="a", message="m"),
    ]
    batches = next_notifications(queue, AlertGroup.DOWN, group_by={"default": "team", "other": None})
    assert sorted(ids(batches)) == [["e1", "e5"], ["e2"], ["e3"], ["e4"], ["e6"], ["e7"]]
    assert {tuple(batch.event_ids): batch.subject for batch in batches}["e2",] == "b"


def test_what_was_tried_often_comes_last() -> None:
    queue = [queued(1, DOWN, 1, tries=5, route="other"), queued(2, DOWN, 2)]
    assert ids(next_notifications(queue, AlertGroup.DOWN, group_by={})) == [["e2"], ["e1"]]


def test_several_notices_of_one_port_are_one_message() -> None:
    queue = [queued(1, NEW), queued(2, EventKind.REPLACED, alert="e2")]
    assert ids(next_notifications(queue, AlertGroup.NEW, group_by=SAME)) == [["e1", "e2"]]


def test_two_messages_about_one_port_do_not_go_side_by_side() -> None:
    # The first may have come through: it goes again as the message that it was, which is another than the second's.
    queue = [queued(1, UP, alert="a", message="m", tries=3), queued(2, UP, alert="b")]
    assert ids(next_notifications(queue, AlertGroup.RECOVERED, group_by=SAME)) == [["e1"]]


def batch_of(*queue: Delivery) -> Notification:
    (batch,) = next_notifications(queue, queue[0].group, group_by=SAME)
    return batch


def test_a_message_is_known_by_its_events_and_its_channel() -> None:
    one, two = queued(1, DOWN, 1), queued(2, DOWN, 2)
    assert message_id(batch_of(one, two)) == message_id(batch_of(two, one))
    elsewhere = queued(1, DOWN, 1, channel="b")
    assert len({message_id(batch_of(one)), message_id(batch_of(elsewhere)), message_id(batch_of(two))}) == 3


def test_a_reminder_is_another_message_than_the_one_before_it() -> None:
    first, second = (queued(1, DOWN, reminder=True, since=NOW + timedelta(days=days)) for days in (1, 2))
    told = queued(1, DOWN, since=NOW)
    assert len({message_id(batch_of(one)) for one in (told, first, second)}) == 3
    later = queued(1, DOWN, since=NOW + timedelta(days=1))
    assert message_id(batch_of(told)) == message_id(batch_of(later))


def test_news_and_reminders_are_messages_of_their_own() -> None:
    queue = [queued(1, DOWN, 1), queued(2, DOWN, 2, reminder=True)]
    assert ids(next_notifications(queue, AlertGroup.DOWN, group_by=SAME)) == [["e1"], ["e2"]]


def test_what_was_not_answered_rests_longer_each_time() -> None:
    one = dataclasses.replace(queued(1, DOWN, message="m", tries=1), tried_at=NOW)
    rests = [rests_until(dataclasses.replace(one, tries=number)) for number in (1, 2, 3, 6, 50)]
    assert [(until - NOW).total_seconds() / 60 for until in rests if until] == [2, 4, 8, 60, 60]
    for moment, expected in ((NOW + timedelta(seconds=119), []), (NOW + timedelta(minutes=2), [["e1"]])):
        assert ids(next_notifications([one], AlertGroup.DOWN, group_by=SAME, now=moment)) == expected
    # It holds what comes after it, and nothing else.
    queue = [one, queued(2, UP), queued(3, UP, 443)]
    assert ids(next_notifications(queue, AlertGroup.RECOVERED, group_by=SAME, now=NOW)) == [["e3"]]
    # Who was killed says nothing about the receiver, and who refused was asked in vain.
    for other in (dataclasses.replace(one, state=DeliveryState.SENDING), dataclasses.replace(one, message_id=None)):
        assert rests_until(other) is None


def test_where_no_receiver_knows_ids_what_was_not_answered_joins_the_rest() -> None:
    queue = [queued(1, DOWN, 1, message="m"), queued(2, DOWN, 2)]
    (batch,) = next_notifications(queue, AlertGroup.DOWN, group_by=SAME, ids_are_seen=False)
    assert (batch.event_ids, batch.message_id) == (["e1", "e2"], None)


KINDS = [DOWN, UP, NEW, EventKind.FLAPPING, EventKind.REPLACED]


@given(
    st.lists(st.tuples(st.sampled_from(KINDS), st.sampled_from([80, 443])), max_size=12), st.sampled_from(AlertGroup)
)
def test_everything_is_sent_once_and_in_the_order_of_its_port(
    happened: list[tuple[EventKind, int]], first: AlertGroup
) -> None:
    number: dict[int, int] = {80: 0, 443: 0}
    queue = []
    for seq, (kind, port) in enumerate(happened):
        notice = kind.usual.role is AlertRole.NOTICE
        queue.append(queued(seq, kind, port, alert=f"n{seq}" if notice else f"a{port}-{number[port]}"))
        number[port] += kind is UP
    left = [one for one in queue if one.event.id not in reasons(queue)]
    told: list[Delivery] = []
    for group in (first, *AlertGroup):
        while batches := next_notifications(left, group, group_by={}):
            for batch in batches:
                assert len({one.group for one in batch.deliveries}) == 1
                told += batch.deliveries
            left = [one for one in left if one not in told]
    assert left == []
    assert len(told) == len(set(told)) == len(queue) - len(superseded(queue))
    for port in number:
        own = [one.seq for one in told if one.event.port == port]
        assert own == sorted(own)
    for alert in {one.alert.id for one in told}:
        roles = [one.alert.role for one in told if one.alert.id == alert]
        assert roles in ([AlertRole.FIRING], [AlertRole.RESOLVED], [AlertRole.NOTICE])
