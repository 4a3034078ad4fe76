"""One SSH login to one host: every phase has a deadline, every failure its class.

paramiko does the protocol. What it leaves open is decided here: when a login has taken too long,
although bytes still drip; which host keys are trusted; which of the caller's keys is offered, and that
no other is; and what a failure means to the person who reads it.

No Airflow here; :class:`portmon.airflow.ssh_hook.HostSSHHook` reads the connection and calls
:func:`portmon.ssh.connect.connect`.
"""
