const now = () => performance.now();

/** Tells by time stamps whether the other side is there. Times are milliseconds. */
export class Heartbeat {
  #heard = now(); // the last byte
  #pinged = 0; // since when a PING waits for a byte, or 0
  #timer: ReturnType<typeof setTimeout> | undefined;

  readonly #interval: number;
  readonly #timeout: number;
  readonly #ping: () => void;
  readonly #dead: () => void;

  constructor(interval: number, timeout: number, ping: () => void, dead: () => void) {
    this.#interval = interval;
    this.#timeout = timeout;
    this.#ping = ping;
    this.#dead = dead;
    this.#beat(interval);
  }

  /** Something came. */
  heard(): void {
    this.#heard = now();
    this.#pinged = 0;
  }

  /** Asks now. */
  probe(): void {
    if (this.#pinged) return;
    this.#pinged = now();
    this.#ping();
    this.#beat(this.#timeout);
  }

  stop(): void { clearTimeout(this.#timer); }

  // A timer that comes late has slept, and bytes may lie unread behind it: then the server
  // gets its time once more.
  #beat(wait: number): void {
    const due = now() + wait;
    this.stop();
    this.#timer = setTimeout(() => {
      const t = now();
      if (this.#pinged && t - due > this.#timeout / 2) {
        this.#pinged = 0;
        this.probe();
      } else if (this.#pinged && t - this.#pinged >= this.#timeout) this.#dead();
      else if (!this.#pinged && t - this.#heard >= this.#interval) this.probe();
      else this.#beat(Math.max(10, this.#pinged ? this.#pinged + this.#timeout - t : this.#heard + this.#interval - t));
    }, wait);
  }
}
