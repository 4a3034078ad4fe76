"""The state database: SQLite or PostgreSQL through SQLAlchemy Core, without Airflow.

Every function takes an open connection first, so that a caller composes one transaction. Only
:mod:`portmon.storage.state` loads pandas: the tasks that ask hosts need none.
"""
