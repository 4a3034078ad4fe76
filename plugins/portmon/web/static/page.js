// What a page without scripts lacks: times in the reader's zone, links out of Airflow's frame, word of changes.
"use strict";
(function () {
  const meta = document.querySelector("meta[name=portmon]").dataset;
  const language = document.documentElement.lang;

  // ── times ────────────────────────────────────────────────────────────────────────────────────
  let zone;
  try {
    const chosen = (window.localStorage.getItem("timezone") || "").replace(/^"|"$/g, "");
    zone = chosen && chosen !== "local" ? chosen : undefined;
    new Intl.DateTimeFormat(language, { timeZone: zone });
  } catch (error) {
    zone = undefined;
  }
  const format = new Intl.DateTimeFormat("sv-SE", {
    timeZone: zone, year: "numeric", month: "2-digit", day: "2-digit", hour: "2-digit", minute: "2-digit",
  });
  document.getElementById("zone").textContent = zone || Intl.DateTimeFormat().resolvedOptions().timeZone;
  const units = [["day", 86400], ["hour", 3600], ["minute", 60]];
  const relative = new Intl.RelativeTimeFormat(language, { numeric: "always", style: "short" });
  function ago(at) {
    const seconds = (at - Date.now()) / 1000;
    for (const [unit, size] of units) {
      if (Math.abs(seconds) >= size) return relative.format(Math.trunc(seconds / size), unit);
    }
    return relative.format(Math.trunc(seconds), "second");
  }
  function tell() {
    for (const time of document.querySelectorAll("time")) {
      const at = new Date(time.dateTime);
      const form = time.dataset.form;
      const text = format.format(at);
      time.textContent = form === "age" ? ago(at) : form ? ago(at) + ",\n" + text : text;
    }
  }
  tell();
  window.setInterval(tell, 30000);

  // ── links out of the frame, which may not navigate the page around it ────────────────────────
  document.addEventListener("click", function (event) {
    const link = event.target.closest("a[data-top]");
    if (!link || window.parent === window || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    const outer = window.parent.document.createElement("a");
    outer.href = link.href;
    window.parent.document.body.append(outer);
    outer.click();
    outer.remove();
  });

  // ── filters: what is left empty is no part of the address ────────────────────────────────────
  for (const form of document.querySelectorAll("form.filters")) {
    form.addEventListener("submit", function () {
      for (const field of form.elements) if (field.name && !field.value) field.disabled = true;
    });
  }
  window.addEventListener("pageshow", function () {
    for (const field of document.querySelectorAll("form.filters [disabled]")) field.disabled = false;
  });

  // ── what changes under the reader moves nothing ──────────────────────────────────────────────
  const newest = document.getElementById("newest");
  const note = document.getElementById("changes");
  if (newest) {
    window.setInterval(async function () {
      if (document.hidden) return;
      const answer = await fetch(meta.root + "/api/v1/changes?since=" + newest.dataset.newest).catch(() => null);
      if (!answer || !answer.ok) return;
      const { count } = await answer.json();
      note.hidden = count === 0;
      note.firstElementChild.href = window.location.href;
      note.firstElementChild.textContent = note.dataset.text.replace("{count}", count);
    }, 30000);
  }

  // ── actions: a dialog with a preview, a reason, and JSON ─────────────────────────────────────
  const dialog = document.getElementById("act");
  async function post(url, body) {
    const answer = await fetch(url, {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
    });
    const said = await answer.json().catch(() => ({}));
    if (!answer.ok) throw new Error(said.detail || String(answer.status));
    return said;
  }
  function told(said, preview) {
    if (said.done) {
      const lines = said.done.slice(0, 10);
      if (said.done.length > lines.length) lines.push(preview.dataset.more.replace("{count}", said.done.length - lines.length));
      if (said.hits && said.hits.ports > 1) {
        lines.unshift(preview.dataset.ports.replace("{ports}", said.hits.ports).replace("{hosts}", said.hits.hosts)
          .replace("{alerts}", said.hits.alerts));
      }
      return lines.join("\n") + (said.preview ? "" : "\n" + said.effect);
    }
    return preview.dataset.hits.replace("{hosts}", said.matching).replace("{known}", said.known)
      .replace("{alerts}", said.alerts.length);
  }
  function prepare(button) {
    const preview = document.getElementById("act-preview");
    const lasts = document.getElementById("act-lasts");
    const reason = document.getElementById("act-reason");
    const submit = document.getElementById("act-do");
    const form = dialog.querySelector("form");
    const url = meta.root + "/api/v1/" + button.dataset.url;
    let done = false;
    document.getElementById("act-title").textContent = button.dataset.title;
    document.getElementById("act-lasts-row").hidden = !button.dataset.lasts;
    lasts.querySelector("[data-open]").hidden = button.dataset.lasts !== "open";
    lasts.value = button.dataset.lasts === "open" ? "" : "4h";
    reason.value = "";
    const field = button.dataset.text || "reason";
    const label = document.getElementById("act-text");
    label.textContent = label.dataset[field];
    reason.parentElement.hidden = button.dataset.url.endsWith("/lift");
    reason.required = !reason.parentElement.hidden && field === "reason";
    submit.hidden = false;
    function body(text) {
      const given = JSON.parse(button.dataset.body);
      if (button.dataset.form) {
        for (const field of document.getElementById(button.dataset.form).elements) {
          const parts = field.name ? field.value.split(/[\s,]+/).filter(Boolean) : [];
          if (field.name === "labels") {
            given.labels = Object.fromEntries(parts.map((one) => [one.split("=")[0], [one.split("=").slice(1).join("=")]]));
          } else if (parts.length) given[field.name] = parts;
        }
      }
      if (!reason.parentElement.hidden) given[field] = text;
      if (button.dataset.lasts) given.lasts = lasts.value;
      return given;
    }
    async function look() {
      preview.textContent = preview.dataset.wait;
      submit.disabled = true;
      try {
        preview.textContent = told(await post(url + "?preview=true", body("preview")), preview);
        submit.disabled = false;
      } catch (error) {
        preview.textContent = error.message;
        submit.disabled = true;
      }
    }
    lasts.onchange = look;
    form.onsubmit = async function (event) {
      if (event.submitter !== submit) return;
      event.preventDefault();
      submit.disabled = true;
      try {
        preview.textContent = told(await post(url, body(reason.value)), preview);
        submit.hidden = true;
        done = true;
        // It was closed before the answer came.
        if (!dialog.open) window.location.reload();
      } catch (error) {
        preview.textContent = error.message;
        submit.disabled = false;
      }
    };
    dialog.onclose = function () { if (done) window.location.reload(); };
    dialog.showModal();
    look();
  }
  if (dialog) {
    document.addEventListener("click", function (event) {
      const button = event.target.closest("button.act");
      if (button) prepare(button);
    });
    const opened = document.querySelector("form[data-open] button.act");
    if (opened) prepare(opened);
    // The address in a message asks for the form of one alert.
    const asked = new URLSearchParams(window.location.search).get("acknowledge");
    for (const button of asked ? document.querySelectorAll('button.act[data-url="acknowledgements"]') : []) {
      const ids = JSON.parse(button.dataset.body).alerts;
      if (ids.length === 1 && ids[0] === asked) {
        prepare(button);
        break;
      }
    }
  }

  // ── a run, started by the reader's own request to Airflow ────────────────────────────────────
  const scan = document.getElementById("scan");
  if (scan) {
    scan.addEventListener("click", async function () {
      const line = document.getElementById("scanned");
      scan.disabled = true;
      try {
        const api = meta.airflow + "/api/v2/dags/portmon/dagRuns";
        const busy = await (await fetch(api + "?state=running&limit=1")).json();
        const run = await post(api, { logical_date: null, conf: {} });
        const waits = busy.total_entries > 0;
        line.textContent = (waits ? scan.dataset.waits : scan.dataset.begun) + ": ";
        for (const one of waits ? [busy.dag_runs[0], run] : [run]) {
          const link = document.createElement("a");
          link.href = meta.airflow + "/dags/portmon/runs/" + encodeURIComponent(one.dag_run_id);
          link.dataset.top = "";
          link.textContent = one.dag_run_id;
          line.append(link, " ");
        }
      } catch (error) {
        line.textContent = scan.dataset.refused + ": " + error.message;
        scan.disabled = false;
      }
    });
  }
})();
