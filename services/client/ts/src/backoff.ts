import type { Settings } from "./options.js";

/** How long to wait for the next attempt to connect. */
export class Backoff {
  #attempt = 0;
  /** The server has ordered the wait: nothing cuts it short. */
  ordered = false;
  constructor(readonly o: Settings["retry"]) {}

  /**
   * After a connection that was open for lived milliseconds and ended with code; full: the
   * server has no room. Undefined: that was the last attempt.
   */
  next(lived: number, code: number, full: boolean): number | undefined {
    const { base, max, restart, attempts } = this.o;
    if (lived >= this.o.lived) this.#attempt = 0;
    let wait = Math.random() * Math.min(max, base * 2 ** this.#attempt);
    this.ordered = code === 1012 || code === 1013 || full;
    if (code === 1012) wait = restart[0] + Math.random() * (restart[1] - restart[0]);
    else if (this.ordered) wait = max * (1 + Math.random()) / 2;
    return ++this.#attempt > attempts ? undefined : wait;
  }
}
