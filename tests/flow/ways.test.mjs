// SPDX-License-Identifier: Apache-2.0
// The ways to a provider that companies have: private authorities, client certificates, proxies that want credentials,
// headers of their own, paths in Azure's style; and names that no name server answers for.
import assert from "node:assert/strict";
import { createSocket } from "node:dgram";
import { spawnSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { TANDEM, cloud, readStream, scratch, startTandem, startUpstream, stopLater, tandem, user } from "./lib.mjs";

const target = (url, extra = "") =>
  `targets:\n  - {name: far, tier: cloud, provider: openai, base_url: "${url}", model: big, region: us, clearance: internal, ` +
  `quality: 0.9, context: 128000, timeouts: {connect_ms: 4000, first_token_ms: 8000, idle_ms: 8000, total_ms: 20000}${extra}}\n`;

async function outcome(t, stream = false) {
  const r = await t.post({ model: "auto", messages: user("ECHO:arrived"), stream });
  if (r.status !== 200) return (await r.json()).error.code;
  return stream ? (await readStream(r)).text : (await r.json()).choices[0].message.content;
}

async function through(config, options) {
  const t = await startTandem(config, options);
  const result = [await outcome(t), await outcome(t, true)];
  await t.stop();
  return result;
}

const both = (x) => [x, x];

test("a private authority is trusted where it is named, and only there", async () => {
  const dir = scratch(), up = await startUpstream("--tls", dir);
  const at = (port) => `https://127.0.0.1:${port}/v1`, ca = `, ca_file: "${dir}/ca.pem"`;
  assert.deepEqual(await through(target(at(up.tls_port), ca)), both("arrived"));
  await up.reset();
  assert.deepEqual(await through(target(at(up.tls_port))), both("tandem.upstream.tls"));
  assert.deepEqual(await through(target(at(up.tls_expired_port), ca)), both("tandem.upstream.tls"));
  assert.deepEqual(await through(target(at(up.tls_wrong_host_port), ca)), both("tandem.upstream.tls"));
  assert.deepEqual(await through(target(at(up.port), ca)), both("tandem.upstream.tls"), "it speaks no TLS");
  assert.equal((await up.log()).requests.length, 0, "nothing was sent to whom could not be verified");
});

test("a client certificate is shown where the provider wants one", async () => {
  const dir = scratch(), up = await startUpstream("--tls", dir);
  const url = `https://127.0.0.1:${up.tls_mtls_port}/v1`, ca = `, ca_file: "${dir}/ca.pem"`;
  const own = `${ca}, client_cert: "${dir}/client.pem", client_key: "${dir}/client.key"`;
  assert.deepEqual(await through(target(url, own)), both("arrived"));
  await up.reset();
  for (const code of await through(target(url, ca))) assert.match(code, /^tandem\.upstream\.(tls|cut|connect)$/);
  assert.equal((await up.log()).requests.length, 0);
});

test("a proxy is used with its credentials, which come from the environment and appear nowhere", async () => {
  const dir = scratch(), secret = "s3cretOfTheProxy";
  const basic = `Basic ${Buffer.from(`user:${secret}`).toString("base64")}`;
  const up = await startUpstream("--tls", dir, "--proxy-auth", basic);
  const url = `https://127.0.0.1:${up.tls_port}/v1`, ca = `, ca_file: "${dir}/ca.pem"`;
  const proxy = `, proxy: "http://env:PROXY_AUTH@127.0.0.1:${up.port}"`;
  const t = await startTandem(target(url, ca + proxy), { env: { PROXY_AUTH: `user:${secret}` }, args: ["--verbose"] });
  assert.equal(await outcome(t), "arrived");
  assert.equal(await outcome(t, true), "arrived");
  await t.stop();
  const seen = (await up.log()).requests;
  assert.equal(seen[0].method, "CONNECT");
  assert.ok(seen.some((r) => r.method === "POST" && !JSON.stringify(r.headers).includes("Basic")), "the provider is not told the proxy's credentials");
  assert.ok(!t.child.stderr.includes(secret) && !t.child.stderr.includes(basic.slice(6)), "the log");
  await up.reset();
  assert.deepEqual(await through(target(url, ca + proxy), { env: { PROXY_AUTH: "user:wrong" } }), both("tandem.upstream.auth"));
  assert.equal((await up.log()).requests.filter((r) => r.method === "POST").length, 0);
  // The proxy is gone: no way round it.
  const down = `, proxy: "http://127.0.0.1:1"`;
  for (const code of await through(target(url, ca + down))) assert.match(code, /^tandem\.upstream\.connect$/);
  // One that stands in the environment, where any program may have left it, is not used.
  const env = { https_proxy: "http://127.0.0.1:1", http_proxy: "http://127.0.0.1:1", ALL_PROXY: "http://127.0.0.1:1" };
  assert.deepEqual(await through(target(url, ca), { env }), both("arrived"));
});

test("headers of one's own, a key under another name and Azure's paths", async () => {
  const up = await startUpstream();
  const base = up.url.replace("/v1", "");
  const t = await startTandem(target(base, `, path_style: azure, api_version: "2024-10-21", api_key: env:AZURE_KEY, headers: {x-project: blue, x-team: "a b"}`)
    .replace("model: big", 'model: "my gpt/4"'), { env: { AZURE_KEY: "k-1234" } });
  await outcome(t);
  const [seen] = (await up.log()).requests;
  assert.equal(seen.path, "/openai/deployments/my%20gpt%2F4/chat/completions?api-version=2024-10-21");
  assert.equal(seen.headers["api-key"], "k-1234");
  assert.equal(seen.headers.authorization, undefined);
  assert.equal(seen.headers["x-project"], "blue");
  assert.equal(seen.headers["x-team"], "a b");
  await t.stop();
  await up.reset();
  const other = await startTandem(target(up.url, `, auth_header: x-api-key, api_key: env:K`), { env: { K: "k-5678" } });
  assert.equal(await outcome(other), "arrived");
  assert.equal((await up.log()).requests[0].headers["x-api-key"], "k-5678");
});

test("a key may lie in a file, and a key that cannot be had sends nothing", async () => {
  const up = await startUpstream("--api-key", "from-a-file"), dir = scratch(), file = join(dir, "key");
  writeFileSync(file, "from-a-file\n", { mode: 0o600 });
  assert.deepEqual(await through(target(up.url, `, api_key: "file:${file}"`)), both("arrived"));
  await up.reset();
  const dirT = scratch(), config = join(dirT, "t.yaml");
  writeFileSync(config, `version: 1\ndata_dir: ${dirT}/data\n${target(up.url, ", api_key: sk-in-the-configuration")}`);
  const r = await tandem(["check", "--config", config]);
  assert.equal(r.code, 2, "a key in the configuration itself is refused");
  assert.ok(!(r.stdout + r.stderr).includes("sk-in-the-configuration"));
  assert.equal((await up.log()).requests.length, 0);
});

// A name server that takes every question and answers none, put in the place of the machine's own for one process.
const HOLE = "127.53.0.9";
const canUnshare = process.getuid?.() === 0 && spawnSync("unshare", ["--mount", "true"]).status === 0;
const hole = await new Promise((resolve) => {
  const s = createSocket("udp4");
  let asked = 0;
  s.once("error", () => resolve(null));
  s.on("message", () => asked++);
  s.bind(53, HOLE, () => resolve({ close: () => s.close(), get asked() { return asked; } }));
});
if (hole) stopLater(() => hole.close());

test("names that nobody answers for disturb no stream", { skip: canUnshare && hole ? false : "needs root to replace the name server" }, async () => {
  const dir = scratch(), up = await startUpstream("--tokens", "150", "--token-ms", "20");
  writeFileSync(join(dir, "resolv.conf"), `nameserver ${HOLE}\noptions timeout:20 attempts:1\n`);
  // The wrapper replaces itself with the daemon: signals and exit status are the daemon's own.
  const wrapper = join(dir, "tandem");
  writeFileSync(wrapper, `#!/bin/sh\nexec unshare --mount --propagation private sh -c 'mount --bind "${dir}/resolv.conf" /etc/resolv.conf && exec "${TANDEM}" "$@"' sh "$@"\n`, { mode: 0o755 });
  const dark = (n) => `  - {name: dark${n}, tier: cloud, provider: openai, base_url: "https://dark${n}.example/v1", model: m, region: us, clearance: internal, ` +
    `quality: 0.1, timeouts: {connect_ms: 700, first_token_ms: 2000, idle_ms: 2000, total_ms: 5000}}\n`;
  const t = await startTandem(`targets:\n${cloud("cloud", up.url)}${[0, 1, 2, 3].map(dark).join("")}probe_interval_ms: 1000\n`,
    { args: ["--workers", "1"], program: wrapper });
  let longest = 0;
  const live = Array.from({ length: 4 }, async () => {
    const r = await t.post({ model: "cloud", messages: user("about rivers"), stream: true });
    let last = performance.now(), text = "";
    for await (const piece of r.body.pipeThrough(new TextDecoderStream())) {
      longest = Math.max(longest, performance.now() - last);
      last = performance.now();
      text += piece;
    }
    return text;
  });
  const errors = await Promise.all(Array.from({ length: 16 }, async (_, i) => {
    const stop = new AbortController();
    const asked = fetch(t.url + "/v1/chat/completions", { method: "POST", signal: stop.signal, headers: { "content-type": "application/json" },
      body: JSON.stringify({ model: `dark${i % 4}`, messages: user("x") }) });
    if (i % 4 === 3) { // gone in the middle of the look-up, which is when a library may wait for its thread
      setTimeout(() => stop.abort(), 200);
      return asked.then(() => "answered", () => "aborted");
    }
    return (await (await asked).json()).error.code;
  }));
  for (const e of errors) assert.match(e, /^(aborted|tandem\.(upstream\.(dns|connect)|policy\.no_target|overload))$/);
  for (const text of await Promise.all(live)) assert.ok(text.endsWith("data: [DONE]\n\n"), text.slice(-200));
  assert.ok(hole.asked > 0, "the name server was asked");
  // A look-up that is waited for takes 20 s; anything near a stall of the loop would show as seconds here.
  assert.ok(longest < 5000, `a stream stood still for ${Math.round(longest)} ms`);
  assert.equal(await outcome(t), "arrived");
  const from = performance.now();
  await t.stop();
  assert.ok(performance.now() - from < 15000, "and the end does not wait for the name server");
});
