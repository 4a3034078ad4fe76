// Before anything is drawn: theme and language as Airflow's page has them, which keeps them in this browser.
"use strict";
(function () {
  function stored(name) {
    try {
      return (window.localStorage.getItem(name) || "").replace(/^"|"$/g, "");
    } catch (error) {
      return "";
    }
  }
  const root = document.documentElement;
  const theme = stored("theme");
  if (theme === "dark" || theme === "light") root.dataset.theme = theme;
  const meta = document.querySelector("meta[name=portmon]").dataset;
  const language = stored("i18nextLng").slice(0, 2).toLowerCase();
  const wanted = language === "zh" ? "zh" : language ? "en" : "";
  if (wanted && wanted !== meta.language) {
    const before = document.cookie;
    document.cookie = "portmon_language=" + wanted + "; path=" + (meta.root || "/") + "; samesite=lax";
    if (document.cookie !== before) window.location.reload();
  }
})();
