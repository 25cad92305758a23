// Numbers and times as people read them. Pure.

const NONE = "–";
const HOURS = { hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

// Text from outside, with characters escaped that control a terminal or turn the direction of text: users copy from the page.
export const readable = (text) =>
  String(text).replace(/[\p{Cc}\p{Cf}\u2028\u2029]/gu, (c) => `\\u${c.codePointAt(0).toString(16).padStart(4, "0")}`);

// The same for a text of many lines: line ends and tabs stay.
export const readableLines = (text) => text.replace(/[^\n\t]+/g, readable);

export function bytes(count) {
  if (count === null || count === undefined) return NONE;
  let unit = 0;
  let value = count;
  while (value >= 1024 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${UNITS[unit]}`;
}

// Milliseconds: "12 ms", "3.4 s", "5 min 03 s", "2 h 05 min".
export function duration(ms) {
  if (ms === null || ms === undefined || Number.isNaN(ms)) return NONE;
  const past = Math.max(ms, 0);
  if (past < 1000) return `${Math.round(past)} ms`;
  if (past < 59_950) return `${(past / 1000).toFixed(1)} s`;
  return long(Math.round(past / 1000));
}

// The same in whole seconds, for values that count up on the page.
export function age(ms) {
  const seconds = Math.max(Math.floor(ms / 1000), 0);
  return seconds < 60 ? `${seconds} s` : long(seconds);
}

function long(seconds) {
  const two = (number) => String(number).padStart(2, "0");
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${two(seconds % 60)} s`;
  if (seconds < 172_800) return `${Math.floor(seconds / 3600)} h ${two(Math.floor((seconds % 3600) / 60))} min`;
  return `${Math.floor(seconds / 86_400)} days`;
}

// The time of day, with the date if it is not today.
export function clock(ms, now) {
  const then = new Date(ms);
  const time = then.toLocaleTimeString([], { ...HOURS, second: "2-digit" });
  const isToday = then.toDateString() === new Date(now).toDateString();
  return isToday ? time : `${then.toLocaleDateString([], { month: "short", day: "numeric" })} ${time}`;
}

export function minute(ms) {
  return new Date(ms).toLocaleTimeString([], HOURS);
}

export const count = (number, one, many) => `${number.toLocaleString()} ${number === 1 ? one : many}`;
export const getsInWords = (number) => (number ? `${count(number, "GET request is", "GET requests are")} hidden.` : "");
