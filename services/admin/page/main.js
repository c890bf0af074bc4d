// Requests data from the server once a second, while the page is visible.

const every = 1000, patience = 5000, mostWait = 15000;
let timer = 0, failures = 0, heard = 0, paused = false, asking = /** @type {AbortController|null} */ (null);
let notice = { text: "", until: 0 }; // the result of a button
let secret = "", sort = "unsent", open = "", found = "";

/** An answer that says no. */
class Refused extends Error {
  /** @param {number} status @param {string} text */
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

/** @param {string} path @param {RequestInit} [init] */
async function ask(path, init = {}) {
  const headers = secret ? { Authorization: "Bearer " + secret } : {};
  const answer = await fetch(path, { cache: "no-store", redirect: "error", signal: AbortSignal.timeout(patience), ...init, headers });
  const body = await answer.text();
  if (!answer.ok) throw new Refused(answer.status, said(body));
  return JSON.parse(body);
}

/** What a refusal says.
 * @param {string} body */
function said(body) {
  try {
    return String(JSON.parse(body).error).slice(0, 300);
  } catch {
    return body.trim().slice(0, 300);
  }
}

/** One round: what is live, and what somebody has asked to see. */
async function round() {
  clearTimeout(timer);
  asking?.abort();
  const mine = (asking = new AbortController());
  const signal = AbortSignal.any([mine.signal, AbortSignal.timeout(patience)]);
  const began = performance.now();
  try {
    const v = await ask(`live?since=${shown.seq}&events=${shown.events}&sort=${sort}&limit=12&q=${encodeURIComponent(found)}&open=${open}`, { signal });
    if (mine !== asking) return;
    failures = 0;
    heard = Date.now();
    if (shown.started && shown.started !== v.started) { // another process: all of its history is new
      forget(v.started);
      return later(0);
    }
    $("token").hidden = true;
    show(v);
    showSessions(v);
    showOne(v);
    state();
    later(Math.max(every - (performance.now() - began), every / 4));
  } catch (e) {
    if (mine !== asking) return;
    if (e instanceof Refused && e.status === 401) return askToken();
    failures++;
    const wait = Math.min(mostWait, every * 2 ** Math.min(failures - 1, 4)) * (0.8 + Math.random() / 5);
    state(e, wait);
    later(wait);
  }
}

/** @param {number} ms */
function later(ms) {
  clearTimeout(timer);
  if (!paused && document.visibilityState === "visible") timer = setTimeout(round, ms);
}

/** Says whether what is shown is of now.
 * @param {any} [e] @param {number} [wait] in ms */
function state(e, wait) {
  const away = $("away"), was = heard ? `What is shown is of ${clock(heard)}.` : "";
  document.body.classList.toggle("stale", failures > 0 || paused);
  if (failures) {
    const why = e instanceof Refused ? `The server answers ${e.status}: ${e.message}.` : e?.name === "TimeoutError" ? "The server does not answer." : "The server can't be reached.";
    setText(away, `${why} ${was} Trying again in ${duration(Math.round((wait || 0) / 1000) * 1000 || 1000)}.`);
  }
  const told = !failures && Date.now() < notice.until;
  if (told) setText(away, notice.text);
  away.hidden = !failures && !told;
  setText($("told"), told ? notice.text : "");
  setText($("link"), failures ? "away" : paused ? `paused at ${clock(heard)}` : `live, ${clock(heard)}`);
}

function askToken() {
  secret = "";
  $("token").hidden = false;
  $("away").hidden = true;
  setText($("link"), "a token is needed");
  $("secret").focus();
}

/** @param {any} v */
function showSessions(v) {
  const buttons = children($("sorts"), v.sorts.length, () => {
    const b = make("button");
    b.type = "button";
    return b;
  });
  v.sorts.forEach((/** @type {string} */ name, /** @type {number} */ i) => {
    const b = buttons[i];
    setText(b, name);
    b.dataset.sort = name;
    setAttr(b, "aria-pressed", String(name === sort));
  });
  sessions.show(v.sessions);
  setText($("total"), found ? `${number(v.found)} with “${found}”` : `${number(v.total)}`);
}

/** @param {any} v */
function showOne(v) {
  if (!open) return;
  const one = v.one;
  $("gone").hidden = !!one;
  $("kicks").hidden = !v.write || !one;
  if (!one) return;
  const { events, state, ...rest } = one;
  facts($("facts"), Object.entries({ ...rest, ...state }).map(([k, x]) => [k.replaceAll("_", " "), fact(k, x)]));
  const list = Array.isArray(events) ? events.slice(-100) : [];
  $("last").hidden = $("h-last").hidden = !list.length;
  const all = children($("last"), list.length, () => make("li"));
  list.forEach((e, i) => setText(all[i], typeof e === "string" ? e : JSON.stringify(e)));
}

/** @param {string} name @param {any} x */
function fact(name, x) {
  if (/^bytes_|^(unsent|pending|partial)$/.test(name)) return size(x);
  if (/_seconds$/.test(name)) return duration(1000 * x);
  if (Array.isArray(x)) return x.join(", ") || "none";
  return x !== null && typeof x === "object" ? JSON.stringify(x) : String(x);
}

/** @param {string} id INDEX.ROUND */
function openOne(id) {
  open = id;
  setText($("h-one"), "Session " + id);
  $("facts").replaceChildren();
  $("last").hidden = $("h-last").hidden = $("gone").hidden = $("kicks").hidden = true;
  $("one").showModal();
  round();
}

/** Has a button do what can't be undone when it is pressed twice within four seconds. What
 * it returns is called to press it, and to forget that it was pressed.
 * @param {HTMLButtonElement} button @param {string} sure @param {() => Promise<any>} act */
function twice(button, sure, act) {
  const plain = button.textContent || "";
  let timer = 0;
  const calm = () => {
    clearTimeout(timer);
    timer = 0;
    setText(button, plain);
    button.classList.remove("sure");
  };
  const press = async () => {
    if (!timer) {
      setText(button, sure);
      button.classList.add("sure");
      timer = setTimeout(calm, 4000);
      return;
    }
    calm();
    try {
      await act();
    } catch (e) {
      notice = { text: `${plain}: ${/** @type {any} */ (e).message}`, until: Date.now() + 10_000 };
      state();
    }
    round();
  };
  return { press, calm };
}

$("sorts").addEventListener("click", (/** @type {Event} */ e) => {
  const to = /** @type {HTMLElement} */ (e.target).dataset.sort;
  if (!to) return;
  sort = to;
  for (const b of $("sorts").children) setAttr(b, "aria-pressed", String(b.dataset.sort === sort));
  round();
});
for (const table of ["sessions", "cost-sessions"])
  $(table).addEventListener("click", (/** @type {Event} */ e) => {
    const id = /** @type {HTMLElement} */ (e.target).dataset.open;
    if (id) openOne(id);
  });
$("search").addEventListener("submit", (/** @type {Event} */ e) => e.preventDefault());
$("q").addEventListener("input", () => {
  found = $("q").value.trim();
  later(300);
});
$("one").addEventListener("close", () => {
  open = "";
  kick.calm();
});
$("close").addEventListener("click", () => $("one").close());

const kick = twice($("kick"), "Really kick?", () => ask(`sessions/${open}/kick?reason=${encodeURIComponent($("why").value)}`, { method: "POST" }));
$("kicks").addEventListener("submit", (/** @type {Event} */ e) => {
  e.preventDefault();
  kick.press();
});
$("drain").addEventListener("click", twice($("drain"), "Really drain?", () => ask("drain", { method: "POST" })).press);
$("undrain").addEventListener("click", twice($("undrain"), "Really undrain?", () => ask("undrain", { method: "POST" })).press);

function togglePause() {
  paused = !paused;
  $("pause").setAttribute("aria-pressed", String(paused));
  if (paused) {
    clearTimeout(timer);
    asking?.abort();
    asking = null;
    state();
  } else round();
}
$("pause").addEventListener("click", togglePause);
$("token").addEventListener("submit", (/** @type {Event} */ e) => {
  e.preventDefault();
  secret = $("secret").value.trim();
  $("secret").value = "";
  round();
});
document.addEventListener("keydown", (e) => {
  if (e.ctrlKey || e.metaKey || e.altKey || /^(INPUT|TEXTAREA)$/.test(/** @type {Element} */ (e.target).tagName)) return;
  if (e.key === "/") {
    e.preventDefault();
    $("q").focus();
  } else if (e.key === "p") togglePause();
});
document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "visible") {
    if (!paused) round();
  } else {
    clearTimeout(timer);
    asking?.abort();
    asking = null;
  }
});
round();
