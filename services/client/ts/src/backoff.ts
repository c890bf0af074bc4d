import type { Settings } from "./options.js";

/** Chooses how long to wait before the next attempt to connect. */
export class Backoff {
  #attempt = 0;
  /** Whether the server asked for the wait: then nothing shortens it. */
  ordered = false;
  constructor(readonly o: Settings["retry"]) {}

  /**
   * Returns the wait in milliseconds, or undefined if no attempt is left. The last connection
   * was open for lived milliseconds and ended with this close code; full means that the server
   * refused it because it has no room.
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
