// SPDX-License-Identifier: Apache-2.0
// A provider that speaks HTTP/2: one connection carries many streams, GOAWAY and RST_STREAM come in the middle of
// answers, and a caller that goes away resets its own stream and no other.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import http2 from "node:http2";
import { join } from "node:path";
import { test } from "node:test";
import { readStream, scratch, startTandem, stopLater, until, user } from "./lib.mjs";

const dir = scratch();
execFileSync("openssl", ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
  "-subj", "/CN=h2 test", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
  "-keyout", join(dir, "key.pem"), "-out", join(dir, "ca.pem")], { stdio: "ignore" });

const WORDS = Array.from({ length: 40 }, (_, i) => `word${i} `);
const chunk = (delta, finish = null) => `data: ${JSON.stringify({ id: "c", object: "chat.completion.chunk", created: 1, model: "h2-model",
  choices: [{ index: 0, delta, finish_reason: finish }] })}\n\n`;

// Answers every chat with WORDS (from where a prefix ends), a word each millisecond. `act(stream, words, request)` is
// called before each word and may end things; what it returns true for has been ended by it.
// `differs`: no two streams begin alike, so that nothing can be spliced.
async function startH2(act = () => {}, { differs = false } = {}) {
  const server = http2.createSecureServer({ key: readFileSync(join(dir, "key.pem")), cert: readFileSync(join(dir, "ca.pem")) });
  const self = { server, sessions: [], requests: 0, resets: [], bodies: [] };
  server.on("session", (s) => { self.sessions.push(s); s.on("error", () => {}); });
  server.on("sessionError", () => {});
  server.on("stream", (stream) => {
    let body = "";
    stream.on("error", () => {});
    stream.on("close", () => { self.resets.push(stream.rstCode); clearInterval(stream.timer); });
    stream.on("data", (d) => (body += d)).on("end", () => {
      const number = self.requests++, request = JSON.parse(body);
      self.bodies.push(request);
      const last = request.messages.at(-1), said = last.role === "assistant" ? last.content : "";
      let at = said ? Math.max(0, WORDS.findIndex((_, i) => WORDS.slice(0, i + 1).join("").length >= said.length) + 1) : 0, sent = 0;
      if (!request.stream) {
        stream.respond({ ":status": 200, "content-type": "application/json" });
        stream.end(JSON.stringify({ id: "c", object: "chat.completion", created: 1, model: "h2-model",
          choices: [{ index: 0, message: { role: "assistant", content: WORDS.slice(at).join("") }, finish_reason: "stop" }],
          usage: { prompt_tokens: 3, completion_tokens: 40, total_tokens: 43 } }));
        return;
      }
      stream.respond({ ":status": 200, "content-type": "text/event-stream" });
      stream.write(chunk({ role: "assistant", content: differs ? `(${number}) ` : "" }));
      stream.timer = setInterval(() => {
        if (stream.closed || act(stream, sent, number, request)) return clearInterval(stream.timer);
        if (at < WORDS.length) { sent++; stream.write(chunk({ content: WORDS[at++] })); return; }
        clearInterval(stream.timer);
        stream.end(chunk({}, "stop") + "data: [DONE]\n\n");
      }, 1);
    });
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  stopLater(() => { for (const s of self.sessions) s.destroy(); server.close(); });
  self.url = `https://localhost:${server.address().port}/v1`;
  return self;
}

const target = (url, extra = "") => `targets:\n  - {name: h2, tier: cloud, provider: openai, base_url: "${url}", model: m, region: us, ` +
  `clearance: internal, quality: 0.9, context: 128000, ca_file: "${join(dir, "ca.pem")}", timeouts: {connect_ms: 5000, first_token_ms: 10000, idle_ms: 10000, total_ms: 60000}${extra}}\n`;
const one = { args: ["--workers", "1"] }; // so that all requests share one engine
const TEXT = WORDS.join("");
const ask = (t, stream = true, signal) => fetch(t.url + "/v1/chat/completions", { method: "POST", signal,
  headers: { "content-type": "application/json" }, body: JSON.stringify({ model: "auto", messages: user("x"), stream }) });

test("answers come over HTTP/2, streamed and whole, on one connection", async () => {
  const up = await startH2();
  const t = await startTandem(target(up.url), one);
  for (let i = 0; i < 3; i++) {
    const s = await readStream(await ask(t));
    assert.equal(s.text, TEXT);
    assert.ok(s.done);
    assert.equal((await (await ask(t, false)).json()).choices[0].message.content, TEXT);
  }
  assert.equal(up.sessions.length, 1);
  assert.equal(up.sessions[0].alpnProtocol, "h2");
  await t.stop();
});

test("forty streams at once share a connection and do not mix", async () => {
  const up = await startH2();
  const t = await startTandem(target(up.url), one);
  await readStream(await ask(t)); // the connection is there and known to be HTTP/2
  const all = await Promise.all(Array.from({ length: 40 }, async () => readStream(await ask(t))));
  for (const s of all) {
    assert.equal(s.text, TEXT);
    assert.equal(s.finish, "stop");
    assert.ok(s.done);
  }
  assert.equal(up.requests, 41);
  assert.equal(up.sessions.length, 1);
  await t.stop();
});

test("a polite GOAWAY in the middle: what runs is finished, what comes next gets a new connection", async () => {
  let told = false;
  const up = await startH2((stream, sent) => {
    if (sent === 10 && !told) { told = true; stream.session.close(); } // GOAWAY, and open streams may end
  });
  const t = await startTandem(target(up.url), one);
  await readStream(await ask(t));
  const running = await Promise.all(Array.from({ length: 8 }, async () => readStream(await ask(t))));
  for (const s of running) assert.equal(s.text, TEXT);
  const after = await readStream(await ask(t));
  assert.equal(after.text, TEXT);
  assert.ok(up.sessions.length >= 2, "a new connection");
  await t.stop();
});

test("a GOAWAY that drops running streams: each goes on without a seam, or ends in a typed error", async () => {
  for (const continues of [true, false]) {
    let dropped = 0;
    const up = await startH2((stream, sent) => {
      if (sent !== 15 || dropped++) return false;
      stream.session.goaway(http2.constants.NGHTTP2_INTERNAL_ERROR, 0);
      stream.session.destroy();
      return true;
    });
    const t = await startTandem(target(up.url, `, continues: ${continues}`), one);
    // Two: more at once would be more retries than the shared budget of a fresh start allows.
    const all = await Promise.all(Array.from({ length: 2 }, async () => {
      const r = await ask(t);
      return r.status === 200 ? readStream(r) : { error: (await r.json()).error, done: false };
    }));
    for (const s of all) {
      if (s.error) assert.match(s.error.code, /^tandem\./);
      else assert.equal(s.text, TEXT);
      assert.equal(s.done, !s.error, "no truncated success");
    }
    if (continues) assert.ok(all.every((s) => !s.error), "with a target that can continue all are whole");
    assert.equal((await fetch(t.url + "/healthz")).status, 200);
    assert.equal((await readStream(await ask(t))).text, TEXT, "and the next one is well");
    await t.stop();
  }
});

test("RST_STREAM in the middle of an answer: continued where the target can, else a typed error; others are untouched", async () => {
  for (const [continues, code] of [[true, "NGHTTP2_INTERNAL_ERROR"], [true, "NGHTTP2_CANCEL"], [false, "NGHTTP2_INTERNAL_ERROR"], [false, "NGHTTP2_REFUSED_STREAM"]]) {
    const up = await startH2((stream, sent, number) => {
      if (number !== 1 || sent !== 20) return false;
      stream.close(http2.constants[code]);
      return true;
    }, { differs: !continues });
    const t = await startTandem(target(up.url, `, continues: ${continues}`), one);
    await readStream(await ask(t));
    const hit = ask(t).then(readStream);
    await until(() => up.requests === 2, "the stream that will be reset");
    const [cut, ...others] = await Promise.all([hit, ...Array.from({ length: 5 }, async () => readStream(await ask(t)))]);
    if (continues) {
      assert.equal(cut.text, TEXT);
      assert.ok(cut.done);
      assert.equal(up.bodies.at(-1).messages.at(-1).role, "assistant");
    } else {
      assert.match(cut.error?.code ?? "", /^tandem\.upstream\./);
      assert.ok(!cut.done && !cut.finish);
      assert.ok(`(1) ${TEXT}`.startsWith(cut.text));
    }
    for (const s of others) assert.equal(s.text.replace(/^\(\d+\) /, ""), TEXT);
    assert.equal(up.sessions.length, 1, "the connection lives on");
    await t.stop();
  }
});

test("a caller that goes away resets its own stream, and no other", async () => {
  const up = await startH2((stream, sent, number) => number === 1 && sent === 5); // then silent, but open
  const t = await startTandem(target(up.url), one);
  await readStream(await ask(t));
  const stop = new AbortController();
  const r = await ask(t, true, stop.signal);
  const reader = r.body.getReader();
  await reader.read();
  const other = ask(t).then(readStream);
  stop.abort();
  // libcurl says STREAM_CLOSED where it is old, CANCEL where it is new.
  const { NGHTTP2_CANCEL, NGHTTP2_STREAM_CLOSED } = http2.constants;
  await until(() => up.resets.some((c) => c === NGHTTP2_CANCEL || c === NGHTTP2_STREAM_CLOSED), "RST_STREAM");
  assert.equal((await other).text, TEXT);
  assert.equal(up.sessions.length, 1);
  assert.ok(!up.sessions[0].closed, "the connection stays");
  await t.stop();
});
