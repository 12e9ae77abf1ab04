// SPDX-License-Identifier: Apache-2.0
// A web page of somebody else, in a real browser, tries everything a page can do against a Tandem on this machine:
// nothing is answered, nothing reaches a target, nothing is in the ledger. A naive server stands beside it as the proof
// that each try does arrive where nobody guards.
import assert from "node:assert/strict";
import { createServer } from "node:http";
import { test } from "node:test";
import { findBrowser, startBrowser } from "./browser.mjs";
import { cloud, startTandem, startUpstream, stopLater, tandem, until, user } from "./lib.mjs";

const program = findBrowser();
const skip = program ? false : "no browser on this machine (chromium-headless-shell, chromium)";

async function serve(handler) {
  const seen = [];
  const server = createServer((req, res) => {
    let body = "";
    req.on("data", (d) => (body += d)).on("end", () => {
      seen.push({ method: req.method, url: req.url, headers: req.headers, body });
      handler(req, res, body);
    });
  });
  server.on("upgrade", (req, socket) => { seen.push({ method: "UPGRADE", url: req.url, headers: req.headers }); socket.destroy(); });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  stopLater(() => { server.closeAllConnections(); server.close(); });
  return { seen, port: server.address().port };
}

// Runs inside the page. Each try says what a script could learn: "blocked", or what it got.
const tries = `async (base, body) => {
  const chat = base + "/v1/chat/completions", out = {};
  const attempt = async (name, fn) => {
    out[name] = await Promise.race([fn().catch(() => "blocked"), new Promise((r) => setTimeout(r, 4000, "silent"))]);
  };
  const reads = async (r) => (r.type === "opaque" ? "opaque" : r.status + " " + (await r.text()));
  const json = { "content-type": "application/json" };
  await attempt("simple", () => fetch(chat, { method: "POST", body }).then(reads));
  await attempt("preflighted", () => fetch(chat, { method: "POST", headers: json, body }).then(reads));
  await attempt("with credentials", () => fetch(chat, { method: "POST", headers: json, credentials: "include", body }).then(reads));
  await attempt("own header", () => fetch(base + "/v1/models", { headers: { "x-tandem-prefer": "fast" } }).then(reads));
  await attempt("no-cors", () => fetch(chat, { method: "POST", mode: "no-cors", body }).then(reads));
  await attempt("get", () => fetch(base + "/v1/models").then(reads));
  await attempt("metrics", () => fetch(base + "/metrics").then(reads));
  await attempt("health", () => fetch(base + "/healthz").then(reads));
  await attempt("put", () => fetch(chat, { method: "PUT", headers: json, body }).then(reads));
  await attempt("admin", () => fetch(base + "/admin/keys.create", { method: "POST", headers: json, body: "{}" }).then(reads));
  await attempt("beacon", async () => (navigator.sendBeacon(chat, new Blob([body], { type: "text/plain" })), "blocked"));
  const element = (tag, attribute, url) => () => new Promise((resolve, reject) => {
    const e = document.createElement(tag);
    e.onload = () => resolve("loaded");
    e.onerror = reject;
    e[attribute] = url;
    if (tag === "link") e.rel = "stylesheet";
    document.body.append(e);
  });
  await attempt("image", element("img", "src", base + "/v1/models?image"));
  await attempt("script", element("script", "src", base + "/v1/models?script"));
  await attempt("stylesheet", element("link", "href", base + "/v1/models?style"));
  const events = (url) => () => new Promise((resolve, reject) => {
    const es = new EventSource(url);
    es.onopen = () => { es.close(); resolve("open"); };
    es.onerror = () => { es.close(); reject(); };
  });
  await attempt("event source", events(base + "/v1/tandem/events"));
  await attempt("web socket", () => new Promise((resolve, reject) => {
    const ws = new WebSocket(chat.replace("http", "ws"));
    ws.onopen = () => resolve("open");
    ws.onerror = reject;
  }));
  const form = (enctype) => async () => {
    const f = document.createElement("form"), i = document.createElement("input"), frame = document.createElement("iframe");
    frame.name = "f" + Math.random();
    Object.assign(f, { method: "POST", action: chat + "?form", enctype, target: frame.name });
    // The old trick: name and value around the "=" that a text/plain form puts between them make up valid JSON.
    i.name = body.slice(0, -1) + ',"user":"';
    i.value = '"}';
    f.append(i);
    document.body.append(frame, f);
    const loaded = new Promise((resolve) => (frame.onload = resolve));
    f.submit();
    await loaded;
    try { return frame.contentDocument.body.textContent || "blocked"; } catch { return "blocked"; }
  };
  await attempt("form", form("text/plain"));
  await attempt("urlencoded form", form("application/x-www-form-urlencoded"));
  await attempt("worker", () => new Promise((resolve, reject) => {
    const code = "fetch(" + JSON.stringify(chat) + ", { method: 'POST', headers: { 'content-type': 'application/json' }, body: " +
      JSON.stringify(body) + " }).then((r) => postMessage(String(r.status)), () => postMessage('blocked'))";
    const w = new Worker(URL.createObjectURL(new Blob([code])));
    w.onmessage = (m) => resolve(m.data);
    w.onerror = reject;
  }));
  return out;
}`;

const BODY = JSON.stringify({ model: "auto", messages: user("ECHO:from a page") });

test("a page in a real browser gets nothing out of a Tandem, and nothing into it", { skip }, async () => {
  const up = await startUpstream();
  const t = await startTandem(`targets:\n${cloud("cloud", up.url)}`);
  const { port } = new URL(t.url);
  const page = await serve((req, res) => res.setHeader("content-type", "text/html").end("<!doctype html><body>page</body>"));
  const naive = await serve((req, res) => {
    res.setHeader("access-control-allow-origin", req.headers.origin ?? "*");
    res.setHeader("access-control-allow-headers", "*, content-type, x-tandem-prefer");
    res.setHeader("access-control-allow-methods", "*, PUT");
    res.end(req.method === "OPTIONS" ? "" : "naive");
  });
  const browser = await startBrowser(program, ["evil.example", "rebound.example"]);
  const run = async (where, base) => (await browser.open(where)).evaluate(`(${tries})(${JSON.stringify(base)}, ${JSON.stringify(BODY)})`);

  // The proof that the tries are real.
  const control = await run(`http://evil.example:${page.port}/`, `http://127.0.0.1:${naive.port}`);
  for (const name of ["simple", "preflighted", "own header", "get", "put", "admin", "health"])
    assert.equal(control[name], "200 naive", name);
  const arrived = (part) => naive.seen.some((r) => `${r.method} ${r.url} ${r.body ?? ""}`.includes(part));
  for (const part of ["?image", "?script", "?style", "UPGRADE", "/v1/tandem/events", "?form", "OPTIONS /v1/chat", "PUT /v1/chat"])
    assert.ok(arrived(part), `the naive server did not see ${part}`);
  assert.ok(naive.seen.some((r) => r.url.endsWith("?form") && JSON.parse(r.body).messages), "the form's trick makes JSON");

  // The page of another site; one of another port of this machine; one that has no origin; a rebound name.
  const sandboxed = `data:text/html,<body>`;
  for (const host of ["127.0.0.1", "localhost"])
    for (const where of [`http://evil.example:${page.port}/`, `http://localhost:${page.port}/`, sandboxed]) {
      const got = await run(where, `http://${host}:${port}`);
      for (const [name, value] of Object.entries(got))
        assert.ok(value === "blocked" || (value === "opaque" && name === "no-cors"), `${where} → ${host}: ${name} got ${value}`);
    }
  // DNS rebinding: the page's own name now leads to Tandem, so for the browser it is the same origin.
  const rebound = await browser.open(`http://rebound.example:${port}/v1/models`);
  assert.match(await rebound.evaluate("document.body.textContent"), /not served here/);
  assert.equal(await rebound.evaluate("location.origin"), `http://rebound.example:${port}`);
  const inside = await rebound.evaluate(`(${tries})("", ${JSON.stringify(BODY)})`);
  for (const [name, value] of Object.entries(inside))
    assert.ok(/^blocked$|^403 /.test(value) || /not served here/.test(value), `rebound: ${name} got ${value}`);

  assert.equal((await up.log()).requests.length, 0, "a request reached the provider");
  const { rows } = JSON.parse((await tandem(["ledger", "tail", "--json", "--config", t.file])).stdout);
  assert.equal(rows.length, 0, "the ledger has a row");
  assert.equal(JSON.parse((await tandem(["keys", "list", "--json", "--config", t.file])).stdout).keys.length, 0);
  await until(async () => (await t.post({ model: "auto", messages: user("ECHO:still here") })).status === 200, "an ordinary request");
  await t.stop();
});
