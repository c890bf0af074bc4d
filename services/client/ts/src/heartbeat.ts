const now = () => performance.now();

/** Detects by timestamps that the server no longer answers. Times are milliseconds. */
export class Heartbeat {
  #heard = now(); // when the last byte arrived
  #pinged = 0; // when the PING was sent after which nothing has arrived yet, or 0
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

  /** Call it whenever bytes arrive. */
  heard(): void {
    this.#heard = now();
    this.#pinged = 0;
  }

  /** Sends a PING now, unless one is unanswered. */
  probe(): void {
    if (this.#pinged) return;
    this.#pinged = now();
    this.#ping();
    this.#beat(this.#timeout);
  }

  stop(): void { clearTimeout(this.#timer); }

  // A timer that fires late means that the program was suspended, and received bytes may not
  // have been read yet. The server then gets the full timeout again.
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
