import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { Codec, Decoder, FrameError, type Layout, type Packet } from "../src/codec.js";
import * as sys from "../src/system.js";
import { Varint } from "../src/varint.js";

const path = process.env["TEST_VECTORS"] ?? "../../../codec/testdata/vectors.json";
const vectors = JSON.parse(readFileSync(path, "utf8"));
const unhex = (s: string) => new Uint8Array(Buffer.from(s, "hex"));
const hex = (b: Uint8Array) => Buffer.from(b).toString("hex");
const plain = (p: Packet) => ({ main: p.handle >>> 16, sub: p.handle & 0xffff, seq: p.seq, body: hex(p.body) });

const spoken = vectors.framings.filter((f: any) => f.layout || f.framing === "varint");
assert.equal(spoken.filter((f: any) => f.framing).length, 1);

for (const f of spoken) {
  const codec = f.layout ? new Codec({ ...(f.layout as Layout), prefix: unhex(f.layout.prefix) }, f.maxFrame) : new Varint(f.maxFrame);

  test(`${f.name}: frames are written as the vectors say`, () => {
    for (const { packet, bytes, error } of f.frames) {
      const encode = () => hex(codec.encode(packet.main * 65536 + packet.sub, unhex(packet.body), packet.seq));
      if (error) assert.throws(encode, RangeError);
      else assert.equal(encode(), bytes);
    }
  });

  test(`${f.name}: streams are read as the vectors say, split anywhere`, () => {
    for (const s of f.streams) {
      const b = unhex(s.bytes);
      for (let split = 0; split <= b.length; split++) {
        const d = new Decoder(codec);
        const got: object[] = [];
        let refused = false;
        for (const piece of [b.subarray(0, split), b.subarray(split)]) {
          try {
            for (const p of d.push(piece)) got.push(plain(p));
          } catch (e) {
            assert.ok(e instanceof FrameError);
            refused = true;
            break;
          }
          if (piece.byteOffset === 0 && s.error) assert.ok(split < s.refusedAt, "refused late");
        }
        assert.deepEqual(got, s.packets);
        assert.equal(refused, !!s.error, s.name);
      }
      const d = new Decoder(codec);
      const got: object[] = [];
      for (let i = 0; i < (s.error ? s.refusedAt - 1 : b.length); i++) for (const p of d.push(b.subarray(i, i + 1))) got.push(plain(p));
      assert.deepEqual(got, s.packets);
    }
  });
}

test("system frames are read and written as the vectors say", () => {
  for (const { name, bytes, sub, body, fields } of vectors.system) {
    const p = [...new Decoder(new Codec()).push(unhex(bytes))][0]!;
    assert.deepEqual(plain(p), { main: 0, sub, seq: 0, body: body ?? "" });
    const b = unhex(body ?? "");
    if (name === "ERROR") {
      const { code, handle, message } = sys.readError(b);
      assert.deepEqual({ code, handle, text: message }, fields);
    } else if (name === "GOAWAY") assert.deepEqual(sys.readGoAway(b), fields);
    else if (name === "HELLO") assert.equal(hex(sys.hello(fields.token && unhex(fields.token), fields.received)), body);
    else if (name === "WELCOME") {
      const w = sys.readWelcome(b)!;
      assert.deepEqual({ ...w, token: hex(w.token) }, fields);
    } else if (name === "ACK") {
      assert.equal(sys.readCount(b), fields.received);
      assert.equal(hex(sys.count(fields.received)), body);
    }
  }
});
