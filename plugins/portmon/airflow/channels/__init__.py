"""Messages out: to the task log, Alertmanager, webhooks, Apprise, any Airflow notifier class.

A message is final text and no channel renders it. Airflow renders the arguments of a notifier that is called
as templates, and a program named ``{{ conn.x.password }}`` must not read a connection.
"""
