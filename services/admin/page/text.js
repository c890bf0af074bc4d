// Formats numbers and times.

/** @param {number} n */
function number(n) {
  const a = Math.abs(n);
  if (a >= 1e9) return (n / 1e9).toFixed(a < 1e10 ? 2 : 1) + " G";
  if (a >= 1e6) return (n / 1e6).toFixed(a < 1e7 ? 2 : 1) + " M";
  if (a >= 1e4) return (n / 1e3).toFixed(a < 1e5 ? 1 : 0) + " k";
  if (a >= 100 || Number.isInteger(n)) return String(Math.round(n));
  return n.toFixed(a < 1 ? 2 : 1);
}

/** @param {number} n bytes */
function size(n) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let i = 0;
  while (n >= 1000 && i < units.length - 1) {
    n /= 1024;
    i++;
  }
  return (i === 0 || n >= 100 ? Math.round(n) : n.toFixed(1)) + " " + units[i];
}

/** @param {number} ms */
function duration(ms) {
  if (ms <= 0) return "0 s";
  if (ms < 1) return Math.max(1, Math.round(ms * 1000)) + " µs";
  if (ms < 10) return ms.toFixed(1) + " ms";
  if (ms < 1000) return Math.round(ms) + " ms";
  const s = ms / 1000;
  if (s < 10) return s.toFixed(1) + " s";
  if (s < 120) return Math.round(s) + " s";
  if (s < 7200) return Math.round(s / 60) + " min";
  if (s < 172800) return Math.round(s / 3600) + " h";
  return Math.round(s / 86400) + " d";
}

/** The time of day in the user's time zone.
 * @param {number} ms of Unix time */
function clock(ms) {
  const d = new Date(ms), two = (/** @type {number} */ n) => String(n).padStart(2, "0");
  return `${two(d.getHours())}:${two(d.getMinutes())}:${two(d.getSeconds())}`;
}
