// SPDX-License-Identifier: Apache-2.0
// Bad input from clients and from providers, on the whole daemon: each gets a typed error or a clean close, nothing
// reaches a target that should not, and afterwards the daemon is well and holds no descriptor more than before.
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { test } from "node:test";
import { ROOT, cloud, raw, readStream, startTandem, startUpstream, until, user } from "./lib.mjs";

const up = await startUpstream("--tokens", "20");
const quick = ", timeouts: {connect_ms: 2000, first_token_ms: 1500, idle_ms: 1500, total_ms: 10000}";
const caps = ", capabilities: [chat, completion, embedding, tools, json, json_schema, logprobs, choices]";
const t = await startTandem(`targets:\n${cloud("cloud", up.url, caps + quick)}limits: {body_max: 65536}\n`);
const { host, hostname, port } = new URL(t.url);
const descriptors = () => readdirSync(`/proc/${t.child.proc.pid}/fd`).length;

// Well: ready, and an ordinary request is answered.
async function well() {
  assert.equal(t.child.exited, null, t.child.stderr.slice(-2000));
  assert.equal((await fetch(t.url + "/healthz")).status, 200);
  await up.reset();
  const r = await until(async () => { // what failed a moment ago may still keep the target's breaker open
    const r = await t.post({ model: "auto", messages: user("ECHO:well") });
    if (r.status === 200) return r;
    await r.text();
  }, "an ordinary request to be answered", 30000);
  assert.equal((await r.json()).choices[0].message.content, "well");
}

// Runs it twice: what the first run opened for good (connections that are kept, for one) the second must not open again.
// `once`: for what takes long and comes when all is open already.
async function leavesNothing(run, { once = false } = {}) {
  if (!once) await run();
  await well();
  const before = descriptors();
  await run();
  await well();
  await until(() => descriptors() <= before + 2, `the descriptors to come back to ${before}, are ${descriptors()}`);
}

async function typed(response, ...statuses) {
  const text = await response.text();
  let body;
  try { body = JSON.parse(text); } catch { assert.fail(`no JSON: ${response.status} ${text.slice(0, 200)}`); }
  assert.ok(statuses.includes(response.status), `${response.status} ${text.slice(0, 200)}`);
  assert.match(body.error?.code ?? "", /^tandem\./, text.slice(0, 200));
  assert.ok(body.error.message.length > 0);
  assert.ok(!/[\u0000-\u001f]/.test(body.error.message));
  return body.error;
}

const nested = (depth, inside = "1") => "[".repeat(depth) + inside + "]".repeat(depth);
const chat = (fields, messages = user("x")) => ({ model: "auto", messages, ...fields });

const badBodies = {
  // what is no JSON
  empty: "", space: "  \n", word: "hello", half: '{"model":', trailing: '{"model":"auto"} x', comma: '{"model":"auto",}', single: "{'model':'auto'}",
  comment: '{/* */"model":"auto"}', nan: '{"model":"auto","temperature":NaN}', infinity: '{"model":"auto","temperature":Infinity}',
  "leading zero": '{"model":"auto","n":01}', hex: '{"model":"auto","n":0x1}', bom: '\ufeff{"model":"auto","messages":[]}',
  "raw newline in a string": '{"model":"au\nto"}', "nul byte": '{"model":"au\0to"}', "nul byte outside": '{"model":"auto"}\0',
  "lone surrogate": '{"model":"auto","messages":[{"role":"user","content":"\\ud800"}]}', "bad escape": '{"model":"a\\qb"}',
  "two values": "{}{}", array: "[]", string: '"auto"', number: "1", null: "null", true: "true",
  "too deep": `{"model":"auto","messages":[{"role":"user","content":"x"}],"metadata":${nested(65)}}`,
  "escaped nul": chat({}, user("ECHO:\u0000 inside")), "bottomless": "[".repeat(60000), "bottomless object": '{"a":'.repeat(12000),
  // wrong types and ranges
  "model number": chat({ model: 5 }), "model null object": chat({ model: {} }), "messages missing": { model: "auto" }, "messages null": chat({}, null),
  "messages object": chat({}, {}), "messages empty": chat({}, []), "message string": chat({}, ["x"]), "message null": chat({}, [null]),
  "role missing": chat({}, [{ content: "x" }]), "role unknown": chat({}, [{ role: "root", content: "x" }]), "role number": chat({}, [{ role: 1, content: "x" }]),
  "content number": chat({}, [{ role: "user", content: 7 }]), "content parts of nothing": chat({}, [{ role: "user", content: [{}] }]),
  "part of unknown type": chat({}, [{ role: "user", content: [{ type: "hologram" }] }]),
  "temperature high": chat({ temperature: 99 }), "temperature text": chat({ temperature: "hot" }), "top_p negative": chat({ top_p: -1 }),
  "n zero": chat({ n: 0 }), "n many": chat({ n: 1000 }), "n negative": chat({ n: -1 }), "n huge": '{"model":"auto","messages":[{"role":"user","content":"x"}],"n":1e300}',
  "max_tokens negative": chat({ max_tokens: -5 }), "max_tokens fraction": chat({ max_tokens: 1.5 }), "max_tokens beyond 64 bits": '{"model":"auto","messages":[{"role":"user","content":"x"}],"max_tokens":99999999999999999999999}',
  "stream text": chat({ stream: "yes" }), "stop object": chat({ stop: {} }), "stop many": chat({ stop: Array(17).fill("a") }),
  "tools object": chat({ tools: {} }), "tool without name": chat({ tools: [{ type: "function", function: {} }] }), "tool_choice unknown": chat({ tool_choice: "perhaps" }),
  "response_format unknown": chat({ response_format: { type: "xml" } }), "schema missing": chat({ response_format: { type: "json_schema" } }),
  "top_logprobs high": chat({ logprobs: true, top_logprobs: 21 }), "seed text": chat({ seed: "x" }),
  "tandem text": chat({ tandem: "fast" }), "tandem unknown": chat({ tandem: { perfer: "fast" } }), "tandem deadline": chat({ tandem: { deadline_ms: -1 } }),
  "tandem cost": chat({ tandem: { max_cost_usd: "free" } }), "tandem labels": chat({ tandem: { labels: ["UPPER CASE"] } }), "tandem class": chat({ tandem: { data_class: "top-secret" } }),
  "tandem hops": chat({ tandem: { hops: 256 } }), "tandem twice": '{"model":"auto","messages":[{"role":"user","content":"x"}],"tandem":{"mode":"single","mode":"hedge"}}',
};

test("bodies that are wrong get a typed error, and reach nobody", async () => {
  await leavesNothing(async () => {
    await up.reset();
    for (const [name, body] of Object.entries(badBodies)) {
      const e = await typed(await t.post(body), 400, 413).catch((x) => { throw new Error(`${name}: ${x.message}`); });
      assert.ok(!e.message.includes("stack"), name);
    }
    for (const bytes of [[0xff, 0xfe], [0xc0, 0xaf], [0xed, 0xa0, 0x80], [0xf5, 0x80, 0x80, 0x80], [0xc3]]) {
      const body = Buffer.concat([Buffer.from('{"model":"auto","messages":[{"role":"user","content":"'), Buffer.from(bytes), Buffer.from('"}]}')]);
      const r = await fetch(t.url + "/v1/chat/completions", { method: "POST", headers: { "content-type": "application/json" }, body });
      await typed(r, 400);
    }
    for (const path of ["/v1/completions", "/v1/embeddings"])
      for (const body of ["{", "[]", { model: "auto" }, { model: "auto", prompt: 5, input: 5 }, { model: "auto", prompt: {}, input: {} }, { model: "auto", prompt: "x", input: Array(2049).fill("x") }])
        if (!(path === "/v1/completions" && body.prompt === "x")) await typed(await t.post(body, path), 400, 413);
    for (const [name, value] of [["x-tandem-deadline-ms", "soon"], ["x-tandem-prefer", "nice"], ["x-tandem-tiers", "moon"], ["x-tandem-perfer", "fast"], ["x-tandem-max-cost-usd", "-1"], ["x-tandem-hops", "999"]])
      await typed(await t.post(chat({}), undefined, { [name]: value }), 400);
    assert.equal((await up.log()).requests.length, 0);
  });
});

test("what is allowed to be deep, long and strange is answered", async () => {
  for (const body of [chat({ metadata: JSON.parse(nested(60)) }, user("ECHO:x")), chat({ user: "\u{1f600}\u202e" }, user("ECHO:\u{10ffff}")), JSON.stringify(chat({}, user("ECHO:x"))) + " ".repeat(1000), "\n\t" + JSON.stringify(chat({}, user("ECHO:x")))]) {
    const r = await t.post(body);
    assert.equal(r.status, 200, JSON.stringify(body).slice(0, 100) + (await r.clone().text()).slice(0, 200));
    await r.text();
  }
});

test("a body at its cap is read, one byte more is refused, however it is announced", async () => {
  const bare = JSON.stringify(chat({}, user("ECHO:"))).length;
  const body = (n) => JSON.stringify(chat({}, user("ECHO:" + "y".repeat(n - bare))));
  await leavesNothing(async () => {
    assert.equal((await t.post(body(65536))).status, 200);
    await typed(await t.post(body(65537)), 413);
    const chunked = (n) => fetch(t.url + "/v1/chat/completions", { method: "POST", duplex: "half", headers: { "content-type": "application/json" },
      body: new ReadableStream({ start(c) { c.enqueue(new TextEncoder().encode(body(n))); c.close(); } }) });
    assert.equal((await chunked(65536)).status, 200);
    await typed(await chunked(65537), 413);
    const lie = await raw(t.url, `POST /v1/chat/completions HTTP/1.1\r\nHost: ${host}\r\nContent-Type: application/json\r\nContent-Length: 99999999999\r\n\r\n{`);
    assert.match(lie, /^HTTP\/1\.1 413 /);
  });
});

// The vectors of the HTTP standards that must be refused: here before the whole program.
test("framing that two readers could read in two ways is refused, never repaired", async () => {
  const vectors = readFileSync(join(ROOT, "tests/support/http_vectors.txt"), "utf8").split("\n")
    .filter((l) => l && !l.startsWith("#")).map((l) => { // columns: what begins with a space is a vector too
      const [, before, name, statuses] = l.match(/^((\S+)\s+)(\S+)/);
      return [name, statuses, l.slice(before.length + 9)];
    })
    .filter(([, statuses]) => /^[45]\d\d!$/.test(statuses));
  assert.ok(vectors.length > 80, String(vectors.length));
  const bytes = (s) => Buffer.from(s.replaceAll("{H}", host)
    .replace(/\{(\d+)\*FIELD\}/g, (_, n) => "X-F: v\\r\\n".repeat(n)).replace(/\{(\d+)\*(\\x[0-9a-f]{2}|\\.|.)\}/gi, (_, n, x) => x.repeat(n))
    .replace(/\\(r|n|t|0|\\|x[0-9a-f]{2})/gi, (_, e) => (e[0] === "x" ? String.fromCharCode(parseInt(e.slice(1), 16)) : { r: "\r", n: "\n", t: "\t", 0: "\0", "\\": "\\" }[e])), "latin1");
  await leavesNothing(async () => {
    await up.reset();
    const wrong = [];
    await Promise.all(vectors.map(async ([name, statuses, text]) => {
      const got = await raw(t.url, bytes(text), 8000);
      const all = [...got.matchAll(/^HTTP\/1\.1 (\d+) /gm)].map((m) => m[1]).join(",");
      if (all !== statuses.slice(0, 3)) wrong.push(`${name}: expected ${statuses}, got ${all}`);
    }));
    assert.deepEqual(wrong, []);
    assert.equal((await up.log()).requests.length, 0);
  });
});

const open = (bytes) => new Promise((resolve) => {
  const socket = connect({ port: Number(port), host: hostname, allowHalfOpen: true }, () => {
    socket.write(bytes);
    resolve(self);
  });
  const self = { socket, got: "", ended: new Promise((done) => socket.on("close", done)) };
  socket.on("data", (d) => (self.got += d)).on("error", () => {}).on("end", () => socket.end());
});
const head = (length) => `POST /v1/chat/completions HTTP/1.1\r\nHost: ${host}\r\nContent-Type: application/json\r\nContent-Length: ${length}\r\n\r\n`;

test("header floods are refused at their caps", async () => {
  await leavesNothing(async () => {
    for (const [fields, status] of [[98, 200], [99, 431], [5000, 431]]) // with Host and Connection: at the cap and over it
      assert.match(await raw(t.url, `GET /healthz HTTP/1.1\r\nHost: ${host}\r\nConnection: close\r\n${"X-F: v\r\n".repeat(fields)}\r\n`),
        new RegExp(`^HTTP/1.1 ${status} `), `${fields} fields`);
    assert.match(await raw(t.url, `GET /healthz HTTP/1.1\r\nHost: ${host}\r\nX-F: ${"v".repeat(40000)}\r\n\r\n`), /^HTTP\/1\.1 431 /);
    assert.match(await raw(t.url, `GET /${"a".repeat(9000)} HTTP/1.1\r\nHost: ${host}\r\n\r\n`), /^HTTP\/1\.1 414 /);
  });
});

test("slow senders are told so, half-closed sockets get what they asked for or a clean end", async () => {
  const body = JSON.stringify(chat({}, user("ECHO:half")));
  await leavesNothing(async () => {
    const slow = [await open(`GET /healthz HTTP/1.1\r\nHost: ${host}\r\nX-Slow: `), await open(head(1000) + "{"), await open("")];
    const drip = setInterval(() => slow[0].socket.write("a"), 500);
    const closedAfter = await open(head(body.length) + body); // asks, and will say nothing more
    closedAfter.socket.end(); // which looks the same as going away: it gets what is ready by then, whole or not at all
    await closedAfter.ended;
    assert.ok(closedAfter.got === "" || /^HTTP\/1\.1 200 [^]*"half"/.test(closedAfter.got), closedAfter.got);
    const closedWithin = await open(head(body.length) + body.slice(0, 10)); // ends in the middle of its body
    closedWithin.socket.end();
    await closedWithin.ended;
    assert.ok(!/ 200 /.test(closedWithin.got), closedWithin.got);
    await Promise.all(slow.map((s) => s.ended));
    clearInterval(drip);
    assert.match(slow[0].got, /^HTTP\/1\.1 408 /, "a header that drips");
    assert.match(slow[1].got, /^HTTP\/1\.1 408 /, "a body that does not come");
  }, { once: true });
});

test("clients that hang up anywhere leave nothing behind", async () => {
  const body = JSON.stringify(chat({ stream: true }, user("about rivers")));
  const whole = head(body.length) + body;
  let seed = 7;
  const roll = (n) => (seed = (seed * 48271) % 2147483647) % n;
  await leavesNothing(async () => {
    for (let round = 0; round < 5; round++)
      await Promise.all(Array.from({ length: 30 }, async () => {
        const c = await open(whole.slice(0, 1 + roll(whole.length)));
        if (roll(2)) await new Promise((r) => setTimeout(r, roll(20)));
        if (roll(2)) c.socket.resetAndDestroy(); else c.socket.destroy();
        await c.ended;
      }));
  });
});

const garbage = {
  "bytes that are no HTTP": { garbage: true }, "a body of noise": { garbage_body: true }, "closes early": { close_early: true }, "resets": { reset: true },
  "headers without end": { header_flood_bytes: 1 << 20 }, "a line without end": { giant_line_bytes: 2 << 20 }, "a body without end": { giant_body_bytes: 80 << 20 },
  "a gzip bomb": { gzip_bomb_mb: 200 }, "no finish": { no_finish: true }, "a redirect": { status: 302, location: "http://127.0.0.1:1/" },
  "an error in the stream": { error_after_tokens: 5 }, "an error status with noise": { status: 500, garbage_body: true },
  "another content type": { content_type: "text/html", garbage_body: true },
};
for (const stream of [true, false])
  test(`garbage from a provider ends in a typed error, ${stream ? "streaming" : "whole"}`, async () => {
    await leavesNothing(async () => {
      for (const [name, behaviour] of Object.entries(garbage)) {
        await up.standing(behaviour);
        const r = await t.post(chat({ stream }, user("about rivers")));
        if (r.status !== 200) await typed(r, 400, 429, 500, 502, 503, 504).catch((x) => { throw new Error(`${name}: ${x.message}`); });
        else if (stream) {
          const s = await readStream(r);
          if (s.done) assert.fail(`${name}: taken for a whole answer: ${s.text.slice(0, 100)}`);
          assert.match(s.error?.code ?? "", /^tandem\./, name);
        } else {
          const { choices } = await r.json(); // an upstream may answer whole what is damaged only as a stream
          assert.equal(choices[0].finish_reason, "stop", name);
        }
        await up.reset();
        await well(); // one trouble at a time: the breaker must not hide the next
      }
    }, { once: true });
  });
