// The entry point for Node: the same client, with tcp://, tls:// and unix:// as well.
import * as net from "node:net";
import * as tls from "node:tls";
import { connect as connectAny, type Client, type Options as AnyOptions } from "./client.js";
import type { Dial } from "./transport.js";

export * from "./exports.js";

export interface Options extends AnyOptions {
  /** For tls://: ca, cert, key, servername and the other options of tls.connect. */
  tls?: tls.ConnectionOptions;
}

const dialStream = (make: (url: URL) => net.Socket, opened: string): Dial => (url, on) => {
  const s = make(url);
  let why = "";
  let live = true;
  s.setNoDelay(true);
  s.once(opened, () => live && on.open());
  // As a Uint8Array, since Buffer's slice does not copy.
  s.on("data", (b: Buffer) => live && on.data(new Uint8Array(b.buffer, b.byteOffset, b.length)));
  s.on("error", (e) => (why = e.message));
  s.on("close", () => live && on.end(0, why));
  return {
    send: (b) => void (s.writable && s.write(b)),
    close: () => {
      live = false;
      s.end();
      s.resume();
      setTimeout(() => s.destroy(), 2000).unref();
    },
    abort: () => {
      live = false;
      s.destroy();
    },
    get buffered() {
      return s.writableLength;
    },
  };
};

const host = (url: URL) => url.hostname.replace(/^\[|\]$/g, "");

/** As in the browser's entry point, and also tcp://HOST:PORT, tls://HOST:PORT and unix:///PATH. */
export function connect(url: string | string[], options: Options = {}): Client {
  return connectAny(url, {
    ...options,
    dial: {
      "tcp:": dialStream((url) => net.connect({ host: host(url), port: Number(url.port) }), "connect"),
      "unix:": dialStream((url) => net.connect(decodeURIComponent(url.pathname)), "connect"),
      "tls:": dialStream((url) => {
        const name = host(url);
        const sni = net.isIP(name) ? {} : { servername: name };
        return tls.connect({ host: name, port: Number(url.port), ...sni, ...options.tls });
      }, "secureConnect"),
      ...options.dial,
    },
  });
}
