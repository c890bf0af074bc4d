// What the page knows of one room. Lines go in by their numbers, so that each is there once
// and in its place, whatever comes twice or not at all.
import type { Line, Past } from "./wire.js";

/** The most lines that are kept of a room; the oldest go. */
export const KEEP = 1000;

export class Room {
  log = "";
  /** The last line that is here, and the last that is known to be. */
  last = 0;
  top = 0;
  lines: Line[] = [];
  names: string[] = [];
  count = 0;
  /** The session has joined it. */
  joined = false;
  syncing = false;

  constructor(readonly name: string) {}

  /** A line that was pushed. True: it is the next one, and is here now. */
  push(l: Line): boolean {
    this.top = Math.max(this.top, l.seq);
    if (l.seq !== this.last + 1) return false;
    this.last = l.seq;
    this.lines.push(l);
    if (this.lines.length > KEEP) this.lines.shift();
    return true;
  }

  /**
   * An answer to what is behind last. Says what is new: another history than before, lines
   * between that nobody has any more, the lines.
   */
  take(p: Past): { other: boolean; gap: number; lines: Line[] } {
    const other = this.log !== "" && this.log !== p.log;
    if (other) {
      this.last = this.top = 0;
      this.lines = [];
    }
    this.log = p.log;
    const gap = Math.max(0, p.first - 1 - this.last);
    this.last += gap;
    this.top = Math.max(this.top, p.last);
    return { other, gap, lines: p.lines.filter((l) => this.push(l)) };
  }
}
