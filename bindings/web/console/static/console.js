// Optional: the console works without JavaScript. This script adds the "/" shortcut to the search, menus that close,
// and an overview that refreshes while it is visible.
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

const zone = document.querySelector("#zone[data-guess]");
if (zone) zone.value = Intl.DateTimeFormat().resolvedOptions().timeZone || zone.value;

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

// The Back button must not show pages of an ended session, nor phones that were revealed once.
addEventListener("pagehide", () => {
  for (const number of document.querySelectorAll(".number.full")) number.textContent = "shown once";
});
addEventListener("pageshow", (event) => {
  if (event.persisted && !document.querySelector(".number.full")) location.reload();
});

// The live part of a page is fetched again periodically while the page is visible and not paused.
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
  let timer = 0;
  let pendingRequest = null;

  const stop = () => {
    clearTimeout(timer);
    timer = 0;
    if (pendingRequest) pendingRequest.abort();
  };
  const schedule = () => {
    stop();
    if (!paused && document.visibilityState === "visible") timer = setTimeout(refresh, intervalMs);
  };
  const showStatus = () => {
    status.textContent = paused ? "Paused" : `Refreshes every ${intervalMs / 1000} s while visible`;
    button.textContent = paused ? "Resume" : "Pause";
  };
  const refresh = async () => {
    pendingRequest = new AbortController();
    try {
      const response = await fetch(location.href, { headers: { accept: "text/html" }, signal: pendingRequest.signal });
      if (response.redirected) return location.reload(); // the session has ended
      const page = new DOMParser().parseFromString(await response.text(), "text/html");
      const fresh = page.getElementById(live.id);
      if (response.ok && fresh && !live.contains(document.activeElement)) {
        const openIds = new Set([...live.querySelectorAll("details[open]")].map((details) => details.id));
        for (const details of fresh.querySelectorAll("details")) details.open = openIds.has(details.id);
        live.replaceChildren(...fresh.childNodes);
        live.dataset.refreshed = String(Number(live.dataset.refreshed || 0) + 1);
        document.title = page.title;
      }
    } catch (error) {
      if (error.name !== "AbortError") status.textContent = "No response from the service; trying again";
    }
    pendingRequest = null;
    schedule();
  };
  button.addEventListener("click", () => {
    paused = !paused;
    showStatus();
    schedule();
  });
  document.addEventListener("visibilitychange", () => {
    if (document.visibilityState === "visible" && !paused) refresh();
    else stop();
  });
  showStatus();
  schedule();
}
