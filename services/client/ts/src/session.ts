// What outlives a connection: calls that wait for answers, and what resume counts.

export interface Call {
  handle: number;
  seq: number;
  /** Settled for its caller. It stays in line as a tombstone: its answer is still to come. */
  over: boolean;
  /** Its frame is the pos-th that the session has sent; only with resume. */
  pos: number;
  finish(body: Uint8Array | undefined, err?: unknown): void;
}

/** Calls that were written, in the order of their answers: by handle, or by sequence number. */
export class Calls {
  readonly #queues = new Map<number, Call[]>();
  size = 0;

  add(key: number, c: Call): void {
    const q = this.#queues.get(key);
    if (q) q.push(c);
    else this.#queues.set(key, [c]);
    this.size++;
  }

  /** The call that is answered next, if any waits. */
  next(key: number): Call | undefined {
    const q = this.#queues.get(key);
    const c = q?.shift();
    if (c) this.size--;
    if (q?.length === 0) this.#queues.delete(key);
    return c;
  }

  fail(err: Error): void {
    const all = [...this.#queues.values()].flat();
    this.#queues.clear();
    this.size = 0;
    for (const c of all) c.finish(undefined, err);
  }
}

/**
 * Both ends count frames. A frame is kept from when it is written until the server says that
 * it has had it.
 */
export class Ring {
  readonly frames: Uint8Array[] = [];
  bytes = 0;
  acked = 0; // frames that the server has had
  received = 0; // frames of the server that we have had
  told = 0; // of these, what our last ACK said
  /**
   * Tokens that may find the session, the likeliest first. Two while it is not known whether
   * the server has had a frame behind the HELLO: until then it takes the old one, afterwards
   * the new one.
   */
  tokens: Uint8Array[] = [];
  turned = false;

  /** Has the other token tried next. True: at once, as it is the first of the two that was tried in vain. */
  turn(): boolean {
    this.tokens.reverse();
    return (this.turned = !this.turned && this.tokens.length > 1);
  }

  /** The session is gone. */
  reset(): void {
    this.frames.length = this.bytes = this.acked = this.received = this.told = 0;
    this.tokens = [];
  }

  /** Frames that were sent since the session began. */
  get sent(): number { return this.acked + this.frames.length; }

  push(frame: Uint8Array): void {
    this.frames.push(frame);
    this.bytes += frame.length;
  }

  /** False if the server counts what was never sent. One that counts less than before is ignored. */
  ack(n: number): boolean {
    if (!(n <= this.sent)) return false;
    for (const f of this.frames.splice(0, Math.max(0, n - this.acked))) this.bytes -= f.length;
    this.acked = Math.max(this.acked, n);
    return true;
  }
}
