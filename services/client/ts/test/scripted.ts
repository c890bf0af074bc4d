import { once } from "node:events";
import * as net from "node:net";
import { Codec, Decoder } from "../src/codec.js";

// A TCP server that calls the test's function with each frame.
export async function scripted(on: (handle: number, body: Uint8Array, send: (handle: number, body: Uint8Array) => void) => unknown) {
  const codec = new Codec();
  const server = net.createServer((s) => {
    const d = new Decoder(codec);
    s.on("error", () => {});
    s.on("data", (b) => {
      for (const p of d.push(b)) on(p.handle, p.body, (h, x) => s.write(codec.encode(h, x)));
    });
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return { url: `tcp://127.0.0.1:${(server.address() as net.AddressInfo).port}`, close: () => server.close() };
}
