// SPDX-License-Identifier: Apache-2.0
// What the campaigns stand on: seeded draws, a wire between Tandem and an upstream that can be cut at any byte, and an
// address that swallows connections.
import { spawn } from "node:child_process";
import { connect, createServer } from "node:net";
import { after } from "node:test";

// The seed of this run: SEED, or a fresh one. Printed, so that what breaks can be run again.
export function seedOf(name, count) {
  const seed = Number(process.env.SEED) || 1 + Math.floor(Math.random() * 0xfffffffe);
  console.log(`${name}: ${count}, seed ${seed}`);
  return seed;
}

// SplitMix32: the same numbers for the same seed and stream, whatever else was drawn.
export function draws(seed, stream = 0) {
  let state = (seed ^ Math.imul(stream + 1, 0x9e3779b9)) >>> 0;
  const next = () => {
    state = (state + 0x9e3779b9) >>> 0;
    let z = state;
    z = Math.imul(z ^ (z >>> 16), 0x21f0aaad);
    z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
    return (z ^ (z >>> 15)) >>> 0;
  };
  next();
  return {
    below: (n) => next() % n,
    chance: (percent) => next() % 100 < percent,
    pick: (list) => list[next() % list.length],
  };
}

// A wire to 127.0.0.1:`port`. `cut(at, how)` lets exactly `at` more bytes of answers through and then ends the connection,
// politely ("fin") or not ("rst"); `seen` counts the bytes of answers that went through; `drop()` ends what is open.
export async function startWire(port) {
  const self = { seen: 0, left: Infinity, how: "fin", cuts: 0, connections: 0 };
  const pairs = new Set();
  const server = createServer((down) => {
    const up = connect(port, "127.0.0.1");
    const pair = { down, up };
    pairs.add(pair);
    self.connections++;
    const end = () => { if (pairs.delete(pair)) self.on_end?.(); down.destroy(); up.destroy(); };
    down.setNoDelay(true);
    up.setNoDelay(true);
    for (const s of [down, up]) s.on("error", end).on("close", end);
    down.on("data", (d) => up.write(d));
    up.on("data", (d) => {
      const n = Math.min(d.length, self.left);
      self.left -= n;
      self.seen += n;
      if (n < d.length || self.left === 0) {
        self.left = Infinity;
        self.cuts++;
        if (self.how === "rst") {
          // What was written must have left before the reset, or the receiver would not see exactly these bytes.
          down.write(d.subarray(0, n), () => { down.resetAndDestroy(); end(); });
        } else {
          down.end(d.subarray(0, n), end);
        }
        up.pause();
        return;
      }
      down.write(d);
    });
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  after(() => { self.drop(); server.close(); });
  self.url = `http://127.0.0.1:${server.address().port}/v1`;
  self.cut = (at, how) => { self.left = at; self.how = how; };
  self.whole = () => { self.left = Infinity; };
  self.drop = () => { for (const p of pairs) { p.down.destroy(); p.up.destroy(); } };
  return self;
}

// An address that takes no connection and refuses none: the queue of a server that accepts nothing is full.
export async function blackHole(host) {
  const server = spawn(process.execPath, ["-e",
    `require("net").createServer().listen({host: "${host}", port: 0, backlog: 1}, function () { console.log(this.address().port); })`]);
  after(() => { server.kill("SIGKILL"); });
  const port = await new Promise((resolve) => server.stdout.once("data", (d) => resolve(Number(d))));
  server.kill("SIGSTOP");
  const fillers = [];
  after(() => fillers.forEach((s) => s.destroy()));
  for (let silent = 0; silent < 3;) { // full when a few in a row are not taken
    const s = connect(port, host).on("error", () => {});
    fillers.push(s);
    const taken = await Promise.race([new Promise((r) => s.once("connect", () => r(true))), new Promise((r) => setTimeout(r, 300, false))]);
    silent = taken ? 0 : silent + 1;
    if (fillers.length > 64) return null; // this system has no full queues
  }
  return `http://${host}:${port}/v1`;
}
