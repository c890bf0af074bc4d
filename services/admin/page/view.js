// Shows an answer of /live on the page.

const perSecond = (/** @type {number} */ n) => number(n) + "/s";
const bytesPerSecond = (/** @type {number} */ n) => size(n) + "/s";

const sparks = [
  { name: "Sessions", keys: ["sessions"], form: number },
  { name: "Accepted", keys: ["accepts"], form: perSecond },
  { name: "Closed", keys: ["closes"], form: perSecond },
  { name: "Refused", keys: ["refused"], form: perSecond, bad: true, what: "Connections refused" },
  { name: "Requests", keys: ["frames"], form: perSecond, what: "Frames received" },
  { name: "ERRORs", keys: ["errors"], form: perSecond, bad: true, what: "ERROR frames sent" },
  { name: "Wait", keys: ["wait_p99", "wait_p50"], form: duration, what: "p50 / p99 from a request's arrival until a worker takes it: upper bounds of each second" },
  { name: "Handlers", keys: ["run_p99", "run_p50"], form: duration, what: "p50 / p99 of the run time of handlers: upper bounds of each second" },
  { name: "In", keys: ["bytes_in"], form: bytesPerSecond },
  { name: "Out", keys: ["bytes_out"], form: bytesPerSecond },
  { name: "Paused", keys: ["paused"], form: perSecond, what: "Sessions whose reading was paused" },
  { name: "CPUs", keys: ["cpu"], form: number },
  { name: "Held", keys: ["memory"], form: size, what: "Memory that sessions and broadcasts hold, against --memory-budget" },
  { name: "Heap", keys: ["heap"], form: size },
].map((spec) => new Spark($("sparks"), spec));

let most = { frames: 1, sessions: 1 };
const loops = new Table($("loops"), [
  { head: "Loop", text: (l) => String(l.loop) },
  { head: "Sessions", text: (l) => number(l.sessions) },
  { head: "", bar: (l) => l.sessions / most.sessions, kind: "far" },
  { head: "Requests/s", text: (l) => number(l.frames) },
  { head: "", bar: (l) => l.frames / most.frames },
  { head: "on loop", text: (l) => (l.frames ? Math.round((l.inline / l.frames) * 100) + " %" : "–"), kind: "far" },
  { head: "In/s", text: (l) => size(l.bytes_in) },
  { head: "Out/s", text: (l) => size(l.bytes_out) },
  { head: "To write", text: (l) => number(l.dirty) },
  { head: "Outbox", text: (l) => size(l.outbox) },
  { head: "Blocked/s", text: (l) => number(l.blocked), cls: (l) => (l.blocked >= 1 ? "warn" : "") },
  { head: "Paused/s", text: (l) => number(l.pauses), cls: (l) => (l.pauses >= 1 ? "warn" : "") },
  { head: "Held up/s", text: (l) => number(l.handover), cls: (l) => (l.handover > 0 ? "bad" : "") },
], "no loops");

const level = (/** @type {number} */ part) => (part >= 1 ? "bad" : part >= 0.9 ? "warn" : "");
const part = (/** @type {any} */ l) => (l.max > 0 ? l.used / l.max : 0);
const limits = new Table($("limits"), [
  { head: "Limit", text: (l) => l.flag, kind: "name left" },
  { head: "", bar: part, cls: (l) => level(part(l)) },
  { head: "Used", text: (l) => (l.bytes ? size : number)(l.used), cls: (l) => level(part(l)) },
  { head: "of", text: (l) => (l.bytes ? size : number)(l.max) },
  { head: "Near", text: (l) => number(l.near), cls: (l) => (l.near ? "warn" : "") },
  { head: "last", text: (l) => (l.last ? clock(l.last) + (l.who ? " " + l.who : "") : ""), kind: "name left far" },
], "no limits known");

let busiest = 1;
const handles = new Table($("handles"), [
  { head: "Handle", text: (h) => h.handle },
  { head: "Requests/s", text: (h) => number(h.requests) },
  { head: "p50", text: (h) => duration(h.p50) },
  { head: "p99", text: (h) => duration(h.p99), cls: (h) => (h.p99 >= 1000 ? "bad" : h.p99 >= 100 ? "warn" : "") },
  { head: "Time", bar: (h) => h.busy / busiest },
  { head: "Errors/s", text: (h) => number(h.errors), cls: (h) => (h.errors > 0 ? "bad" : "") },
  { head: "in all", text: (h) => number(h.total), kind: "far" },
], "no requests yet");

let dearest = 1;
const share = (/** @type {any} */ c) => c.busy / dearest;
const costSessions = new Table($("cost-sessions"), [
  { head: "Session", text: (c) => c.name, open: (c) => (c.addr ? c.name : "") },
  { head: "Address", text: (c) => c.addr || "gone", kind: "name left" },
  { head: "Tag", text: (c) => c.tag || "", kind: "name left" },
  { head: "Time/s", text: (c) => duration(c.busy) },
  { head: "", bar: share },
], "no session took any time");
const costHandles = new Table($("cost-handles"), [
  { head: "Handle", text: (c) => (c.name === "none" ? "no request" : c.name), kind: "left" },
  { head: "Time/s", text: (c) => duration(c.busy) },
  { head: "", bar: share },
], "no handle took any time");
const costTags = new Table($("cost-tags"), [
  { head: "Tag", text: (c) => c.name || "without", kind: "name left" },
  { head: "Time/s", text: (c) => duration(c.busy) },
  { head: "", bar: share },
], "no tag took any time");

/** @param {any} c who took the time of the last second, or null */
function showCosts(c) {
  $("s-costs").hidden = !c;
  if (!c?.known) return; // not yet
  dearest = Math.max(1e-9, c.busy);
  setText($("busy"), `${duration(c.busy)} of ${duration(c.process)} a second, that of the process`);
  costSessions.show(c.sessions);
  costHandles.show(c.handles);
  costTags.show(c.tags);
}

/** Why a session is not read from, or has ended.
 * @param {any} s */
function stateOf(s) {
  if (s.reason) return "closed: " + s.reason;
  if (s.paused.length) return "paused: " + s.paused.join(", ");
  return s.away ? "away" : "";
}
const much = 65536; // bytes waiting for one session
const sessions = new Table($("sessions"), [
  { head: "Session", text: (s) => `${s.index}.${s.round}`, open: (s) => (s.closed_at ? "" : `${s.index}.${s.round}`) },
  { head: "Address", text: (s) => s.addr, kind: "name left" },
  { head: "over", text: (s) => s.transport, kind: "left far" },
  { head: "Unsent", text: (s) => size(s.unsent), cls: (s) => (s.unsent > much ? "warn" : "") },
  { head: "Pending", text: (s) => size(s.pending), cls: (s) => (s.pending > much ? "warn" : "") },
  { head: "In", text: (s) => size(s.bytes_in) },
  { head: "Out", text: (s) => size(s.bytes_out) },
  { head: "Requests", text: (s) => number(s.frames_in), kind: "far" },
  { head: "Loop", text: (s) => String(s.loop), kind: "far" },
  { head: "State", text: stateOf, kind: "name left", cls: (s) => (s.paused.length ? "warn" : s.reason ? "bad" : "") },
  { head: "for", text: (s) => duration((s.closed_at ? Date.parse(s.closed_at) : shown.at) - Date.parse(s.connected_at)), kind: "far" },
  { head: "CPU", text: (s) => (s.cpu_seconds ? duration(1000 * s.cpu_seconds) : ""), kind: "far" },
  { head: "Waited", text: (s) => (s.wait_seconds ? duration(1000 * s.wait_seconds) : ""), kind: "far" },
], "none");

const reasons = new Table($("reasons"), [
  { head: "", text: (r) => r.what, kind: "left" },
  { head: "Reason", text: (r) => r.reason, kind: "left", cls: (r) => (r.fault && r.rate > 0 ? "bad" : "") },
  { head: "now", text: (r) => perSecond(r.rate), cls: (r) => (r.fault && r.rate > 0 ? "bad" : "") },
  { head: "in all", text: (r) => number(r.total) },
], "nothing yet");

/** What the page shows: the last answer, and what is kept of those before it. */
const shown = { at: 0, seq: 0, events: 0, started: 0, points: /** @type {any[]} */ ([]), findings: "" };

/** Forgets what another process said.
 * @param {number} started when this one was */
function forget(started) {
  shown.started = started;
  shown.seq = shown.events = 0;
  shown.points = [];
  $("log").replaceChildren();
}

/** @param {any} v an answer of /live */
function show(v) {
  shown.started = v.started;
  shown.at = v.at;
  shown.points = shown.points.concat(v.history).slice(-120);
  shown.seq = v.seq;
  showHead(v);
  showFindings(v.findings);
  for (const s of sparks) s.show(shown.points);
  limits.show(v.limits);
  most = { frames: Math.max(1, ...v.loops.map((/** @type {any} */ l) => l.frames)), sessions: Math.max(1, ...v.loops.map((/** @type {any} */ l) => l.sessions)) };
  loops.show(v.loops);
  busiest = Math.max(1e-9, ...v.handles.map((/** @type {any} */ h) => h.busy));
  handles.show(v.handles);
  setText($("others"), v.others ? `and ${v.others} more` : "");
  const tag = (/** @type {string} */ what) => (/** @type {any} */ r) => ({ ...r, what });
  reasons.show([...v.refused.map(tag("refused")), ...v.closes.map(tag("closed"))]);
  showCosts(v.costs);
  showBehind(v);
  showEvents(v.events);
  shown.events = v.event_seq;
}

/** @param {any} v */
function showHead(v) {
  setText($("node"), v.node || "");
  const [word, cls] = v.draining ? ["draining", "warn"] : v.ready ? ["ready", "good"] : ["not ready: " + v.reasons.join(", "), "bad"];
  setText($("ready"), word);
  setClass($("ready"), "pill " + cls);
  const bad = v.findings.filter((/** @type {any} */ f) => f.level === "bad").length;
  setText(document.querySelector("title"), `${bad ? `(${bad}) ` : ""}${v.node || "Millrace"}: ${word}`);
  $("drains").hidden = !v.write;
  $("drain").hidden = v.draining;
  $("undrain").hidden = !v.draining;
  setText($("about"), `${v.version || ""} ${(v.addrs || []).join(" ")}; up for ${duration(v.at - v.started)}; ${number(v.goroutines)} goroutines`);
}

/** @param {any[]} list */
function showFindings(list) {
  const ul = $("findings");
  // Screen readers announce what begins and ends, not each new number.
  const set = list.map((f) => f.kind + f.what).join("\n");
  ul.setAttribute("aria-live", set === shown.findings ? "off" : "polite");
  shown.findings = set;
  if (!list.length) {
    if (ul.firstElementChild?.className === "good") return;
    const li = make("li", "good");
    li.textContent = "Nothing is slow, full, paused, refused or failing.";
    ul.replaceChildren(li);
    return;
  }
  if (ul.firstElementChild?.className === "good") ul.replaceChildren();
  const all = children(ul, list.length, () => {
    const li = make("li");
    li.append(make("b"), make("span", "what"), make("span", "text"), make("span", "do"), make("time"));
    return li;
  });
  list.forEach((f, i) => {
    const li = all[i], [kind, what, text, way, since] = li.children;
    setClass(li, f.level);
    setText(kind, f.kind);
    setText(what, f.what);
    setText(text, f.text);
    setText(way, f.do);
    setText(since, "for " + duration(shown.at - f.since));
  });
}

/** @param {any} v */
function showBehind(v) {
  const p = v.pool;
  facts($("pool"), [
    ["workers", `${p.workers}`, `${p.idle} idle`],
    ["blocked in handlers", `${p.blocked}`, "", p.blocked >= p.workers ? "bad" : ""],
    ["sessions that wait", number(p.sessions)],
    ["functions that wait", number(p.queue)],
    ["turns and functions", "", perSecond(p.ran)],
    ["refused", "", perSecond(p.refused), p.refused > 0 ? "bad" : ""],
    ["stalls", number(p.stalls)],
    ["spare workers started", number(p.spawned)],
    ["sessions not read: memory", number(v.starving), "", v.starving ? "bad" : ""],
    ["sessions whose peer is away", number(v.waiting)],
  ]);
  facts($("totals"), v.totals.map((/** @type {any} */ t) => [t.name, number(t.value), perSecond(t.rate || 0)]));
  $("s-backs").hidden = !v.backs.length;
  const all = children($("backs"), v.backs.length, () => {
    const div = make("div");
    div.append(make("h3"), make("dl"));
    return div;
  });
  v.backs.forEach((/** @type {any} */ b, /** @type {number} */ i) => {
    const [head, list] = all[i].children;
    setText(head, b.name + (b.down ? ": " + b.down : ""));
    setClass(head, b.down ? "bad" : "");
    facts(list, b.values.map((/** @type {any} */ x) => [x.name, number(x.value), x.total ? perSecond(x.rate || 0) : ""]));
  });
}

/** @param {any[]} events the oldest first */
function showEvents(events) {
  const log = $("log");
  for (const e of events) {
    const text = e.text + (e.n > 1 ? ` (${e.n} times)` : "");
    const first = log.firstElementChild;
    if (e.n > 1 && first && first.dataset.of === e.kind + e.at) {
      setText(first.lastElementChild, text);
      continue;
    }
    const li = make("li"), time = make("time"), kind = make("b"), span = make("span");
    li.dataset.of = e.kind + e.at;
    kind.className = e.level === "info" ? "" : e.level;
    time.textContent = clock(e.at);
    kind.textContent = e.kind;
    span.textContent = text;
    li.append(time, kind, span);
    log.prepend(li);
  }
  while (log.children.length > 200) log.lastElementChild.remove();
}
