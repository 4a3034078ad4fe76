"""Messages out: to the task log, Alertmanager, webhooks, Apprise, any Airflow notifier class.

A message is final text and no channel renders it. Airflow renders the arguments of a notifier that is called
as templates, and a program named ``{{ conn.x.password }}`` must not read a connection.
"""

from portmon.channels.connections import missing_connections
from portmon.channels.sending import check_channel, deliver, whole_address

__all__ = ["check_channel", "deliver", "missing_connections", "whole_address"]
