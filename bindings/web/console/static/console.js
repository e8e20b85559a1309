// Optional: the console works without JavaScript. This script adds the "/" shortcut to the search, menus that close,
// rows that open, and an overview that refreshes while it is visible.
"use strict";

document.addEventListener("keydown", (event) => {
  const isTyping = event.target.closest("input, textarea, select, [contenteditable]");
  if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || isTyping) return;
  event.preventDefault();
  const searchField = document.getElementById("q");
  if (searchField) {
    searchField.focus();
    searchField.select();
  } else {
    location.assign("/");
  }
});

for (const zone of document.querySelectorAll("[name=zone][data-guess]")) {
  zone.value = Intl.DateTimeFormat().resolvedOptions().timeZone || zone.value;
}

// Only one menu is open at a time; Escape closes it.
const menus = document.querySelectorAll("details.menu");
for (const menu of menus) {
  menu.addEventListener("toggle", () => {
    if (menu.open) for (const other of menus) if (other !== menu) other.open = false;
  });
  menu.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    menu.open = false;
    menu.querySelector("summary").focus();
  });
}
document.addEventListener("click", (event) => {
  for (const menu of menus) if (menu.open && !menu.contains(event.target)) menu.open = false;
});

// One click selects a new secret to copy it.
for (const secret of document.querySelectorAll("[data-select]")) {
  secret.addEventListener("focus", () => secret.select());
}

// A click anywhere in a row opens what the row is about, unless it was on a link or has selected text.
document.addEventListener("click", (event) => {
  const row = event.target.closest("tr[data-href]");
  if (!row || event.target.closest("a, button") || String(getSelection())) return;
  if (event.ctrlKey || event.metaKey) open(row.dataset.href);
  else location.assign(row.dataset.href);
});

// The Back button must not show pages of an ended session, nor phones that were revealed once.
addEventListener("pagehide", () => {
  for (const number of document.querySelectorAll(".number.full")) number.textContent = "shown once";
  for (const secret of document.querySelectorAll("input.secret")) secret.value = "shown once";
});
addEventListener("pageshow", (event) => {
  if (event.persisted && !document.querySelector(".number.full, input.secret")) location.reload();
});

// A download leaves the page as it is: say what was exported as soon as its response has set the cookie.
const lastExport = () => (document.cookie.match(/(?:^|; )bindings_export=([0-9a-f-]{36})/) || [])[1];
for (const status of document.querySelectorAll("[data-exported]")) {
  let poll = 0;
  status.closest("form").addEventListener("submit", () => {
    const before = lastExport();
    status.textContent = "";
    clearInterval(poll);
    poll = setInterval(() => {
      if (lastExport() === before) return;
      clearInterval(poll);
      const link = document.createElement("a");
      link.href = `/exports/${lastExport()}`;
      link.textContent = "Manifest of this export";
      status.append("The export has started and is recorded in the access log. ", link, " (filter, rows, SHA-256)");
    }, 200);
  });
}

// The live part of a page is fetched again periodically, and the line above it says whether it is. It is not replaced
// while the focus is inside: that would take the focus away from a reader with a keyboard or a screen reader.
const live = document.querySelector("[data-live]");
if (live) {
  const intervalMs = 1000 * Number(live.dataset.live);
  const controls = document.createElement("p");
  const status = document.createElement("span");
  const button = document.createElement("button");
  controls.className = "live";
  button.type = "button";
  controls.append(status, button);
  live.before(controls);
  let paused = false;
  let failure = "";
  let timer = 0;
  let pendingRequest = null;

  const hasFocus = () => live.contains(document.activeElement);
  const stop = () => {
    clearTimeout(timer);
    if (pendingRequest) pendingRequest.abort();
    pendingRequest = null;
  };
  const showStatus = () => {
    if (paused) status.textContent = "Paused";
    else if (hasFocus()) status.textContent = "Paused while the focus is inside";
    else status.textContent = failure || `Refreshes every ${intervalMs / 1000} s while visible`;
    button.textContent = paused ? "Resume" : "Pause";
  };
  const schedule = (delayMs) => {
    stop();
    showStatus();
    if (!paused && !hasFocus() && document.visibilityState === "visible") timer = setTimeout(refresh, delayMs);
  };
  const replaceWith = (page) => {
    const fresh = page.getElementById(live.id);
    const openIds = new Set([...live.querySelectorAll("details[open]")].map((details) => details.id));
    for (const details of fresh.querySelectorAll("details")) details.open = openIds.has(details.id);
    live.replaceChildren(...fresh.childNodes);
    live.dataset.refreshed = String(Number(live.dataset.refreshed || 0) + 1);
    document.title = page.title;
  };
  const refresh = async () => {
    const request = (pendingRequest = new AbortController());
    try {
      const response = await fetch(location.href, { headers: { accept: "text/html" }, signal: request.signal });
      if (response.redirected) return location.reload(); // the session has ended
      const text = await response.text();
      failure = response.ok ? "" : `The service responded with the error ${response.status}; trying again`;
      if (response.ok) replaceWith(new DOMParser().parseFromString(text, "text/html"));
    } catch (error) {
      if (request.signal.aborted) return; // what ended it has scheduled the next one
      failure = "No response from the service; trying again";
    }
    schedule(intervalMs);
  };
  button.addEventListener("click", () => {
    paused = !paused;
    schedule(paused ? intervalMs : 0);
  });
  document.addEventListener("visibilitychange", () => schedule(0));
  live.addEventListener("focusin", () => schedule(intervalMs));
  live.addEventListener("focusout", () => setTimeout(() => schedule(0))); // by then the next element has the focus
  schedule(intervalMs);
}
