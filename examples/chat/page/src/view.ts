// The looks. What people have written goes in as text, never as markup.
import type { Pending, View } from "./chat.js";
import { KEEP, type Room } from "./room.js";
import type { Line, RoomInfo } from "./wire.js";

export const $ = <T extends HTMLElement>(id: string) => document.getElementById(id) as T;

function el(tag: string, className = "", text = ""): HTMLElement {
  const e = document.createElement(tag);
  if (className) e.className = className;
  if (text) e.textContent = text;
  return e;
}

const time = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const day = new Intl.DateTimeFormat(undefined, { dateStyle: "full" });

/** One of 12 hues for a name. */
function hue(name: string): string {
  let h = 7;
  for (const c of name) h = (h * 31 + c.codePointAt(0)!) >>> 0;
  return "hue" + (h % 12);
}

export class Page implements View {
  readonly #lines = $("lines");
  readonly #scroll = $("scroll");
  #room: Room | undefined;
  #end: Line | undefined; // the last line shown
  #unread = 0;

  constructor(readonly settle: (key: string, again: boolean) => void, readonly enter: (room: string) => void, readonly ask: (why: string) => void, readonly keep: (all: readonly Pending[]) => void) {
    $("down").onclick = () => this.#down();
    this.#scroll.onscroll = () => this.#atEnd() && ($("down").hidden = true);
    document.addEventListener("visibilitychange", () => this.#title(0));
  }

  /** Shows another room, from what is known of it. */
  show(room: Room): void {
    this.#room = room;
    this.#end = undefined;
    this.#lines.replaceChildren();
    $("title").textContent = room.name;
    this.#title(0);
    this.lines(room, room.lines, 0, false);
    this.who(room);
    this.#down();
  }

  state(open: boolean, why: string): void {
    const o = $("state");
    o.className = open ? "open" : "away";
    o.textContent = open ? "" : "connecting…";
    o.title = why;
  }

  trouble(why: string): void {
    const o = $("state");
    o.className = "away";
    o.textContent = why;
  }

  nameTaken(why: string): void { this.ask(why); }

  lines(room: Room, lines: Line[], gap: number, other: boolean): void {
    if (room !== this.#room) return;
    const follow = this.#atEnd();
    if (other) {
      this.#lines.append(el("li", "note", "The server has lost what was said before."));
      this.#end = undefined;
    }
    if (gap && this.#lines.childElementCount) this.#lines.append(el("li", "note", gap === 1 ? "A line is missing here." : gap + " lines are missing here."));
    for (const l of lines) this.#line(l);
    while (this.#lines.childElementCount > KEEP) this.#lines.firstElementChild!.remove();
    if (follow) this.#down();
    else if (lines.length) $("down").hidden = false;
    if (document.hidden) this.#title(this.#unread + lines.length);
  }

  #line(l: Line): void {
    const at = new Date(l.at);
    const before = this.#end;
    if (!before || new Date(before.at).toDateString() !== at.toDateString()) this.#lines.append(el("li", "note day", day.format(at)));
    const li = el("li", "line");
    if (before?.name === l.name && l.at - before.at < 300_000) li.classList.add("more");
    li.dataset["seq"] = String(l.seq);
    const head = el("div", "head");
    const t = el("time", "", time.format(at)) as HTMLTimeElement;
    t.dateTime = at.toISOString();
    head.append(el("bdi", "name " + hue(l.name), l.name), t);
    li.append(head, el("p", "text", l.text));
    this.#lines.append(li);
    this.#end = l;
  }

  pending(all: readonly Pending[]): void {
    this.keep(all);
    const follow = this.#atEnd();
    const here = all.filter((p) => p.room === this.#room?.name || p.why !== undefined);
    $("pending").replaceChildren(...here.map((p) => {
      const li = el("li", p.why === undefined ? "line waits" : "line failed");
      li.append(el("p", "text", p.text));
      if (p.why !== undefined) {
        li.append(el("p", "why", (p.room === this.#room?.name ? "" : p.room + ": ") + p.why));
        for (const [label, again] of [["Send again", true], ["Forget", false]] as const) {
          const b = el("button", "", label);
          b.onclick = () => this.settle(p.key, again);
          li.append(b);
        }
      }
      return li;
    }));
    if (follow) this.#down();
  }

  who(room: Room): void {
    if (room !== this.#room) return;
    $("count").textContent = room.count ? String(room.count) : "";
    $("who").replaceChildren(...room.names.map((n) => {
      const li = el("li");
      li.append(el("bdi", "name " + hue(n), n));
      return li;
    }), ...(room.count > room.names.length ? [el("li", "note", `and ${room.count - room.names.length} more`)] : []));
  }

  rooms(all: RoomInfo[]): void {
    const here = this.#room?.name ?? "";
    const list = all.some((r) => r.name === here) ? all : [{ name: here, here: 0, last: 0 }, ...all];
    $("rooms").replaceChildren(...list.map((r) => {
      const li = el("li");
      const b = el("button");
      b.append(el("bdi", "", r.name), el("span", "here", r.here ? String(r.here) : ""));
      if (r.name === here) b.setAttribute("aria-current", "true");
      b.onclick = () => this.enter(r.name);
      li.append(b);
      return li;
    }));
  }

  #atEnd(): boolean {
    const s = this.#scroll;
    return s.scrollHeight - s.scrollTop - s.clientHeight < 60;
  }

  #down(): void {
    this.#scroll.scrollTop = this.#scroll.scrollHeight;
    $("down").hidden = true;
  }

  #title(unread: number): void {
    this.#unread = document.hidden ? unread : 0;
    document.title = (this.#unread ? `(${this.#unread}) ` : "") + (this.#room?.name ?? "Chat");
  }
}
