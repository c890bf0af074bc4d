// Changes the document. Everything from the server is inserted as text. Elements are reused:
// each second their contents are updated, and only missing ones are created.

/** @param {string} id @returns {any} */
const $ = (id) => document.getElementById(id);

/** @param {Node} node @param {string} s */
function setText(node, s) {
  if (node.textContent !== s) node.textContent = s;
}

/** @param {Element} e @param {string} s */
function setClass(e, s) {
  if (e.getAttribute("class") !== s) e.setAttribute("class", s);
}

/** @param {Element} e @param {string} name @param {string} s */
function setAttr(e, name, s) {
  if (e.getAttribute(name) !== s) e.setAttribute(name, s);
}

/** @param {string} tag @param {string} [cls] @returns {any} */
function make(tag, cls) {
  const e = document.createElement(tag);
  if (cls) e.className = cls;
  return e;
}

/** @param {string} tag @param {Record<string, string>} attrs */
function svg(tag, attrs) {
  const e = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const k in attrs) e.setAttribute(k, attrs[k]);
  return e;
}

/** Gives parent n children, made by one(); returns them.
 * @param {Element} parent @param {number} n @param {() => Element} one */
function children(parent, n, one) {
  while (parent.children.length > n) parent.lastElementChild.remove();
  while (parent.children.length < n) parent.append(one());
  return parent.children;
}

/** A table of rows with the columns that it is made with.
 *
 * A column has a head, and of a row: text, perhaps a class, a bar (0 to 1) in place of the
 * text, or an id that is a button to open. */
class Table {
  /** @param {Element} table @param {{head: string, text?: (row: any) => string, cls?: (row: any) => string, bar?: (row: any) => number, open?: (row: any) => string, kind?: string}[]} columns @param {string} none */
  constructor(table, columns, none) {
    this.columns = columns;
    this.none = none;
    const tr = make("tr");
    for (const c of columns) {
      const th = make("th", c.kind);
      th.scope = "col";
      th.textContent = c.head;
      tr.append(th);
    }
    const head = make("thead");
    head.append(tr);
    this.body = make("tbody");
    table.append(head, this.body);
  }

  /** @param {any[]} rows */
  show(rows) {
    if (!rows.length) {
      this.body.replaceChildren();
      const td = make("td", "none");
      td.colSpan = this.columns.length;
      td.textContent = this.none;
      this.body.insertRow().append(td);
      this.empty = true;
      return;
    }
    if (this.empty) this.body.replaceChildren();
    this.empty = false;
    const trs = children(this.body, rows.length, () => this.row());
    rows.forEach((row, i) => this.fill(trs[i].children, row));
  }

  row() {
    const tr = make("tr");
    for (const c of this.columns) {
      const td = make("td");
      if (c.bar) {
        const s = svg("svg", { viewBox: "0 0 100 10", preserveAspectRatio: "none", role: "img" });
        s.append(svg("rect", { height: "10", width: "0" }));
        td.append(s);
      } else if (c.open) {
        const b = make("button", "id");
        b.type = "button";
        td.append(b);
      }
      tr.append(td);
    }
    return tr;
  }

  /** @param {HTMLCollection} tds @param {any} row */
  fill(tds, row) {
    this.columns.forEach((c, i) => {
      const td = tds[i];
      setClass(td, [c.kind, c.cls && c.cls(row)].filter(Boolean).join(" "));
      if (c.bar) {
        const part = Math.max(0, Math.min(1, c.bar(row) || 0));
        setAttr(td.firstElementChild.firstElementChild, "width", (part * 100).toFixed(1));
        setAttr(td.firstElementChild, "aria-label", Math.round(part * 100) + " %");
      } else if (c.open) {
        setText(td.firstElementChild, c.text(row));
        td.firstElementChild.dataset.open = c.open(row);
        td.firstElementChild.disabled = !c.open(row);
      } else {
        setText(td, c.text(row));
        if (c.kind?.startsWith("name")) setAttr(td, "title", td.textContent);
      }
    });
  }
}

/** One or two lines over the last two minutes, with the newest number. */
class Spark {
  /** @param {Element} parent @param {{name: string, keys: string[], form: (n: number) => string, bad?: boolean, least?: number, what?: string}} spec */
  constructor(parent, spec) {
    this.spec = spec;
    this.figure = make("figure", "spark");
    const caption = make("figcaption");
    this.now = make("span", "now");
    const name = make("span", "name");
    name.textContent = spec.name;
    name.title = spec.what || spec.name;
    caption.append(name, this.now);
    this.svg = svg("svg", { viewBox: "0 0 119 40", preserveAspectRatio: "none", role: "img" });
    this.paths = spec.keys.map((_, i) => svg("path", i ? { class: "second" } : {}));
    this.svg.append(...[...this.paths].reverse());
    this.top = make("span", "top");
    this.figure.append(caption, this.svg, this.top);
    parent.append(this.figure);
  }

  /** @param {any[]} points at most 120, the oldest first */
  show(points) {
    const { spec } = this;
    let top = spec.least || 0;
    for (const p of points) for (const k of spec.keys) top = Math.max(top, p[k]);
    const x = 120 - points.length;
    spec.keys.forEach((k, i) => {
      let d = "";
      for (let j = 0; j < points.length; j++) d += `${j ? "L" : "M"}${x + j} ${(39 - (top ? (points[j][k] / top) * 37 : 0)).toFixed(1)}`;
      setAttr(this.paths[i], "d", d);
    });
    const last = points[points.length - 1];
    const now = last ? spec.keys.map((k) => spec.form(last[k])).reverse().join(" / ") : "–";
    setText(this.now, now);
    setText(this.top, top ? "most " + spec.form(top) : "\u00a0");
    setAttr(this.svg, "aria-label", `${spec.name}: ${now}; most in two minutes ${spec.form(top)}`);
    setClass(this.figure, spec.bad && last && last[spec.keys[0]] > 0 ? "spark trouble" : "spark");
  }
}

/** Fills a list of names and values.
 * @param {Element} dl @param {[string, string, string?, string?][]} rows name, value, rate, class */
function facts(dl, rows) {
  const rates = dl.id !== "facts", step = rates ? 3 : 2;
  let i = 0;
  const all = children(dl, rows.length * step, () => make(i++ % step ? "dd" : "dt"));
  rows.forEach(([name, value, rate, cls], j) => {
    setText(all[j * step], name);
    setText(all[j * step + 1], value);
    setClass(all[j * step + 1], cls || "");
    if (!rates) return;
    setText(all[j * step + 2], rate || "");
    setClass(all[j * step + 2], "rate");
  });
}
