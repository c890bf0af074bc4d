// The chat without its looks: rooms, what is still to be sent, and the connection below.
import { connect, ServerError, type Client, type Options } from "millrace-client";
import { Room } from "./room.js";
import { CONFLICT, final, LINE, services, WHO, type Line, type Past, type RoomInfo, type Who } from "./wire.js";

/** A line that the server has not been seen to have. It is sent until it has, and said once. */
export interface Pending {
  room: string;
  text: string;
  key: string;
  /** The last line that was here when it was first sent; log "": it never was. */
  log: string;
  seen: number;
  /** Its number, once the server has answered; 0 before. It stays here until it is seen among the lines. */
  seq: number;
  /** Why it is sent no more. */
  why?: string;
}

export interface Me { name: string; id: string }

/** What the chat tells the page. */
export interface View {
  state(open: boolean, why: string): void;
  lines(room: Room, lines: Line[], gap: number, other: boolean): void;
  pending(all: readonly Pending[]): void;
  who(room: Room): void;
  rooms(all: RoomInfo[]): void;
  nameTaken(why: string): void;
  /** What can't go on by itself. */
  trouble(why: string): void;
}

/** The most lines that may wait to be sent. */
export const MAX_PENDING = 200;

const RETRY = 1000;

export class Chat {
  readonly #client: Client;
  readonly #wire: ReturnType<typeof services>;
  readonly #rooms = new Map<string, Room>();
  #room: Room;
  #turn = 0; // of joins: an answer to an earlier one counts no more
  #pumping = false;
  #closed = false;

  constructor(url: string, public me: Me, room: string, readonly pending: Pending[], readonly view: View, options: Options = {}) {
    this.#room = this.#at(room);
    this.#client = connect(url, {
      heartbeat: { interval: 4000, timeout: 4000 }, connectTimeout: 4000, retry: { max: 3000 }, ...options,
    });
    this.#wire = services(this.#client);
    this.#client.subscribe<Line>(LINE, (l) => this.#line(l));
    this.#client.subscribe<Who>(WHO, (w) => {
      const r = this.#rooms.get(w.room);
      if (r) this.#who(r, w.names, w.count);
    });
    this.#client.onState(({ state, resumed, reason }) => {
      view.state(state === "open", reason);
      if (state !== "open") return;
      if (resumed && this.#room.joined) {
        void this.#sync(this.#room); // what was asked may have timed out meanwhile
        return this.#go();
      }
      if (!resumed) for (const r of this.#rooms.values()) r.joined = false;
      void this.#join();
    });
  }

  get room(): Room { return this.#room; }

  close(): void {
    this.#closed = true;
    this.#client.close();
  }

  /** Goes to another room. */
  enter(name: string): void {
    const before = this.#room;
    if (before.name === name) return;
    this.#room = this.#at(name);
    if (before.joined) this.#wire.leave({ room: before.name }).catch(() => {});
    before.joined = false;
    void this.#join();
  }

  rename(name: string): void {
    this.me = { ...this.me, name };
    void this.#join();
  }

  /** False: too much waits already. */
  say(text: string): boolean {
    if (this.pending.length >= MAX_PENDING) return false;
    this.pending.push({ room: this.#room.name, text, key: random(), log: "", seen: 0, seq: 0 });
    this.#changed();
    this.#go();
    return true;
  }

  /** What to do with a line that is sent no more: send it as a new one, or forget it. */
  settle(key: string, again: boolean): void {
    const i = this.pending.findIndex((p) => p.key === key && p.why !== undefined);
    if (i < 0) return;
    const [p] = this.pending.splice(i, 1);
    if (again) this.pending.push({ room: p!.room, text: p!.text, key: random(), log: "", seen: 0, seq: 0 });
    this.#changed();
    this.#go();
  }

  async look(): Promise<void> {
    if (this.#client.state !== "open") return;
    try {
      this.view.rooms((await this.#wire.rooms({})).rooms);
    } catch {
      // the next look tells
    }
  }

  #at(name: string): Room {
    let r = this.#rooms.get(name);
    if (!r) this.#rooms.set(name, (r = new Room(name)));
    return r;
  }

  #changed(): void { this.view.pending(this.pending); }

  async #join(): Promise<void> {
    const turn = ++this.#turn;
    const r = this.#room;
    if (!this.me.name) return;
    r.joined = false;
    try {
      const p = await this.#wire.join({ room: r.name, ...this.me, log: r.log, after: r.last });
      if (turn !== this.#turn) return;
      r.joined = true;
      this.#take(r, p);
      this.#who(r, p.who, p.count);
      void this.look();
      this.#go();
    } catch (e) {
      if (turn !== this.#turn || this.#closed) return;
      if (!(e instanceof ServerError)) return this.#later(() => turn === this.#turn && !r.joined && void this.#join());
      if (e.code === CONFLICT) return this.view.nameTaken(e.message);
      this.view.trouble(e.message);
      if (!final.has(e.code)) this.#later(() => turn === this.#turn && void this.#join());
    }
  }

  // A connection that is lost is told by its state: only what goes on, goes on here.
  #later(fn: () => void): void {
    setTimeout(() => {
      if (!this.#closed && this.#client.state === "open") fn();
    }, RETRY);
  }

  #who(r: Room, names: string[], count: number): void {
    r.names = names;
    r.count = count;
    this.view.who(r);
  }

  #line(l: Line): void {
    const r = this.#rooms.get(l.room);
    if (!r) return;
    if (r.push(l)) this.#show(r, [l], 0, false);
    else void this.#sync(r);
  }

  #take(r: Room, p: Past): void {
    const { other, gap, lines } = r.take(p);
    if (other) {
      // What the lost history had is not known; in this one it has not been said.
      for (const x of this.pending) {
        if (x.room !== r.name) continue;
        x.log = "";
        x.seq = 0;
      }
    }
    this.#show(r, lines, gap, other);
    void this.#sync(r);
  }

  #show(r: Room, lines: Line[], gap: number, other: boolean): void {
    const keys = new Set(lines.map((l) => l.key));
    this.#forget((p) => keys.has(p.key) || (p.room === r.name && p.seq > 0 && p.seq <= r.last));
    if (lines.length || gap || other) this.view.lines(r, lines, gap, other);
  }

  #forget(which: (p: Pending) => boolean): void {
    const before = this.pending.length;
    for (let i = before; i-- > 0;) if (which(this.pending[i]!)) this.pending.splice(i, 1);
    if (this.pending.length !== before) this.#changed();
  }

  // Asks for what is missing until nothing is.
  async #sync(r: Room): Promise<void> {
    if (r.syncing || !r.joined) return;
    r.syncing = true;
    try {
      while (r.joined && r.last < r.top) {
        const before = r.last;
        const p = await this.#wire.history({ room: r.name, log: r.log, after: r.last });
        const { other, gap, lines } = r.take(p);
        this.#show(r, lines, gap, other);
        if (r.last === before && !other) break;
      }
    } catch {
      this.#later(() => void this.#sync(r));
    } finally {
      r.syncing = false;
    }
  }

  #go(): void { void this.#pump(); }

  // Sends what is pending, one after the other, so that the order is that of the typing.
  async #pump(): Promise<void> {
    if (this.#pumping) return;
    this.#pumping = true;
    let p: Pending | undefined;
    try {
      while (this.#room.joined && this.#client.state === "open") {
        p = this.pending.find((x) => x.why === undefined && !x.seq);
        if (!p) break;
        await this.#stamp(p);
        const { room, text, key, log, seen } = p;
        const { seq } = await this.#wire.say({ room, text, key, log, seen, ...this.me });
        const r = this.#rooms.get(room);
        p.seq = seq;
        if (r?.joined) r.top = Math.max(r.top, seq);
        // It goes when it is seen, which of a room that nobody looks at is never.
        this.#forget((x) => x === p && (!r?.joined || seq <= r.last));
      }
    } catch (e) {
      if (p && e instanceof ServerError && final.has(e.code)) {
        p.why = e.message;
        this.#changed();
      }
      this.#later(() => this.#go());
    } finally {
      this.#pumping = false;
    }
  }

  // Notes what is known before a line is sent for the first time.
  async #stamp(p: Pending): Promise<void> {
    if (p.log) return;
    const r = this.#rooms.get(p.room);
    const { log, last } = r?.log ? r : await this.#wire.history({ room: p.room, log: "", after: Number.MAX_SAFE_INTEGER });
    p.log = log;
    p.seen = last;
    this.#changed();
  }
}

/** 96 bits, as text. */
export function random(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(12)), (b) => b.toString(16).padStart(2, "0")).join("");
}
