// Times in the reader's own zone; without this script they stay in UTC.
"use strict";
for (const t of document.querySelectorAll("time[datetime]")) {
  const at = new Date(t.dateTime);
  if (isNaN(at)) continue;
  t.title = t.dateTime;
  const day = { year: "numeric", month: "short", day: "2-digit" };
  t.textContent = "day" in t.dataset
    ? at.toLocaleDateString(undefined, day)
    : at.toLocaleString(undefined, { ...day, hour: "2-digit", minute: "2-digit", second: "2-digit" });
}
