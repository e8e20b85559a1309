// The console works without this. It adds: "/" leads to the search, and the browser's zone where none was chosen.
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
