// The interface of a transport, and the WebSocket transport.

/** A stream of bytes to a server. All methods may be called at any time and never throw. */
export interface Link {
  send(b: Uint8Array): void;
  /** Closes after everything given to send is sent. No event follows. */
  close(): void;
  /** Closes at once. No event follows. */
  abort(): void;
  /** The number of bytes given to send that the network has not accepted yet. */
  readonly buffered: number;
}

/** Events of a Link: open once, then data, and end once, even if it was never open. */
export interface LinkEvents {
  open(): void;
  data(b: Uint8Array): void;
  end(code: number, why: string): void;
}

export type Dial = (url: URL, on: LinkEvents) => Link;

/** The part of a WebSocket that is used: that of a browser, of Node 22, or of the package ws. */
export interface Socket {
  binaryType: string;
  readonly bufferedAmount: number;
  onopen: ((e: any) => void) | null;
  onmessage: ((e: any) => void) | null;
  onclose: ((e: any) => void) | null;
  onerror: ((e: any) => void) | null;
  send(b: Uint8Array): void;
  close(code?: number): void;
  terminate?(): void;
}

export type SocketConstructor = new (url: string, protocols: string) => any;

export const dialWebSocket = (constructor?: SocketConstructor): Dial => (url, on) => {
  const make = constructor ?? (globalThis as { WebSocket?: SocketConstructor }).WebSocket;
  if (!make) throw new TypeError("millrace: there is no WebSocket here; give one in options.WebSocket");
  const s: Socket = new make(url.href, "millrace");
  let why = "";
  s.binaryType = "arraybuffer";
  s.onopen = () => on.open();
  s.onmessage = (e) => {
    if (typeof e.data === "string") {
      leave();
      on.end(1003, "a text message");
    } else on.data(new Uint8Array(e.data));
  };
  s.onerror = (e) => (why = e?.message ?? "");
  s.onclose = (e) => on.end(e.code, e.reason || why);
  const leave = (hard?: boolean) => {
    s.onopen = s.onmessage = s.onclose = null;
    s.onerror = () => {}; // without a listener, the package ws throws
    if (hard && s.terminate) s.terminate();
    else s.close();
  };
  return {
    send: (b) => {
      try {
        s.send(b);
      } catch {
        // it is closing: onclose reports that
      }
    },
    close: () => leave(),
    abort: () => leave(true),
    get buffered() {
      return s.bufferedAmount;
    },
  };
};
