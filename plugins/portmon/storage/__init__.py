"""The state database: SQLite or PostgreSQL through SQLAlchemy Core, without Airflow.

Every function takes an open connection first, so that a caller composes one transaction::

    with database.begin() as conn:
        hosts, ports = state.load(conn)
        ...
        state.save(conn, verdict, run_id=run_id, now=now)

Only :mod:`portmon.storage.state` loads pandas: the tasks that look at a host need none.
"""
