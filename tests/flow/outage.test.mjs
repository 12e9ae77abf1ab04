// SPDX-License-Identifier: Apache-2.0
// The network gone, TLS broken, every provider gone, clients that leave: each streaming and not. What takes time is held
// against the configured budget and against what was not tried, not against the clock of a machine that may be busy.
import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { connect, createServer } from "node:net";
import { networkInterfaces } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { blackHole, draws, seedOf } from "./campaign.mjs";
import { readStream, scratch, startTandem, startUpstream, tandem, until, user } from "./lib.mjs";
import { trouble } from "./trouble.mjs";

const CONNECT_MS = 2000; // the default; a first request may take this long, and no longer

const edge = (url) => `  - {name: edge, tier: edge, provider: openai, base_url: "${url}", model: e, region: us, clearance: internal, quality: 0.3, terminal: true, context: 64000}\n`;
const remote = (name, url, more = "") => `  - {name: ${name}, tier: cloud, provider: openai, base_url: "${url}", model: c, region: us, ` +
  `clearance: internal, quality: 0.9, context: 64000, insecure: true${more}}\n`;

async function ask(t, stream, more = {}) {
  const r = await t.post({ model: "auto", messages: user("tell me about rivers [tokens=20]"), stream, tandem: { prefer: "quality" }, ...more });
  if (!stream || r.status !== 200) {
    const body = await r.json();
    return { status: r.status, text: body.choices?.[0]?.message?.content, error: body.error, tandem: body.tandem, done: r.status === 200 };
  }
  const s = await readStream(r);
  return { status: 200, ...s, tandem: s.chunks.findLast((c) => c.tandem)?.tandem };
}

// The first request pays for finding out, at most the connect budget; the next ones do not even try. A stream that runs
// beside it all the time does not stall.
async function firstPaysNextDoNot(t, up, { probes = 1 } = {}) {
  await up.script({ match: "beside", tokens: 400, token_ms: 10 });
  const beside = t.post({ model: "edge", messages: user("beside"), stream: true });
  const gaps = beside.then(async (r) => {
    let last = Date.now(), worst = 0, bytes = 0;
    for await (const piece of r.body) { bytes += piece.length; worst = Math.max(worst, Date.now() - last); last = Date.now(); }
    return { worst, bytes };
  });
  await beside;
  const first = await ask(t, false);
  assert.equal(first.status, 200, JSON.stringify(first.error));
  assert.equal(first.tandem.target, "edge");
  assert.equal(first.tandem.degraded, true);
  const tried = first.tandem.attempts[0];
  assert.equal(tried.target, "cloud");
  assert.ok(tried.duration_ms < CONNECT_MS, `it took ${tried.duration_ms} ms to find out: nothing of the budget is left for the answer`);
  let again = 0;
  for (let i = 0; i < 20; i++) {
    const next = await ask(t, i % 2 === 0);
    assert.equal(next.tandem.target, "edge");
    assert.ok(next.done);
    again += next.tandem.attempts.some((a) => a.target === "cloud");
  }
  assert.ok(again <= probes, `${again} of 20 later requests tried the dead target`);
  const { worst, bytes } = await gaps;
  assert.ok(bytes > 0 && worst < CONNECT_MS / 2, `the stream beside it stalled for ${worst} ms`);
  return tried;
}

test("a black hole: the first request pays the connect budget, the next ones nothing, streams beside run on", async (c) => {
  const url = await blackHole("127.0.0.1");
  if (!url) return c.skip("no black hole to be had here");
  const up = await startUpstream("--tokens", "20");
  const t = await startTandem(`targets:\n${edge(up.url)}${remote("cloud", url)}`);
  await firstPaysNextDoNot(t, up);
  await t.stop();
});

test("a black hole beyond this machine: the link is down, nobody tries again but the probes", async (c) => {
  const address = Object.values(networkInterfaces()).flat().find((a) => !a.internal && a.family === "IPv4")?.address;
  const url = address && (await blackHole(address));
  if (!url) return c.skip("no black hole to be had here");
  const up = await startUpstream("--tokens", "20");
  const t = await startTandem(`targets:\n${edge(up.url)}${remote("cloud", url)}`);
  await firstPaysNextDoNot(t, up, { probes: 0 });
  await t.stop();
});

for (const stream of [true, false])
  test(`the network goes under connections that are kept: found within the connect budget, answered elsewhere, ${stream ? "streaming" : "whole"}`, async () => {
    const up = await startUpstream("--tokens", "20"), cloud = await startUpstream("--tokens", "20");
    const t = await startTandem(`targets:\n${edge(up.url)}${remote("cloud", cloud.url)}`);
    await cloud.standing({ deaf: true }); // answers once on each connection, and then no more
    let got = await ask(t, stream), asked = 1;
    assert.equal(got.tandem.target, "cloud");
    while (got.tandem.target === "cloud" && asked++ < 32) got = await ask(t, stream); // each worker has its own connection
    assert.ok(got.done);
    assert.equal(got.tandem.target, "edge");
    assert.equal(got.tandem.attempts[0].outcome, "tandem.upstream.connect");
    assert.ok(got.tandem.attempts[0].duration_ms < CONNECT_MS);
    assert.equal((await cloud.log()).requests.length, asked - 1); // none was sent twice
    await t.stop();
  });

test("no name server: the same, and names are resolved again when it is back", async () => {
  const up = await startUpstream("--tokens", "20");
  const sick = trouble();
  const dir = scratch();
  sick.dns(true);
  const t = await startTandem(`targets:\n${edge(up.url)}${remote("cloud", "http://name.invalid/v1")}`, { dir, env: sick.env(dir) });
  const tried = await firstPaysNextDoNot(t, up, { probes: 0 });
  assert.match(tried.outcome, /^tandem\.upstream\.(dns|connect)$/);
  sick.dns(false);
  await t.stop();
});

// Ends every connection with a reset once the client has begun its handshake.
async function resetter() {
  const server = createServer((s) => s.on("error", () => {}).once("data", () => s.resetAndDestroy()));
  await new Promise((r) => server.listen(0, "127.0.0.1", r));
  after(() => server.close());
  return `https://127.0.0.1:${server.address().port}/v1`;
}

for (const [name, urlOf, more] of [
  ["an unknown authority", (up) => `https://127.0.0.1:${up.tls_port}/v1`, () => ""],
  ["an expired certificate", (up) => `https://127.0.0.1:${up.tls_expired_port}/v1`, (dir) => `, ca_file: "${dir}/ca.pem"`],
  ["a certificate for another name", (up) => `https://127.0.0.1:${up.tls_wrong_host_port}/v1`, (dir) => `, ca_file: "${dir}/ca.pem"`],
  ["no client certificate where one is wanted", (up) => `https://127.0.0.1:${up.tls_mtls_port}/v1`, (dir) => `, ca_file: "${dir}/ca.pem"`],
  ["a reset in the handshake", () => resetter(), () => ""],
]) {
  test(`TLS broken (${name}): answered elsewhere, nothing was sent, streaming and not`, async () => {
    const dir = scratch();
    const up = await startUpstream("--tokens", "20", "--tls", dir);
    for (const stream of [true, false]) {
      const t = await startTandem(`targets:\n${edge(up.url)}${remote("cloud", await urlOf(up), more(dir))}`);
      const got = await ask(t, stream);
      assert.equal(got.status, 200, JSON.stringify(got.error));
      assert.equal(got.tandem.target, "edge");
      assert.equal(got.tandem.degraded, true);
      assert.match(got.tandem.attempts[0].outcome, /^tandem\.upstream\.(tls|connect|cut)$/);
      assert.equal(got.tandem.attempts.filter((a) => a.target === "cloud").length, 1, "a broken TLS is not tried again");
      await t.stop();
    }
    const { requests } = await up.log();
    assert.ok(requests.every((r) => !r.tls), "a request went through a TLS that is broken");
  });
}

for (const stream of [true, false])
  test(`all providers gone, ${stream ? "streaming" : "whole"}: the device answers; without one, a typed error says so at once`, async () => {
    const up = await startUpstream("--tokens", "20"), a = await startUpstream(), b = await startUpstream();
    const both = remote("cloud", a.url) + remote("other", b.url);
    const with_edge = await startTandem(`targets:\n${edge(up.url)}${both}`), without = await startTandem(`targets:\n${both}`);
    await a.down(true);
    await b.down(true);
    for (let i = 0; i < 5; i++) {
      const got = await ask(with_edge, stream);
      assert.equal(got.tandem.target, "edge");
      assert.equal(got.tandem.degraded, true);
      const none = await ask(without, stream);
      assert.ok([502, 503].includes(none.status), `${none.status}`);
      assert.match(none.error.code, /^tandem\./);
    }
    await a.down(false);
    await b.down(false);
    await until(async () => (await ask(without, stream)).status === 200, "the providers to be used again");
    await with_edge.stop();
    await without.stop();
  });

const LEAVERS = 60;
const SEED = seedOf("leavers", LEAVERS);
test(`clients that leave at ${LEAVERS} random moments: all is stopped, metered and given back`, async () => {
  const up = await startUpstream("--tokens", "60", "--token-ms", "2", "--first-token-ms", "5");
  const t = await startTandem(`targets:\n${remote("cloud", up.url, ", price: {input: 2.5, output: 10}")}`);
  const { hostname, port } = new URL(t.url);
  const fds = () => readdirSync(`/proc/${t.child.proc.pid}/fd`).length;
  await ask(t, true);
  const before = fds();
  const leave = (i) => new Promise((resolve) => {
    const d = draws(SEED, i), how = d.pick(["fin", "rst", "half"]);
    const body = JSON.stringify({ model: "auto", stream: d.chance(70), messages: user(`leaver ${i}`) });
    const request = `POST /v1/chat/completions HTTP/1.1\r\nHost: ${hostname}:${port}\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`;
    const send = d.chance(20) ? d.below(request.length) : request.length; // some leave before they have said all
    const s = connect(Number(port), hostname, () => {
      s.write(request.slice(0, send));
      setTimeout(() => {
        if (how === "rst") s.resetAndDestroy();
        else if (how === "half") { s.end(); setTimeout(() => s.destroy(), d.below(20)); } // half-closed first
        else s.destroy();
      }, d.below(160));
    });
    s.on("error", () => {}).on("data", () => {}).on("close", resolve);
  });
  for (let i = 0; i < LEAVERS; i += 10) await Promise.all(Array.from({ length: 10 }, (_, k) => leave(i + k)));
  await until(async () => (await up.log()).requests.every((r) => r.ended_ms >= 0 || r.closed_ms >= 0), "every upstream request to end");
  await until(async () => /^tandem_requests_running 0$/m.test(await (await fetch(t.url + "/metrics")).text()), "no request to be running");
  await until(() => fds() <= before + 2, `descriptors to be given back (${before} before, ${fds()} now)`);
  const rows = JSON.parse((await tandem(["ledger", "stats", "--json", "--config", t.file])).stdout);
  const seen = (await up.log()).requests.length;
  assert.equal(rows.attempts >= seen, true, `${rows.attempts} rows for ${seen} attempts`);
  const tail = JSON.parse((await tandem(["ledger", "tail", "--json", "--config", t.file])).stdout).rows;
  for (const r of tail.filter((x) => x.outcome === "cancelled" && x.completion_tokens > 0)) assert.ok(r.cost_nusd > 0);
  assert.equal((await ask(t, true)).text.length > 0, true);
  await t.stop();
});

// What is left out at 50 ms here is measured by `bench/resilience.mjs build cancel`.
test("a client leaves: provider and device are both told to stop", async () => {
  const up = await startUpstream("--tokens", "2000", "--token-ms", "5");
  const t = await startTandem(`targets:\n${remote("cloud", up.url)}  - {name: device, tier: device, provider: llama, model: "${join(process.env.BUILD, "tests/support/slow.gguf")}", ` +
    "parallel: 1, capabilities: [chat, completion]}\n");
  for (const model of ["cloud", "device"]) {
    const leaver = new AbortController();
    const r = await fetch(t.url + "/v1/completions", { method: "POST", signal: leaver.signal, headers: { "content-type": "application/json" },
      body: JSON.stringify({ model, stream: true, prompt: "one two three", max_tokens: 2000 }) });
    await r.body.getReader().read();
    leaver.abort();
    if (model === "cloud") {
      const seen = await up.log("?requests=1&closed=1&timeout_ms=10000");
      assert.ok(seen.requests[0].closed_ms > 0 && seen.requests[0].tokens < 1000);
    } else {
      // One sequence at a time: the next request is served only if the first has let go.
      const next = await t.post({ model, prompt: "four", max_tokens: 2 }, "/v1/completions");
      assert.equal(next.status, 200, await next.text());
    }
    const row = await until(async () => JSON.parse((await tandem(["ledger", "tail", "--json", "--config", t.file])).stdout).rows
      .find((x) => x.target === model && x.outcome === "cancelled"), `the row of ${model}`);
    assert.ok(row.completion_tokens < 1500, `${row.completion_tokens} tokens were made for nobody`);
  }
  await t.stop();
});
