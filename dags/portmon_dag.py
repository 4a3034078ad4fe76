"""### portmon: which service processes died

Every run asks all hosts of the CMDB over SSH which TCP ports they listen on, compares the answers with
what is known, and alerts on what changed.

| task | what it does |
| --- | --- |
| `fetch_hosts` | gets all hosts from the CMDB; if it is down, takes the last good list |
| `prune_inventory` | hides hosts that left the CMDB; refuses if too many did |
| `plan_sweep`, `sweep` | with more than 100 hosts: ask many hosts in one task, each once |
| `plan_hosts` | plans a task for each host of a small fleet, and for each host of a large one that fails newly |
| `netstat` | one task per host, named after it: log in, list the ports, confirm what is missing |
| `diff_ports` | derives events: new, down, recovered, flapping, unreachable … |
| `route_alerts`, `alert_…` | send what is undelivered, from this run or an earlier one, and reminders |
| `heartbeat` | pings the dead-man's switch after a good run, if `alerts.heartbeat` names one |

**A run that hangs or fails** is told as well: by the triggerer at twice the interval (`run_overdue`), and by the DAG
processor if nothing was evaluated (`run_failed`).

**A red `netstat` task** is a host that gave no evidence; its log says why. None of its ports goes down because of it.
To ask one host again, clear its task and what follows.

**By hand**: trigger with `hosts` for some hosts only, with `dry_run` to see the result without any message. Leave the
logical date as the form gives it: a run with one in the future waits for that time, and **no host is watched
meanwhile**, for 12 hours at most. Delete such a run.

**The past can't be visited.** A backfill run, a run with `replay_from`, and an old run that is cleared ask no host:
`diff_ports` evaluates the stored observations again, by today's rules, and corrects events and state.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, Param
from airflow.sdk.definitions.param import ParamsDict

from portmon import timeouts
from portmon.airflow import run_watch, settings, tasks
from portmon.airflow.operators.netstat import NetstatOperator
from portmon.airflow.operators.store import MAP_INDEX_TEMPLATE
from portmon.airflow.operators.sweep import SweepOperator
from portmon.model.event_kinds import AlertGroup
from portmon.scan.batches import batches_at_once
from portmon.steps.run import DRY_RUN, FORCE_PRUNE, HOSTS, NOTIFY, REPLAY_FROM, REPLAY_TO

given = settings.for_dag()
schedule = settings.schedule_for_parsing()

with DAG(
    dag_id=tasks.DAG_ID,
    doc_md=__doc__,
    schedule=schedule,
    catchup=False,
    max_active_runs=1,
    # max_logins bounds the netstat tasks; the rest of the run is at most four tasks at a time.
    max_active_tasks=given.max_logins + len(AlertGroup),
    dagrun_timeout=timeouts.RUN,
    # Of what becomes of the run itself its tasks can't tell.
    deadline=run_watch.deadline(schedule),
    on_failure_callback=run_watch.tell_failed,
    default_args={
        "owner": "portmon",
        "retries": 2,
        "retry_delay": timedelta(seconds=10),
        "execution_timeout": timeouts.STEP,
    },
    tags=["monitoring", "ports", "ssh"],
) as dag:
    pool = given.pool or "default_pool"
    sweep = SweepOperator.partial(
        task_id=tasks.SWEEP,
        map_index_template=MAP_INDEX_TEMPLATE,
        pool=pool,
        max_active_tis_per_dagrun=batches_at_once(given.max_logins),
        execution_timeout=timeouts.SWEEP,
    )
    scan = NetstatOperator.partial(
        task_id=tasks.NETSTAT,
        map_index_template=MAP_INDEX_TEMPLATE,
        pool=pool,
        max_active_tis_per_dagrun=given.max_logins,
        retries=1,
        execution_timeout=timeouts.LOOK,
    )
    batches = tasks.plan_sweep()
    hosts = tasks.plan_hosts()
    diff = tasks.diff_ports()
    route = tasks.route_alerts()

    fetched = tasks.fetch_hosts()
    fetched >> tasks.prune_inventory() >> batches >> sweep.expand(batch=batches) >> hosts
    scan.expand(host=hosts) >> diff
    # Whatever this needs that fails, fails the run; the hosts may.
    [fetched, batches, hosts, diff] >> route
    ends = [*(tasks.alert(group) for group in AlertGroup), EmptyOperator(task_id=tasks.NO_CHANGE)]
    route >> ends
    if given.heartbeat:
        ends >> tasks.heartbeat()

# At the end: each operator that is made while the DAG has parameters gets a deep copy of them, also when serialized.
dag.params = ParamsDict(
    {
        HOSTS: Param(
            [],
            type=["array", "null"],
            items={"type": "string"},
            title="Hosts",
            description_md="Names, globs (`web*`), ids or `label=value`, one per line: only these are scanned. "
            "Other hosts are neither missing nor pruned. Empty: every host.",
        ),
        DRY_RUN: Param(
            False,
            type="boolean",
            title="Dry run",
            description_md="Scan, and log what would follow: `netstat` what each host answers, `diff_ports` the "
            "events. Nothing is stored and nothing is sent. A paused DAG can be triggered so as well.",
        ),
        FORCE_PRUNE: Param(
            False,
            type="boolean",
            title="Force prune",
            description_md="Hide hosts that left the CMDB even if the guard refuses because they are too many.",
        ),
        REPLAY_FROM: Param(
            None,
            type=["null", "string"],
            format="date-time",
            title="Replay from",
            description_md="Ask no host; evaluate the observations from then on again, by today's rules, and correct "
            "events and state. Nothing is sent. This is not the logical date: a run with one in the future waits for "
            "it, and no host is watched meanwhile.",
        ),
        REPLAY_TO: Param(
            None,
            type=["null", "string"],
            format="date-time",
            title="Replay to",
            description_md="End of that time: `notify` sends events from before it. Empty: now. Later observations are "
            "evaluated again as well, since they rest on the earlier ones.",
        ),
        NOTIFY: Param(
            False,
            type="boolean",
            title="Notify",
            description_md="Send the alerts that a replay finds in that time and that were not sent before.",
        ),
    }
)
