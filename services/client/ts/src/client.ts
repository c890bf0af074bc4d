import { Codec, Decoder, type Packet } from "./codec.js";
import { withDefaults, type Options } from "./options.js";
import { Calls, Ring, type Call } from "./session.js";
import * as sys from "./system.js";
import { dialWebSocket, type Dial, type Link } from "./transport.js";

export type { Options, Serial } from "./options.js";

/** 0x00040003, "4/3" or [4, 3]. */
export type Handle = number | string | readonly [number, number];
export type State = "connecting" | "open" | "reconnecting" | "closed";
export interface StateChange {
  state: State;
  /** Of open: the session before it goes on. If not, groups, timers and locks are gone. */
  resumed: boolean;
  /** Why the connection or an attempt has ended; "" if it has not. */
  reason: string;
}
export interface CallOptions {
  timeout?: number;
  signal?: AbortSignal;
}

/** The connection ended with the session; the request may have been served. */
export class LostError extends Error { override name = "LostError"; }
/** No answer in time; the request may have been served. Its answer is thrown away. */
export class TimeoutError extends Error { override name = "TimeoutError"; }
/** A queue is full; nothing was sent. */
export class BusyError extends Error { override name = "BusyError"; }
export class ClosedError extends Error { override name = "ClosedError"; }

interface Out {
  frame: Uint8Array;
  handle: number;
  call?: Call;
}

/** Throws a TypeError for what is no handle, and for Main 0, which is the client's own. */
export function handleOf(h: Handle): number {
  const [main, sub] = typeof h === "number" ? [h / 65536 | 0, h & 65535] : typeof h === "string" ? h.split("/").map(Number) : h;
  const n = typeof h === "number" ? h : main! * 65536 + sub!;
  if (n !== n >>> 0 || main! > 65535 || sub! > 65535 || n < 65536) throw new TypeError(`millrace: handle ${h}: write it as MAIN/SUB, Main from 1`);
  return n;
}

/** Begins to connect and returns at once. A TypeError tells of a URL that can't be. */
export function connect(url: string | string[], options: Options = {}): Client {
  return new Client([url].flat(), options);
}

const now = () => performance.now();

export class Client {
  readonly #o;
  readonly #codec: Codec;
  readonly #dials: Record<string, Dial>;
  readonly #urls: URL[];
  #next = 0; // of urls
  #told: URL | undefined; // by GOAWAY
  #at: URL | undefined; // of the connection
  #state: StateChange = { state: "connecting", resumed: false, reason: "" };

  #gen = 0; // of connections: a late event of an earlier one is nobody's
  #link: Link | undefined;
  #phase: "away" | "dial" | "hello" | "open" = "away";
  #held: Packet[] = []; // came in front of the answer to HELLO
  #resuming = false; // this connection's frames are counted
  #leaving = false; // GOAWAY
  #ordered = false; // the wait was ordered by the server: nothing cuts it short
  #full = false; // the server has no room for us
  #opened = 0;
  #attempt = 0;

  #ring = new Ring();
  #calls = new Calls();
  #queue = new Set<Out>();
  #queued = 0; // bytes
  #seq = 0;
  #called = new Set<number>();
  #sent = new Set<number>();
  #flushing = false;

  readonly #listeners = new Map<number, Set<(p: Packet) => void>>();
  readonly #onState = new Set<(c: StateChange) => void>();
  readonly #onError = new Set<(e: Error) => void>();
  readonly #onDrain = new Set<() => void>();

  #timers: Record<"retry" | "connect" | "beat" | "ack" | "room", ReturnType<typeof setTimeout> | undefined> =
    { retry: undefined, connect: undefined, beat: undefined, ack: undefined, room: undefined };
  #heard = 0; // time of the last byte
  #pinged = 0; // time of a PING that waits for a byte, or 0
  #ackSince = 0;

  constructor(urls: string[], options: Options) {
    this.#o = withDefaults(options);
    this.#codec = new Codec(options.layout, options.maxFrame);
    const ws = dialWebSocket(options.WebSocket);
    this.#dials = { "ws:": ws, "wss:": ws, ...options.dial };
    this.#urls = urls.map((u) => new URL(u));
    const bad = this.#urls.find((u) => !this.#dials[u.protocol]);
    if (bad || !urls.length) throw new TypeError(`millrace: address ${bad ?? "missing"}: use ${Object.keys(this.#dials).join("// ")}//`);
    this.#page("addEventListener");
    this.#dial();
  }

  get state(): State { return this.#state.state; }
  /** False: what is sent waits here for the network or the server. */
  get writable(): boolean { return this.#queue.size === 0; }

  /** fn hears each change of state, and an attempt that failed. Returns what ends that. */
  onState(fn: (c: StateChange) => void): () => void { return subscribe(this.#onState, fn); }
  /** fn hears ERRORs that answer no call, and protocol errors. */
  onError(fn: (e: Error) => void): () => void { return subscribe(this.#onError, fn); }

  /** When it is open; rejects with a ClosedError when it is closed instead. */
  ready(): Promise<void> {
    return new Promise((resolve, reject) => {
      const look = () => {
        if (this.state === "open") resolve();
        else if (this.state === "closed") reject(new ClosedError("millrace: closed"));
        else return false;
        return true;
      };
      if (!look()) {
        const off = this.onState(() => look() && off());
      }
    });
  }

  /** When nothing waits here to be written. */
  async drained(): Promise<void> {
    if (!this.writable) await new Promise<void>((r) => this.#onDrain.add(r));
  }

  /**
   * fn hears each frame of this handle that the server sends by itself. A handle is called or
   * listened to, not both: an answer and a push could not be told apart. Returns the end of it.
   */
  on(handle: Handle, fn: (body: Uint8Array, p: Packet) => void): () => void {
    const h = handleOf(handle);
    if (this.#called.has(h) && !this.#codec.seq) throw new TypeError(`millrace: handle ${name(h)} is called; what it pushes can't be told from answers`);
    let set = this.#listeners.get(h);
    if (!set) this.#listeners.set(h, (set = new Set()));
    const each = (p: Packet) => fn(p.body, p);
    set.add(each);
    return () => {
      set.delete(each);
      if (!set.size && this.#listeners.get(h) === set) this.#listeners.delete(h);
    };
  }

  /** on, with values. A body that can't be read goes to onError. */
  subscribe<T>(handle: Handle, fn: (value: T) => void): () => void {
    return this.on(handle, (body) => {
      let v: T;
      try {
        v = this.#o.serial.decode(body) as T;
      } catch (e) {
        return emit(this.#onError, e as Error);
      }
      fn(v);
    });
  }

  /** call, with values. */
  method<Req, Res>(handle: Handle): (req: Req, options?: CallOptions) => Promise<Res> {
    return async (req, options) => this.#o.serial.decode(await this.call(handle, this.#o.serial.encode(req), options)) as Res;
  }

  /**
   * Sends a frame and expects no answer. False: it waits, and drained() tells until when.
   * Throws BusyError when the queue is full, ClosedError, RangeError.
   */
  send(handle: Handle, body: Uint8Array | string = ""): boolean {
    const h = handleOf(handle);
    if (this.#called.has(h) && !this.#codec.seq) throw new TypeError(`millrace: handle ${name(h)} is called; an answer to send would be taken for a call's`);
    this.#enqueue({ handle: h, frame: this.#codec.encode(h, bytes(body)) });
    this.#sent.add(h);
    return this.writable;
  }

  /**
   * Sends a request and resolves with its answer's body. Rejects with ServerError,
   * TimeoutError, LostError, BusyError, ClosedError, RangeError, or the signal's reason.
   */
  call(handle: Handle, body: Uint8Array | string = "", options: CallOptions = {}): Promise<Uint8Array> {
    return new Promise((resolve, reject) => {
      const h = handleOf(handle);
      const { signal, timeout = this.#o.timeout } = options;
      signal?.throwIfAborted();
      const seq = this.#codec.seq;
      if (!seq && (this.#listeners.has(h) || this.#sent.has(h))) throw new TypeError(`millrace: handle ${name(h)} is listened to or sent on; its answers can't be told from pushes`);
      if (this.#calls.size >= this.#o.maxCalls) throw new BusyError(`millrace: ${this.#calls.size} calls are under way`);
      let timer: ReturnType<typeof setTimeout> | undefined;
      const give = (err: unknown) => {
        if (this.#queue.delete(out)) this.#queued -= out.frame.length;
        call.finish(undefined, err);
        this.#room();
      };
      const abort = () => give(signal!.reason);
      const call: Call = {
        handle: h, seq: seq ? (this.#seq = (this.#seq % 0xffffffff) + 1) : 0, over: false,
        finish: (b, err) => {
          if (call.over) return;
          call.over = true;
          clearTimeout(timer);
          signal?.removeEventListener("abort", abort);
          if (b) resolve(b);
          else reject(err);
        },
      };
      const out: Out = { handle: h, call, frame: this.#codec.encode(h, bytes(body), call.seq) };
      this.#enqueue(out);
      this.#called.add(h);
      if (timeout) timer = setTimeout(() => give(new TimeoutError(`millrace: no answer on ${name(h)} within ${timeout} ms`)), timeout);
      signal?.addEventListener("abort", abort);
    });
  }

  /** Ends the session and the connection. Calls under way reject with ClosedError. */
  close(reason = ""): void {
    if (this.state === "closed") return;
    if (this.#resuming && this.#phase === "open") this.#control(sys.BYE);
    this.#drop("close");
    clearTimeout(this.#timers.retry);
    this.#page("removeEventListener");
    const err = new ClosedError("millrace: closed" + (reason && ": " + reason));
    const queue = [...this.#queue];
    this.#queue.clear();
    this.#queued = 0;
    this.#become("closed", reason);
    for (const o of queue) o.call?.finish(undefined, err);
    this.#calls.fail(err);
    this.#room();
  }

  #page(how: "addEventListener" | "removeEventListener"): void {
    const g = globalThis as { [k in typeof how]?: Function } & { document?: { [k in typeof how]?: Function } };
    for (const e of ["online", "pageshow"]) g[how]?.(e, this.#wake);
    g.document?.[how]?.("visibilitychange", this.#wake);
  }

  // The page is seen again or the network is back: what was so may not be so any more.
  readonly #wake = (): void => {
    if (this.#phase === "open") this.#ping();
    else if (this.#timers.retry && !this.#ordered) this.#dial();
  };

  #become(state: State, reason = "", resumed = false): void {
    this.#state = { state, reason, resumed };
    emit(this.#onState, this.#state);
  }

  #enqueue(out: Out): void {
    if (this.state === "closed") throw new ClosedError("millrace: closed");
    if (this.#queued + out.frame.length > this.#o.maxQueue) throw new BusyError(`millrace: ${this.#queued} bytes wait to be sent`);
    this.#queue.add(out);
    this.#queued += out.frame.length;
    if (this.#flushing) return;
    this.#flushing = true; // what is sent in one turn of the program travels in one write
    queueMicrotask(() => {
      this.#flushing = false;
      this.#flush();
    });
  }

  #flush(): void {
    const link = this.#link;
    if (this.#phase !== "open" || this.#leaving || !link) return;
    let room = this.#o.highWater - link.buffered;
    const batch: Uint8Array[] = [];
    for (const out of this.#queue) {
      if (room <= 0 || (this.#resuming && this.#ring.bytes >= this.#o.resumeBytes)) break;
      this.#queue.delete(out);
      this.#queued -= out.frame.length;
      room -= out.frame.length;
      batch.push(out.frame);
      if (this.#resuming) this.#ring.push(out.frame);
      if (out.call) this.#calls.add(out.call.seq || out.handle, out.call);
    }
    if (batch.length) link.send(concat(batch));
    clearTimeout(this.#timers.room);
    if (this.#queue.size && room <= 0) this.#timers.room = setTimeout(() => this.#flush(), 20);
    this.#room();
  }

  #room(): void {
    if (!this.writable) return;
    const all = [...this.#onDrain];
    this.#onDrain.clear();
    for (const r of all) r();
  }

  #control(sub: number, body: Uint8Array = new Uint8Array(0)): void {
    this.#link?.send(this.#codec.encode(sub, body));
  }

  #dial(): void {
    clearTimeout(this.#timers.retry);
    this.#timers.retry = undefined;
    this.#ordered = this.#full = this.#leaving = this.#resuming = false;
    const gen = ++this.#gen;
    const live = () => gen === this.#gen;
    const url = (this.#at = this.#told ?? this.#urls[this.#next % this.#urls.length]!);
    const decoder = new Decoder(this.#codec);
    this.#phase = "dial";
    this.#held = [];
    this.#timers.connect = setTimeout(() => live() && this.#lost(0, "no answer in time"), this.#o.connectTimeout);
    try {
      this.#link = this.#dials[url.protocol]!(url, {
        open: () => {
          if (!live()) return;
          this.#heard = now();
          if (!this.#o.resume || !this.#o.systemFrames) return this.#plain();
          this.#phase = "hello";
          this.#control(sys.HELLO, sys.hello(this.#ring.tokens[0], this.#ring.received));
        },
        data: (b) => {
          if (!live()) return;
          this.#heard = now();
          this.#pinged = 0;
          try {
            for (const p of decoder.push(b)) {
              this.#packet(p);
              if (!live()) return;
            }
          } catch (e) {
            this.#broken(e as Error);
          }
          if (this.#queue.size && live()) this.#flush();
        },
        end: (code, why) => live() && this.#lost(code, why || (code ? "close code " + code : "the connection has ended")),
      });
    } catch (e) {
      this.#lost(0, String(e));
    }
  }

  // The stream means nothing any more: whatever comes next would be anybody's.
  #broken(e: Error): void {
    emit(this.#onError, e);
    this.#lost(0, e.message);
  }

  // Nobody hears of this connection again.
  #drop(how: "close" | "abort"): void {
    this.#gen++;
    for (const t of ["connect", "beat", "ack", "room"] as const) clearTimeout(this.#timers[t]);
    this.#timers.ack = undefined;
    this.#link?.[how]();
    this.#link = undefined;
    this.#phase = "away";
  }

  #lost(code: number, reason: string, how: "close" | "abort" = "abort"): void {
    const { base, max, lived, restart, attempts } = this.#o.retry;
    const opened = this.#phase === "open";
    if (opened && now() - this.#opened >= lived) this.#attempt = 0;
    if (!opened) {
      if (this.#told) this.#told = undefined;
      else this.#next++;
    } else if (!this.#told) this.#next++;
    this.#drop(how);
    if (!this.#ring.tokens.length) this.#calls.fail(new LostError("millrace: connection lost: " + reason));
    let wait = Math.random() * Math.min(max, base * 2 ** this.#attempt);
    this.#ordered = code === 1012 || code === 1013 || this.#full;
    if (code === 1012) wait = restart[0] + Math.random() * (restart[1] - restart[0]);
    else if (this.#ordered) wait = max * (1 + Math.random()) / 2;
    if (++this.#attempt > attempts) return this.close(reason);
    this.#timers.retry = setTimeout(() => this.#dial(), wait);
    this.#become(this.#state.state === "connecting" ? "connecting" : "reconnecting", reason);
  }

  // The server, or its user, wants no resume.
  #plain(): void {
    this.#fresh();
    this.#open(false);
  }

  // The session before is gone, and with it what it was asked.
  #fresh(): void {
    this.#ring = new Ring();
    this.#calls.fail(new LostError("millrace: the session was lost"));
  }

  #open(resumed: boolean): void {
    clearTimeout(this.#timers.connect);
    this.#phase = "open";
    this.#opened = now();
    this.#pinged = 0;
    if (this.#o.heartbeat) this.#beat(this.#o.heartbeat.interval);
    const held = this.#held;
    this.#held = [];
    this.#become("open", "", resumed);
    for (const p of held) if (this.#phase === "open") this.#packet(p);
    this.#flush();
  }

  #welcome(b: Uint8Array): void {
    const ring = this.#ring;
    const w = sys.readWelcome(b);
    if (!w || this.#phase !== "hello" || this.#held.length) return this.#broken(new Error("millrace: a WELCOME that can't be"));
    const tried = ring.tokens[0];
    if (tried && !w.resumed && ring.tokens.length > 1) {
      ring.tokens.shift(); // the server has not had what used the older one up
      this.#control(sys.BYE);
      this.#drop("close");
      return this.#dial();
    }
    this.#resuming = true;
    const resumed = !!tried && w.resumed;
    if (resumed) {
      if (w.received < ring.acked || !ring.ack(w.received)) {
        this.#control(sys.BYE);
        this.#fresh();
        return this.#broken(new Error("millrace: the server counts what was not sent"));
      }
      ring.tokens = [w.token, tried];
      ring.told = ring.received;
    } else {
      this.#fresh();
      this.#ring.tokens = [w.token];
    }
    this.#control(sys.PING); // its PONG tells that the older token is used up
    if (this.#ring.frames.length) this.#link?.send(concat(this.#ring.frames));
    this.#open(resumed);
  }

  #packet(p: Packet): void {
    const little = this.#codec.layout.littleEndian;
    switch (this.#o.systemFrames ? p.handle : -1) {
      case sys.PING:
        if (this.#link!.buffered <= 2 * this.#o.highWater) this.#control(sys.PONG, p.body);
        return;
      case sys.PONG:
        this.#ring.tokens.length = Math.min(1, this.#ring.tokens.length);
        return;
      case sys.WELCOME:
        return this.#welcome(p.body);
      case sys.ACK:
        if (this.#resuming && !this.#ring.ack(sys.readCount(p.body))) this.#broken(new Error("millrace: an ACK of what was not sent"));
        else this.#left();
        return;
      case sys.GOAWAY: {
        const { address } = sys.readGoAway(p.body, little);
        this.#leaving = true;
        this.#told = this.#where(address);
        return this.#left();
      }
    }
    const err = p.handle === sys.ERROR ? sys.readError(p.body, little) : undefined;
    if (this.#phase === "hello") {
      if (err?.handle === sys.HELLO) return this.#plain();
      if (err?.handle !== 0) {
        if (this.#held.push(p) > 1024) this.#broken(new Error("millrace: no answer to HELLO"));
        return;
      }
    }
    if (this.#resuming) this.#count();
    const handle = err ? err.handle : p.handle;
    if (err?.code === 12 && !handle) this.#full = true;
    const call = this.#codec.seq && !p.seq ? undefined : this.#calls.next(p.seq || handle);
    if (call) {
      call.finish(err ? undefined : p.body, err);
      return this.#left();
    }
    if (err) return emit(this.#onError, err);
    if (this.#called.has(handle) && !this.#codec.seq) return this.#broken(new Error(`millrace: ${name(handle)} answers what was not asked: whose an answer is can't be known`));
    emit(this.#listeners.get(handle), p);
  }

  // After a GOAWAY: go when nothing is outstanding.
  #left(): void {
    if (this.#leaving && this.#phase === "open" && !this.#calls.size && !(this.#resuming && this.#ring.frames.length)) this.#lost(0, "the server drains", "close");
  }

  // Where a GOAWAY sends us: never from an encrypted connection to one that is not.
  #where(address: string): URL | undefined {
    const safe = (s: string | undefined) => s === "wss:" || s === "tls:";
    try {
      const url = address ? new URL(address.includes("://") ? address : this.#at!.protocol + "//" + address) : undefined;
      if (url && this.#dials[url.protocol] && (safe(url.protocol) || !safe(this.#at?.protocol))) return url;
    } catch {
      // an address that is none
    }
    return undefined;
  }

  // Acknowledges after 64 frames or a second; by the clock too, where timers are throttled.
  #count(): void {
    const r = this.#ring;
    if (r.received++ === r.told) this.#ackSince = now();
    const ack = () => {
      this.#timers.ack = clearTimeout(this.#timers.ack) as undefined;
      r.told = r.received;
      this.#control(sys.ACK, sys.count(r.received));
    };
    if (r.received - r.told >= 64 || now() - this.#ackSince >= 1000) ack();
    else this.#timers.ack ??= setTimeout(ack, 1000);
  }

  #ping(): void {
    if (!this.#o.heartbeat || this.#pinged) return;
    this.#pinged = now();
    this.#control(sys.PING);
    this.#beat(this.#o.heartbeat.timeout);
  }

  // Judges by time stamps. A timer that comes late has slept, and bytes may lie unread behind
  // it: then the server gets its time once more.
  #beat(wait: number): void {
    const { interval, timeout } = this.#o.heartbeat!;
    const due = now() + wait;
    clearTimeout(this.#timers.beat);
    this.#timers.beat = setTimeout(() => {
      const t = now();
      if (this.#pinged && t - due > timeout / 2) {
        this.#pinged = 0;
        this.#ping();
      } else if (this.#pinged && t - this.#pinged >= timeout) this.#lost(0, "no sign of life");
      else if (!this.#pinged && t - this.#heard >= interval) this.#ping();
      else this.#beat(Math.max(10, this.#pinged ? this.#pinged + timeout - t : this.#heard + interval - t));
    }, wait);
  }
}

const name = (h: number) => `${h >>> 16}/${h & 65535}`;
const bytes = (b: Uint8Array | string) => typeof b === "string" ? new TextEncoder().encode(b) : b;

function subscribe<T>(set: Set<(v: T) => void>, fn: (v: T) => void): () => void {
  const each = (v: T) => fn(v);
  set.add(each);
  return () => void set.delete(each);
}

// A listener that throws harms no other, and is reported as an uncaught error is.
function emit<T>(set: Iterable<(v: T) => void> | undefined, v: T): void {
  for (const fn of [...(set ?? [])]) {
    try {
      fn(v);
    } catch (e) {
      queueMicrotask(() => {
        throw e;
      });
    }
  }
}

function concat(all: Uint8Array[]): Uint8Array {
  if (all.length === 1) return all[0]!;
  const b = new Uint8Array(all.reduce((n, x) => n + x.length, 0));
  let at = 0;
  for (const x of all) {
    b.set(x, at);
    at += x.length;
  }
  return b;
}
