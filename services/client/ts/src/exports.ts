export { Codec, Decoder, FrameError, type Layout, type Packet } from "./codec.js";
export { ServerError } from "./system.js";
export {
  BusyError, Client, ClosedError, LostError, TimeoutError, handleOf,
  type CallOptions, type Handle, type Options, type Serial, type State, type StateChange,
} from "./client.js";
export type { Dial, Link, LinkEvents, SocketConstructor } from "./transport.js";
