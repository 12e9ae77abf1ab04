// SPDX-License-Identifier: Apache-2.0
// File descriptors run out: idle connections go first, who can be served is, who cannot hears so, nothing spins, nothing
// is lost, and all is as before once there are some again.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync, readdirSync } from "node:fs";
import { connect } from "node:net";
import { test } from "node:test";
import { startTandem, startUpstream, until, user } from "./lib.mjs";

const skip = process.platform !== "linux" && "prlimit is Linux's";
const LIMIT = 160, KEPT = 32; // the last ones, for the store and the like (src/loop/descriptors.c)
const quiet = "probes: false\nlog_level: warn\nlimits: {connections_per_peer: 4096}\n";
const target = (up, more = "") =>
  `${quiet}targets:\n  - {name: far, tier: cloud, provider: openai, base_url: "${up.url}", model: big, region: us, clearance: internal${more}}\n`;
const limited = (hard, soft = hard) => ({ before: ["prlimit", `--nofile=${soft}:${hard}`], args: ["--workers", "1"] });
const open = (t) => readdirSync(`/proc/${t.child.proc.pid}/fd`).length;
const cpu_ms = (t) => readFileSync(`/proc/${t.child.proc.pid}/stat`, "utf8").split(") ")[1].split(" ").slice(11, 13)
  .reduce((sum, ticks) => sum + Number(ticks) * 10, 0);

// A client of its own connection, which it keeps.
function client(t) {
  const { hostname, port } = new URL(t.url), c = { socket: connect(Number(port), hostname), seen: "", ended: false };
  c.socket.on("data", (d) => (c.seen += d)).on("error", () => (c.ended = true)).on("close", () => (c.ended = true));
  c.ask = (more = {}, prompt = "hello") => {
    const body = JSON.stringify({ model: "auto", messages: user(prompt), ...more });
    c.seen = "";
    c.socket.write(`POST /v1/chat/completions HTTP/1.1\r\nHost: ${hostname}:${port}\r\nContent-Type: application/json\r\n` +
      `Content-Length: ${body.length}\r\n\r\n${body}`);
    return c;
  };
  c.status = async () => Number((await until(() => c.seen.match(/^HTTP\/1\.1 (\d+) .*\r\n\r\n/s) ?? (c.ended && [0, "0"]), "an answer"))[1]);
  c.whole = () => until(() => /"finish_reason":"stop"/.test(c.seen) || c.ended, "the end of an answer");
  c.close = () => c.socket.destroy();
  return c;
}

const metric = async (t, name) => {
  const c = client(t), { host } = new URL(t.url);
  c.socket.write(`GET /metrics HTTP/1.1\r\nHost: ${host}\r\nConnection: close\r\n\r\n`);
  await until(() => c.ended, "the metrics");
  return Number(c.seen.match(new RegExp(`^${name} (\\d+)$`, "m"))?.[1] ?? NaN);
};

test("the soft limit is raised to the hard one", { skip }, async () => {
  const up = await startUpstream();
  const t = await startTandem(target(up), limited(4096, 200));
  assert.match(readFileSync(`/proc/${t.child.proc.pid}/limits`, "utf8"), /^Max open files\s+4096\s+4096/m);
  assert.equal(await metric(t, "tandem_descriptors_limit"), 4096);
});

test("idle clients make room for new ones, those idle longest first, and all of them are served", { skip }, async () => {
  const up = await startUpstream(), t = await startTandem(target(up), limited(LIMIT)), all = [];
  for (let i = 0; i < 3 * LIMIT; i++) {
    const c = client(t).ask();
    assert.equal(await c.status(), 200, `client ${i}: ${c.seen}`);
    await c.whole();
    all.push(c);
  }
  const closed = all.filter((c) => c.ended).length;
  assert.ok(all[0].ended && !all.at(-1).ended);
  assert.ok(all.slice(0, closed).every((c) => c.ended), "the oldest first");
  assert.ok(closed >= 2 * LIMIT && closed < 3 * LIMIT - 40, `${closed} were closed`);
  assert.ok(await metric(t, "tandem_descriptors_shed_total") >= closed);
  assert.equal(await metric(t, "tandem_http_turned_away_total"), 0);
  all.forEach((c) => c.close());
});

test("kept connections upstream make room too", { skip }, async () => {
  const up = await startUpstream(), t = await startTandem(target(up), limited(LIMIT));
  const wave = async (n) => {
    const all = Array.from({ length: n }, () => client(t).ask());
    for (const c of all) assert.equal(await c.status(), 200, c.seen);
    for (const c of all) await c.whole();
    all.forEach((c) => c.close());
  };
  await up.standing({ first_token_ms: 300 });
  await wave(35); // leaves as many connections upstream
  await until(() => open(t) < LIMIT, "the clients to have gone");
  const idle = Array.from({ length: 60 }, () => client(t)); // that say nothing: not to be closed
  await wave(3);
  assert.ok(idle.filter((c) => c.ended).length === 0);
  assert.ok(await metric(t, "tandem_descriptors_shed_total") > 0);
  idle.forEach((c) => c.close());
});

test("who cannot be served hears 503 with Retry-After; who is being served is served to the end", { skip }, async () => {
  const up = await startUpstream("--tokens", "40");
  const t = await startTandem(target(up), limited(LIMIT));
  await up.standing({ token_ms: 100 });
  const all = [];
  const before = cpu_ms(t), begun = Date.now();
  for (let i = 0; i < LIMIT; i++) all.push(client(t).ask({ stream: true }));
  const statuses = await Promise.all(all.map((c) => c.status()));
  const served = all.filter((_, i) => statuses[i] === 200), refused = all.filter((_, i) => statuses[i] === 503);
  assert.ok(served.length >= 30, `${served.length} were served`);
  assert.ok(refused.length >= 30, `${refused.length} were refused`);
  assert.equal(served.length + refused.length, all.length, `${statuses}`);
  for (const c of refused) {
    assert.match(c.seen, /^retry-after: 1\r$/im, c.seen);
    assert.match(c.seen, /"code":"tandem\.overload"/, c.seen);
  }
  assert.ok(open(t) <= LIMIT - KEPT / 2, `${open(t)} open`);
  for (const c of served) await c.whole();
  for (const c of served) assert.match(c.seen, /\[DONE\]/);
  // Ten times what the work costs would still be less than one processor's whole time.
  assert.ok(cpu_ms(t) - before < 0.8 * (Date.now() - begun), `${cpu_ms(t) - before} ms of ${Date.now() - begun}`);
  all.forEach((c) => c.close());
  await up.standing(null);
  await until(() => open(t) < LIMIT / 2, "the clients to have gone");
  const c = client(t).ask();
  assert.equal(await c.status(), 200, "the target was never to blame");
  assert.ok(await metric(t, "tandem_descriptors_short_total") > 0);
  c.close();
});

test("without a single descriptor nothing spins, and waiting clients are served when there are some again", { skip }, async () => {
  const up = await startUpstream(), t = await startTandem(target(up), { args: ["--workers", "1"] });
  const kept = client(t).ask();
  assert.equal(await kept.status(), 200);
  await kept.whole();
  const set = (soft) => execFileSync("prlimit", [`--pid=${t.child.proc.pid}`, `--nofile=${soft}:`]);
  const [, usual] = readFileSync(`/proc/${t.child.proc.pid}/limits`, "utf8").match(/^Max open files\s+(\d+)/m);
  set(3);
  const waiting = Array.from({ length: 5 }, () => client(t).ask());
  await until(() => kept.ended, "the idle client to be closed for them");
  const before = cpu_ms(t);
  await new Promise((resolve) => setTimeout(resolve, 1000));
  assert.ok(cpu_ms(t) - before < 300, `${cpu_ms(t) - before} ms of a second`);
  assert.ok(waiting.every((c) => !c.ended && c.seen === ""));
  set(usual);
  for (const c of waiting) assert.equal(await c.status(), 200, c.seen);
  waiting.forEach((c) => c.close());
  assert.equal((await t.stop()).code, 0);
  assert.equal(t.child.stderr.match(/file descriptors run short/g)?.length, 1, t.child.stderr);
});
