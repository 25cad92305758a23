// The ranges of the plots, by their names in the address. Pure.

const MINUTE_MS = 60_000;

// How many bars, how long each is, the text of the button and the heading.
export const RANGES = {
  "15m": { bars: 15, stepMs: MINUTE_MS, button: "15 min", heading: "The last 15 minutes" },
  "1h": { bars: 20, stepMs: 3 * MINUTE_MS, button: "1 h", heading: "The last hour" },
  "24h": { bars: 24, stepMs: 60 * MINUTE_MS, button: "24 h", heading: "The last 24 hours" },
};
export const DEFAULT_RANGE = "15m";

// The first moment that is shown, as Unix milliseconds.
export function windowStart(now, range) {
  const { bars, stepMs } = RANGES[range];
  return (Math.floor(now / stepMs) - bars + 1) * stepMs;
}
