export { Codec, Decoder, FrameError, type Layout, type Packet } from "./codec.js";
export { BusyError, ClosedError, LostError, TimeoutError } from "./errors.js";
export { handleOf, type Handle } from "./handle.js";
export { ServerError } from "./system.js";
export { Client, type CallOptions, type Options, type Serial, type State, type StateChange } from "./client.js";
export type { Dial, Link, LinkEvents, SocketConstructor } from "./transport.js";
