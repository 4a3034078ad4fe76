# Hosts and CMDB of the compose profile `demo`: sshd, and Python for services that listen. Nothing of portmon is in it.
FROM debian:bookworm-slim AS demo

# Keys that the package makes while the image is built would be the same for all who have the image.
RUN apt-get update \
    && apt-get install -y --no-install-recommends iproute2 net-tools openssh-server procps python3 \
    && rm -rf /var/lib/apt/lists/* /etc/ssh/ssh_host_* \
    && useradd --uid 50000 --create-home --shell /bin/sh portmon
COPY docker/demo /opt/demo
COPY demo/cmdb.py /opt/demo/cmdb.py
ENTRYPOINT ["python3", "/opt/demo/host.py"]


# Airflow with portmon: the packages of requirements.txt and of the FAB auth manager, nothing else.
FROM python:3.12-slim-bookworm AS portmon

ENV AIRFLOW_HOME=/opt/airflow \
    PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1

# ssh, for connections with a proxy command (`host_proxy_cmd: ssh -W …`).
RUN apt-get update \
    && apt-get install -y --no-install-recommends openssh-client \
    && rm -rf /var/lib/apt/lists/*

# Both locks have what they share in the same versions.
COPY requirements.txt /tmp/requirements.txt
COPY requirements-fab.txt /tmp/requirements-fab.txt
RUN python -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir --no-deps --require-hashes -r /tmp/requirements.txt \
    && /opt/venv/bin/pip install --no-cache-dir --no-deps --require-hashes -r /tmp/requirements-fab.txt \
    && rm /tmp/requirements*.txt \
    && useradd --system --uid 50000 --home-dir /opt/airflow --create-home airflow \
    && install -d -o airflow -g airflow /opt/airflow/logs

COPY --chown=root:root dags /opt/airflow/dags
COPY --chown=root:root plugins /opt/airflow/plugins
COPY --chown=root:root config /opt/airflow/config
COPY --chown=root:root docker /opt/airflow/docker
# Airflow's Helm chart calls its probes by this name.
RUN python -m compileall -q /opt/airflow/dags /opt/airflow/plugins \
    && printf '#!/bin/sh\nexec "$@"\n' >/entrypoint \
    && chmod 755 /entrypoint

USER airflow
WORKDIR /opt/airflow
