"""One SSH login to one host: every phase has a deadline, every failure its class.

paramiko does the protocol. This room decides when a login has taken too long, although bytes still drip; which host
keys are trusted; which of the caller's keys is offered, and that no other is; and what a failure means. The Airflow
connection is read by :class:`portmon.airflow.ssh_hook.HostSSHHook`, which calls :func:`portmon.ssh.connect.connect`.
"""
