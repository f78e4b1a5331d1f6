// Keeps relative times ("5 min ago") of every page current. `templatetags/reef.py` formats them the
// same way.
import { isSelected } from "./selection.js";

// Ages are counted from the server's clock, since browsers' clocks may be wrong.
const offset = Number(document.documentElement.dataset.now || Date.now()) - Date.now();
const steps = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];

const now = () => Date.now() + offset;

function words(milliseconds) {
  const seconds = Math.max(0, Math.floor(milliseconds / 1000));
  const [size, unit] = steps.find((step) => seconds >= step[0]) || [1, "s"];
  return `${Math.floor(seconds / size)} ${unit}`;
}

export function tick() {
  if (document.hidden) return;
  for (const time of document.querySelectorAll("time[data-rel]")) {
    const ending = time.dataset.rel === "ago" ? " ago" : "";
    const text = words(now() - Date.parse(time.dateTime)) + ending;
    if (time.textContent !== text && !isSelected(time)) time.textContent = text;
  }
}

// The server shows absolute times in this zone, unless the person has chosen another one.
const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
if (zone) document.cookie = `reef-zone=${encodeURIComponent(zone)}; path=/; max-age=31536000; SameSite=Lax`;

setInterval(tick, 1000);
document.addEventListener("visibilitychange", tick);
