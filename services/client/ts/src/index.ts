// The entry for browsers: ws:// and wss://.
export * from "./exports.js";
export { connect } from "./client.js";
