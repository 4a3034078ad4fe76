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
      time.textContent = form === "age" ? ago(at) : form ? ago(at) + " · " + text : text;
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
})();
