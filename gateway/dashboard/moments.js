// Points in time as people read them: with the date, the offset from UTC, and how long ago. Pure.

const DAY = { day: "numeric", month: "short", year: "numeric" };
const two = (number) => String(number).padStart(2, "0");

// "12:49:03.120", by the clock of the browser's time zone.
export function timeOfDay(ms) {
  const at = new Date(ms);
  return `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}.${String(at.getMilliseconds()).padStart(3, "0")}`;
}

// "UTC+01:00": the offset may differ between summer and winter, so it belongs to the point in time.
function zone(at) {
  const minutes = -at.getTimezoneOffset();
  const size = Math.abs(minutes);
  return `UTC${minutes < 0 ? "−" : "+"}${two(Math.floor(size / 60))}:${two(size % 60)}`;
}

// "30 Nov 2026, 12:49:03.120 (UTC+01:00)"; `isWhole`: the time is known to the second only.
export function moment(ms, isWhole = false) {
  const at = new Date(ms);
  return `${at.toLocaleDateString([], DAY)}, ${timeOfDay(ms).slice(0, isWhole ? -4 : undefined)} (${zone(at)})`;
}

// "3 min ago"; a time that is not over yet by this clock is "now".
export function ago(ms, now) {
  const seconds = Math.floor((now - ms) / 1000);
  if (seconds < 1) return "now";
  if (seconds < 60) return `${seconds} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  return seconds < 172_800 ? `${Math.floor(seconds / 3600)} h ago` : `${Math.floor(seconds / 86_400)} days ago`;
}
