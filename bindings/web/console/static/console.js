// The console works without this. It adds: "/" leads to the search, and a live page that renews itself while it is seen.
"use strict";

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, textarea, select, [contenteditable]");
  if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || typing) return;
  event.preventDefault();
  const box = document.getElementById("q");
  if (box) {
    box.focus();
    box.select();
  } else {
    location.assign("/");
  }
});

const zone = document.querySelector("#zone[data-guess]");
if (zone) zone.value = Intl.DateTimeFormat().resolvedOptions().timeZone || zone.value;

// One menu at a time, and Escape closes it.
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

// What was signed out of, or revealed once, does not come back with the Back button.
addEventListener("pagehide", () => {
  for (const number of document.querySelectorAll(".number.full")) number.textContent = "shown once";
});
addEventListener("pageshow", (event) => {
  if (event.persisted && !document.querySelector(".number.full")) location.reload();
});

// A live part is fetched anew every few seconds, as long as somebody can see it and has not paused it.
const live = document.querySelector("[data-live]");
if (live) {
  const everyMs = 1000 * Number(live.dataset.live);
  const line = document.createElement("p");
  const words = document.createElement("span");
  const button = document.createElement("button");
  line.className = "live";
  button.type = "button";
  line.append(words, button);
  live.before(line);
  let paused = false;
  let timer = 0;
  let asking = null;

  const stop = () => {
    clearTimeout(timer);
    timer = 0;
    if (asking) asking.abort();
  };
  const plan = () => {
    stop();
    if (!paused && document.visibilityState === "visible") timer = setTimeout(renew, everyMs);
  };
  const tell = () => {
    words.textContent = paused ? "Paused" : `Renews itself every ${everyMs / 1000} s while you see it`;
    button.textContent = paused ? "Go on" : "Pause";
  };
  const renew = async () => {
    asking = new AbortController();
    try {
      const answer = await fetch(location.href, { headers: { accept: "text/html" }, signal: asking.signal });
      if (answer.redirected) return location.reload(); // the session is over
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const fresh = page.getElementById(live.id);
      if (answer.ok && fresh && !live.contains(document.activeElement)) {
        const open = new Set([...live.querySelectorAll("details[open]")].map((each) => each.id));
        for (const each of fresh.querySelectorAll("details")) each.open = open.has(each.id);
        live.replaceChildren(...fresh.childNodes);
        live.dataset.renewed = String(Number(live.dataset.renewed || 0) + 1);
        document.title = page.title;
      }
    } catch (error) {
      if (error.name !== "AbortError") words.textContent = "The service does not answer; trying again";
    }
    asking = null;
    plan();
  };
  button.addEventListener("click", () => {
    paused = !paused;
    tell();
    plan();
  });
  document.addEventListener("visibilitychange", () => {
    if (document.visibilityState === "visible" && !paused) renew();
    else stop();
  });
  tell();
  plan();
}
