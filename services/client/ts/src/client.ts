import { Backoff } from "./backoff.js";
import { Codec, type Packet } from "./codec.js";
import { Connection } from "./connection.js";
import { BusyError, ClosedError, LostError, TimeoutError } from "./errors.js";
import { handleOf, name, type Handle } from "./handle.js";
import { emit, subscribe } from "./listeners.js";
import { withDefaults, type Options } from "./options.js";
import { Calls, Ring, type Call } from "./session.js";
import * as sys from "./system.js";
import { dialWebSocket, type Dial } from "./transport.js";

export type { Options, Serial } from "./options.js";

export type State = "connecting" | "open" | "reconnecting" | "closed";
export interface StateChange {
  state: State;
  /** For "open": whether the previous session continues. If not, its groups, timers and locks are gone. */
  resumed: boolean;
  /** Why the connection, or an attempt to connect, ended; otherwise "". */
  reason: string;
}
export interface CallOptions {
  timeout?: number;
  signal?: AbortSignal;
}

interface Out {
  frame: Uint8Array;
  handle: number;
  call?: Call;
}

/** Begins to connect and returns at once. Throws a TypeError if a URL is invalid or its scheme is not supported. */
export function connect(url: string | string[], options: Options = {}): Client {
  return new Client([url].flat(), options);
}

export class Client {
  readonly #o;
  readonly #codec: Codec;
  readonly #dials: Record<string, Dial>;
  readonly #urls: URL[];
  #next = 0; // index into #urls
  #told: URL | undefined; // the address in a GOAWAY
  #at: URL | undefined; // the address of the connection
  #state: StateChange = { state: "connecting", resumed: false, reason: "" };

  #conn: Connection | undefined;
  #leaving = false; // a GOAWAY has come
  #full = false; // the server refused the connection because it has no room
  readonly #backoff: Backoff;

  readonly #ring = new Ring();
  readonly #calls = new Calls();
  readonly #queue = new Set<Out>();
  #queued = 0; // bytes
  #seq = 0;
  readonly #called = new Set<number>();
  readonly #sent = new Set<number>();
  #flushing = false;

  readonly #listeners = new Map<number, Set<(p: Packet) => void>>();
  readonly #onState = new Set<(c: StateChange) => void>();
  readonly #onError = new Set<(e: Error) => void>();
  readonly #onDrain = new Set<() => void>();

  #retry: ReturnType<typeof setTimeout> | undefined;
  #later: ReturnType<typeof setTimeout> | undefined; // flushes again when the network may have room

  constructor(urls: string[], options: Options) {
    this.#o = withDefaults(options);
    this.#backoff = new Backoff(this.#o.retry);
    this.#codec = options.codec ?? new Codec(options.layout, options.maxFrame);
    const ws = dialWebSocket(options.WebSocket);
    this.#dials = { "ws:": ws, "wss:": ws, ...options.dial };
    this.#urls = urls.map((u) => new URL(u));
    const bad = this.#urls.find((u) => !this.#dials[u.protocol]);
    if (bad || !urls.length) throw new TypeError(`millrace: address ${bad ?? "missing"}: use ${Object.keys(this.#dials).join("// ")}//`);
    this.#page("addEventListener");
    this.#dial();
  }

  get state(): State { return this.#state.state; }
  /** False while frames wait here for the network or the server. */
  get writable(): boolean { return this.#queue.size === 0; }

  /** Calls fn on each change of state, and on each failed attempt to connect. Returns a function that ends this. */
  onState(fn: (c: StateChange) => void): () => void { return subscribe(this.#onState, fn); }
  /** Calls fn with each ERROR that answers no call, and with protocol errors. Returns a function that ends this. */
  onError(fn: (e: Error) => void): () => void { return subscribe(this.#onError, fn); }

  /** Resolves when the state is "open"; rejects with a ClosedError if the client is closed. */
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

  /** Resolves when no frame waits here to be written. */
  async drained(): Promise<void> {
    if (!this.writable) await new Promise<void>((r) => this.#onDrain.add(r));
  }

  /**
   * Calls fn with each frame of this handle that the server pushes. Use a handle either for
   * calls or for listening, not both: an answer could not be distinguished from a push. Returns
   * a function that ends this.
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

  /** Like on, with decoded values. If a body can't be decoded, the error goes to onError. */
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

  /** Like call, with values. */
  method<Req, Res>(handle: Handle): (req: Req, options?: CallOptions) => Promise<Res> {
    return async (req, options) => this.#o.serial.decode(await this.call(handle, this.#o.serial.encode(req), options)) as Res;
  }

  /**
   * Sends a frame that has no answer. Returns false if it has to wait here; drained() resolves
   * when it has been written. Throws BusyError if the queue is full, ClosedError, or RangeError
   * if the layout has no room for the handle or the body.
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
        handle: h, seq: seq ? (this.#seq = (this.#seq % 0xffffffff) + 1) : 0, over: false, pos: 0,
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

  /** Ends the session and the connection. Calls in progress reject with ClosedError. */
  close(reason = ""): void {
    if (this.state === "closed") return;
    const c = this.#conn;
    if (c?.opened && c.resuming) c.control(sys.BYE);
    this.#drop("close");
    clearTimeout(this.#retry);
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

  // The page is visible again or the network is back: connect now, or check the connection.
  readonly #wake = (): void => {
    if (this.#retry) this.#backoff.ordered || this.#dial();
    else this.#conn?.probe();
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
    this.#flushing = true; // frames sent in one turn of the event loop leave in one write
    queueMicrotask(() => {
      this.#flushing = false;
      this.#flush();
    });
  }

  #flush(): void {
    const c = this.#conn;
    if (!c?.opened || this.#leaving) return;
    for (const out of this.#queue) {
      if (c.full) break;
      this.#queue.delete(out);
      this.#queued -= out.frame.length;
      c.put(out.frame);
      if (!out.call) continue;
      out.call.pos = this.#ring.sent;
      this.#calls.add(out.call.seq || out.handle, out.call);
    }
    c.flush();
    clearTimeout(this.#later);
    if (this.#queue.size && c.congested) this.#later = setTimeout(() => this.#flush(), 20);
    this.#room();
  }

  #room(): void {
    if (!this.writable) return;
    const all = [...this.#onDrain];
    this.#onDrain.clear();
    for (const r of all) r();
  }

  #dial(): void {
    clearTimeout(this.#retry);
    this.#retry = undefined;
    this.#backoff.ordered = this.#full = this.#leaving = false;
    const url = (this.#at = this.#told ?? this.#urls[this.#next % this.#urls.length]!);
    const c = (this.#conn = new Connection(this.#o, this.#codec, this.#ring, {
      open: (resumed) => {
        if (!resumed) this.#calls.fail(new LostError("millrace: the session was lost"));
        this.#become("open", "", resumed);
      },
      packet: (p, err) => this.#packet(c, p, err),
      goAway: (address) => {
        this.#leaving = true;
        this.#told = this.#where(address);
      },
      idle: () => {
        if (this.#queue.size) this.#flush();
        this.#left();
      },
      lost: (code, reason) => this.#lost(code, reason),
      broken: (e) => emit(this.#onError, e),
      again: () => this.#dial(),
    }));
    c.dial(this.#dials[url.protocol]!, url);
  }

  #drop(how: "close" | "abort"): void {
    clearTimeout(this.#later);
    this.#conn?.end(how);
    this.#conn = undefined;
  }

  #lost(code: number, reason: string, how: "close" | "abort" = "abort"): void {
    if (this.state === "closed") return;
    const opened = this.#conn?.opened;
    if (this.#told && !opened) this.#told = undefined;
    else if (!this.#told) this.#next++;
    this.#drop(how);
    if (!this.#ring.tokens.length) this.#calls.fail(new LostError("millrace: connection lost: " + reason));
    const wait = this.#backoff.next(opened ? performance.now() - opened : 0, code, this.#full);
    if (wait === undefined) return this.close(reason);
    this.#retry = setTimeout(() => this.#dial(), wait);
    this.#become(this.state === "connecting" ? "connecting" : "reconnecting", reason);
  }

  #packet(c: Connection, p: Packet, err: sys.ServerError | undefined): void {
    const handle = err ? err.handle : p.handle;
    if (err?.code === 12 && !handle) this.#full = true;
    const call = this.#codec.seq && !p.seq ? undefined : this.#calls.next(p.seq || handle);
    if (call) {
      if (c.resuming) this.#ring.ack(call.pos); // the server has received the request, and every frame before it
      call.finish(err ? undefined : p.body, err);
    } else if (err) emit(this.#onError, err);
    else if (this.#called.has(handle) && !this.#codec.seq) c.broken(new Error(`millrace: ${name(handle)} answers what was not asked: whose an answer is can't be known`));
    else emit(this.#listeners.get(handle), p);
  }

  // After a GOAWAY: leave when nothing is outstanding.
  #left(): void {
    const c = this.#conn;
    if (this.#leaving && c?.opened && !this.#calls.size && !(c.resuming && this.#ring.frames.length)) this.#lost(0, "the server drains", "close");
  }

  // Returns the URL of a GOAWAY's address. A bare HOST:PORT gets the scheme and path of this
  // connection. An encrypted connection is never followed by a plain one.
  #where(address: string): URL | undefined {
    const safe = (u: URL) => u.protocol === "wss:" || u.protocol === "tls:";
    const at = this.#at!;
    try {
      const url = new URL(address.includes("://") ? address : "//" + address, at);
      if (at.host && !address.includes("/")) {
        url.pathname = at.pathname;
        url.search = at.search;
      }
      if (address && this.#dials[url.protocol] && (safe(url) || !safe(at))) return url;
    } catch {
      // not an address
    }
    return undefined;
  }
}

const bytes = (b: Uint8Array | string) => typeof b === "string" ? new TextEncoder().encode(b) : b;
