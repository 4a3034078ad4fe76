"""The rules in force, and how many hosts each may match."""

from __future__ import annotations

from sqlalchemy import Connection

from portmon.api.view import Text, View
from portmon.config import Config
from portmon.matching import match_text, matches_host
from portmon.storage import hosts


class RuleView(View):
    """One rule, in the order in which they are asked.

    :param where: file and line
    :param match: in words
    :param hosts: of the CMDB, on which it may match
    """

    where: Text
    action: str
    match: Text
    comment: Text | None
    hosts: int


def list_rules(conn: Connection, config: Config) -> list[RuleView]:
    """The rules of portmon.yaml."""
    fleet = list(hosts.listed(conn).values()) if config.rules else []
    return [
        RuleView(
            where=config.where("rules", index),
            action=rule.action,
            match=match_text(rule),
            comment=rule.comment,
            hosts=sum(matches_host(rule, host) for host in fleet),
        )
        for index, rule in enumerate(config.rules)
    ]
