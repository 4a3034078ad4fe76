# Airflow with portmon: the packages of requirements.txt, nothing else.
FROM python:3.12-slim-bookworm

ENV AIRFLOW_HOME=/opt/airflow \
    PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1

# ssh, for connections with a proxy command (`host_proxy_cmd: ssh -W …`).
RUN apt-get update \
    && apt-get install -y --no-install-recommends openssh-client \
    && rm -rf /var/lib/apt/lists/*

COPY requirements.txt /tmp/requirements.txt
RUN python -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir --no-deps --require-hashes -r /tmp/requirements.txt \
    && rm /tmp/requirements.txt \
    && useradd --system --uid 50000 --home-dir /opt/airflow --create-home airflow \
    && install -d -o airflow -g airflow /opt/airflow/logs

COPY --chown=root:root dags /opt/airflow/dags
COPY --chown=root:root plugins /opt/airflow/plugins
COPY --chown=root:root config /opt/airflow/config
COPY --chown=root:root docker /opt/airflow/docker
RUN python -m compileall -q /opt/airflow/dags /opt/airflow/plugins

USER airflow
WORKDIR /opt/airflow
