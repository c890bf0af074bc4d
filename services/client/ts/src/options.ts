import type { Codec, Layout } from "./codec.js";
import type { Dial, SocketConstructor } from "./transport.js";

/** Values to bodies and back. */
export interface Serial {
  encode(v: unknown): Uint8Array;
  decode(b: Uint8Array): unknown;
}

/** Times are milliseconds. */
export interface Options {
  /** Where there is no global WebSocket: that of the package ws, for example. */
  WebSocket?: SocketConstructor;
  /** Own transports, by URL scheme with its colon. */
  dial?: Record<string, Dial>;
  layout?: Layout;
  /** Instead of a layout and maxFrame, such as a Varint of "millrace-client/varint". */
  codec?: Codec;
  /** The most bytes behind a frame's length, 64 KiB. */
  maxFrame?: number;
  /** For method and subscribe; JSON. */
  serial?: Serial;
  /** How long a call may take, 10,000; 0 is for ever. */
  timeout?: number;
  /** From dialling to the first frame, 10,000. */
  connectTimeout?: number;
  /** Ask for a session that outlives its connection (true). A server without resume is served without. */
  resume?: boolean;
  /** False for a server with --system-frames=false: no heartbeats, no resume. */
  systemFrames?: boolean;
  /** A PING after so long a silence (15,000), and how long its answer may take (10,000). False: none. */
  heartbeat?: { interval?: number; timeout?: number } | false;
  /**
   * The n-th attempt waits a random time up to base (250) times 2^n, at most max (30,000).
   * n starts anew only after a connection that has lived (10,000). restart: the random
   * wait after close code 1012, [5000, 30000]. attempts: then the client closes; no limit.
   */
  retry?: { base?: number; max?: number; lived?: number; restart?: [number, number]; attempts?: number };
  /** Bytes that may wait to be written (1 MiB), and calls that may be under way (10,000). */
  maxQueue?: number;
  maxCalls?: number;
  /** Bytes given to the connection that the network has not taken, before frames wait here: 256 KiB. */
  highWater?: number;
  /** Bytes written that the server has not acknowledged, before frames wait here: 256 KiB. */
  resumeBytes?: number;
}

const json: Serial = {
  encode: (v) => new TextEncoder().encode(JSON.stringify(v)),
  decode: (b) => JSON.parse(new TextDecoder().decode(b)),
};

export const withDefaults = (o: Options) => ({
  serial: json, timeout: 10_000, connectTimeout: 10_000, resume: true, systemFrames: true,
  maxQueue: 1 << 20, maxCalls: 10_000, highWater: 256 << 10, resumeBytes: 256 << 10, ...o,
  heartbeat: o.heartbeat === false || o.systemFrames === false ? undefined : { interval: 15_000, timeout: 10_000, ...o.heartbeat },
  retry: { base: 250, max: 30_000, lived: 10_000, restart: [5000, 30_000] as [number, number], attempts: Infinity, ...o.retry },
});

export type Settings = ReturnType<typeof withDefaults>;
