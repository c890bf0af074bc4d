import type { Codec, Layout } from "./codec.js";
import type { Dial, SocketConstructor } from "./transport.js";

/** Encodes values as bodies and decodes them. */
export interface Serial {
  encode(v: unknown): Uint8Array;
  decode(b: Uint8Array): unknown;
}

/** Times are milliseconds. */
export interface Options {
  /** The WebSocket constructor where there is no global one, such as that of the package ws. */
  WebSocket?: SocketConstructor;
  /** Custom transports, by URL scheme including the colon. */
  dial?: Record<string, Dial>;
  layout?: Layout;
  /** Instead of a layout and maxFrame, such as a Varint of "millrace-client/varint". */
  codec?: Codec;
  /** The largest number of bytes after a frame's length field; default 64 KiB. */
  maxFrame?: number;
  /** The serializer of method and subscribe; default JSON. */
  serial?: Serial;
  /** How long a call may take; default 10,000, 0 for no limit. */
  timeout?: number;
  /** How long connecting may take, from dialling until frames may be sent; default 10,000. */
  connectTimeout?: number;
  /** Request a session that survives its connection; default true. With a server that has no resume it has no effect. */
  resume?: boolean;
  /** False for a server with --system-frames=false: no heartbeats, no resume. */
  systemFrames?: boolean;
  /** Send a PING when nothing has arrived for interval (15,000), and give up when nothing arrives within timeout (10,000). False for none. */
  heartbeat?: { interval?: number; timeout?: number } | false;
  /**
   * Attempt n, counted from 0, waits a random time up to base (250) times 2^n, at most max
   * (30,000). n starts again only after a connection that was open for lived (10,000). restart is
   * the range of the random wait after close code 1012, [5000, 30000]. After this number of
   * attempts the client closes; no limit by default.
   */
  retry?: { base?: number; max?: number; lived?: number; restart?: [number, number]; attempts?: number };
  /** How many bytes may wait to be written; default 1 MiB. */
  maxQueue?: number;
  /** How many calls may be in progress; default 10,000. */
  maxCalls?: number;
  /** How many written bytes the network may hold before frames wait here; default 256 KiB. */
  highWater?: number;
  /** How many written bytes may be unacknowledged before frames wait here; default 256 KiB. */
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
