"""For Celery's setting ``imports``: lets a worker import once what its tasks need, see :mod:`portmon.preload`.

A worker loads no plugins of Airflow, its tasks do, one by one. In airflow.cfg::

    [celery]
    extra_celery_config = {"imports": ["portmon.celery_imports"]}
"""

from portmon import preload

preload.on_load()
