// Times in the reader's own zone; without this script they stay in UTC. Pages about
// what goes on refresh themselves; without this script they are reloaded by hand.
"use strict";
function localTimes(root) {
  for (const t of root.querySelectorAll("time[datetime]")) {
    const at = new Date(t.dateTime);
    if (isNaN(at)) continue;
    t.title = t.dateTime;
    const day = { year: "numeric", month: "short", day: "2-digit" };
    if ("brief" in t.dataset) {
      t.textContent = at.toLocaleString(undefined, { month: "short", day: "2-digit", hour: "2-digit", minute: "2-digit" });
    } else t.textContent = "day" in t.dataset
      ? at.toLocaleDateString(undefined, day)
      : at.toLocaleString(undefined, { ...day, hour: "2-digit", minute: "2-digit", second: "2-digit" });
  }
}
localTimes(document);

// Only the parts marked data-live change, and none of them while the reader is in it:
// with the focus, with a part of it opened, or with a selection.
const live = document.getElementById("live");
function busy(part) {
  const selected = getSelection();
  return part.contains(document.activeElement) || part.querySelector("details[open]") !== null || (!selected.isCollapsed && part.contains(selected.anchorNode));
}
async function refresh() {
  if (document.hidden) return true;
  let answer;
  try {
    answer = await fetch(location.href, { headers: { "Hallmark-Live": "1" }, redirect: "manual", cache: "no-store" });
  } catch {
    live.classList.add("lost");
    live.textContent = "the service does not answer";
    return true;
  }
  if (!answer.ok) { // signed out, or the page is gone
    live.classList.add("lost");
    live.textContent = "no longer refreshed; reload the page";
    return false;
  }
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  localTimes(fresh);
  for (const part of document.querySelectorAll("[data-live][id]")) {
    const other = fresh.getElementById(part.id);
    if (other === null || busy(part) || part.innerHTML === other.innerHTML) continue;
    const left = part.scrollLeft;
    part.replaceChildren(...other.childNodes);
    part.scrollLeft = left;
  }
  live.classList.remove("lost");
  live.textContent = "refreshes itself";
  return fresh.getElementById("live") !== null; // it is over
}
if (live !== null) {
  live.hidden = false;
  const again = () => setTimeout(async () => { if (await refresh()) again(); else live.hidden = !live.classList.contains("lost"); }, 5000);
  again();
}
