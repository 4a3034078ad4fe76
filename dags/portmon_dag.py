"""### portmon: which service processes died

Every run asks all servers of the CMDB over SSH which TCP ports they listen on, compares that with
what is known, and tells what changed.

| task | what it does |
| --- | --- |
| `fetch_hosts` | all servers from the CMDB; if it is down, the last good list |
| `prune_inventory` | hides servers that left the CMDB; refuses if too many did |
| `plan_sweep`, `sweep` | with more than 100 hosts: many hosts in one task, each asked once |
| `plan_hosts` | the hosts that need a task of their own: all of a small fleet, of a large one those that fail newly |
| `netstat` | one task per host, named after it: log in, list the ports, confirm what is missing |
| `diff_ports` | derives events: new, down, recovered, flapping, unreachable … |
| `route_alerts`, `alert_…` | send what is undelivered, from this run or an earlier one; remind of what stays wrong |
| `heartbeat` | after a good run pings the dead-man's switch, if `alerts.heartbeat` names one |

**A red `netstat` task** is a host that gave no evidence: its log says why. No port of it is called
down. To look again at one host, clear its task and what follows.

**By hand**: trigger with `hosts` for some hosts only, `dry_run` to see without telling anybody. Leave the
logical date as the form gives it: a run with one in the future waits for that time, and **no host is watched
meanwhile**, for 12 hours at most. Delete such a run.

**A port can't be looked at in the past.** A backfill run, a run with `replay_from`, and an old run that is cleared ask
no host: `diff_ports` evaluates again what was seen then, by today's rules, and puts events and state right.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, Param
from airflow.sdk.definitions.param import ParamsDict

from portmon import timeouts
from portmon.airflow import settings, tasks
from portmon.airflow.operators.netstat import NetstatOperator
from portmon.airflow.operators.store import MAP_INDEX_TEMPLATE
from portmon.airflow.operators.sweep import SweepOperator
from portmon.model.event import AlertGroup
from portmon.scan.batches import batches_at_once
from portmon.steps.run import DRY_RUN, FORCE_PRUNE, HOSTS, NOTIFY, REPLAY_FROM, REPLAY_TO

config = settings.config_for_parsing()

with DAG(
    dag_id=tasks.DAG_ID,
    doc_md=__doc__,
    schedule=settings.schedule_for_parsing(),
    catchup=False,
    max_active_runs=1,
    # max_logins bounds the netstat tasks; the rest of the run is at most four tasks at a time.
    max_active_tasks=config.ssh.max_logins + len(AlertGroup),
    dagrun_timeout=timeouts.RUN,
    default_args={
        "owner": "portmon",
        "retries": 2,
        "retry_delay": timedelta(seconds=10),
        "execution_timeout": timeouts.STEP,
    },
    tags=["monitoring", "ports", "ssh"],
) as dag:
    pool = config.scan.pool or "default_pool"
    sweep = SweepOperator.partial(
        task_id=tasks.SWEEP,
        map_index_template=MAP_INDEX_TEMPLATE,
        pool=pool,
        max_active_tis_per_dagrun=batches_at_once(config.ssh.max_logins),
        execution_timeout=timeouts.SWEEP,
    )
    scan = NetstatOperator.partial(
        task_id=tasks.NETSTAT,
        map_index_template=MAP_INDEX_TEMPLATE,
        pool=pool,
        max_active_tis_per_dagrun=config.ssh.max_logins,
        retries=1,
        retry_delay=timedelta(seconds=10),
        execution_timeout=timeouts.LOOK,
    )
    batches = tasks.plan_sweep()
    hosts = tasks.plan_hosts()
    diff = tasks.diff_ports()
    route = tasks.route_alerts()

    tasks.fetch_hosts() >> tasks.prune_inventory() >> batches >> sweep.expand(batch=batches) >> hosts
    scan.expand(host=hosts) >> diff >> route
    ends = [*(tasks.alert(group) for group in AlertGroup), EmptyOperator(task_id=tasks.NO_CHANGE)]
    route >> ends
    if config.alerts.heartbeat is not None:
        ends >> tasks.heartbeat()

# Last: each operator made while a DAG has parameters gets a deep copy of them, which its serialized form has as well.
dag.params = ParamsDict(
    {
        HOSTS: Param(
            [],
            type=["array", "null"],
            items={"type": "string"},
            title="Hosts",
            description="Names, globs (`web*`), ids or `label=value`, one per line: only these are scanned. "
            "The others are neither missing nor pruned. Empty: every host.",
        ),
        DRY_RUN: Param(
            False,
            type="boolean",
            title="Dry run",
            description="Scan and say what would follow. Nothing is kept, nobody is told.",
        ),
        FORCE_PRUNE: Param(
            False,
            type="boolean",
            title="Force prune",
            description="Hide hosts that left the CMDB even if they are too many to believe it.",
        ),
        REPLAY_FROM: Param(
            None,
            type=["null", "string"],
            format="date-time",
            title="Replay from",
            description="Ask no host; evaluate again what was seen from then on, by today's rules, and put events and "
            "state right. Nobody is told. It is not the logical date: a run with one in the future waits for it, and "
            "no host is watched meanwhile.",
        ),
        REPLAY_TO: Param(
            None,
            type=["null", "string"],
            format="date-time",
            title="Replay to",
            description="End of that time: what is told with `notify` lies before. Empty: now. What comes after is "
            "evaluated again as well, since it rests on what was before.",
        ),
        NOTIFY: Param(
            False,
            type="boolean",
            title="Notify",
            description="Tell what a replay found in that time and nobody was told before.",
        ),
    }
)
