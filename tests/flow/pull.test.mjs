// SPDX-License-Identifier: Apache-2.0
// `tandem models`: from an HTTPS server that cuts, from a repository as Hugging Face lists it, from a folder; resumed
// also after a kill, verified, and usable by name afterwards.
import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { copyFileSync, existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { createServer } from "node:https";
import { join } from "node:path";
import { after, test } from "node:test";
import { ROOT, TANDEM, scratch, tandem, until } from "./lib.mjs";

const dir = scratch();
const model = readFileSync(join(ROOT, "models/starter.gguf"));
const sha = createHash("sha256").update(model).digest("hex");
execFileSync("openssl", ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
  "-keyout", join(dir, "key.pem"), "-out", join(dir, "ca.pem"), "-subj", "/CN=127.0.0.1",
  "-addext", "subjectAltName=IP:127.0.0.1"], { stdio: "ignore" });

// Serves /model.gguf with ranges; `plan` says what to do with each request for it: a number cuts after so many bytes,
// a function answers itself. What is left unsaid is served whole.
let plan = [], seen = [], etag = '"v1"', slow = 0;
const listing = {};
const server = createServer({ key: readFileSync(join(dir, "key.pem")), cert: readFileSync(join(dir, "ca.pem")) }, (q, r) => {
  seen.push({ url: q.url, range: q.headers.range, ifRange: q.headers["if-range"], auth: q.headers.authorization });
  if (listing[q.url]) return r.end(JSON.stringify(listing[q.url]));
  if (!q.url.endsWith(".gguf")) return r.writeHead(404).end();
  const step = plan.shift();
  if (typeof step === "function") return step(q, r);
  const asked = /^bytes=(\d+)-$/.exec(q.headers.range ?? "");
  const from = asked && q.headers["if-range"] === etag ? Number(asked[1]) : 0;
  const head = { "content-type": "application/octet-stream", etag, "content-length": model.length - from };
  if (from) head["content-range"] = `bytes ${from}-${model.length - 1}/${model.length}`;
  r.writeHead(from ? 206 : 200, head);
  if (step === undefined && !slow) return r.end(model.subarray(from));
  if (step !== undefined) return r.write(model.subarray(from, from + step), () => r.socket.destroy());
  let at = from; // slowly, so that a kill finds it at work
  const timer = setInterval(() => {
    if (at >= model.length || r.destroyed) return clearInterval(timer), r.end();
    r.write(model.subarray(at, (at += 65536)));
  }, slow);
});
await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
after(() => { server.closeAllConnections(); server.close(); });
const base = `https://127.0.0.1:${server.address().port}`;

let homes = 0;
function home() {
  const path = join(dir, `home${homes++}`);
  mkdirSync(path);
  plan = []; seen = []; etag = '"v1"'; slow = 0;
  return { path, data: join(path, "data"), file: join(path, "data/models/model.gguf"),
    env: { ...process.env, HOME: path, HF_ENDPOINT: base, HF_TOKEN: "hf_secret" },
    run(...args) { return tandem(["models", ...args, "--ca-file", join(dir, "ca.pem"), "--data-dir", join(path, "data")],
      { env: this.env, cwd: path }); } };
}
const digest = (file) => createHash("sha256").update(readFileSync(file)).digest("hex");

test("a download that is cut goes on where it stopped, and is verified", async () => {
  const h = home();
  plan = [100_000, 0, 250_000];
  const r = await h.run("pull", `${base}/model.gguf`, "--sha256", sha, "--json");
  assert.equal(r.code, 0, r.stderr);
  assert.deepEqual(JSON.parse(r.stdout), { name: "model.gguf", sha256: sha, bytes: model.length, verified: true });
  assert.equal(digest(h.file), sha);
  assert.ok(!existsSync(`${h.file}.part`) && !existsSync(`${h.file}.part.etag`));
  const starts = seen.map((s) => Number(/\d+/.exec(s.range ?? "bytes=0")[0]));
  assert.equal(seen.length, 4);
  assert.ok(starts[3] > 0 && starts[3] <= 350_000 && starts.every((s, i) => !i || s >= starts[i - 1]), `${starts}`);
  assert.ok(seen.every((s) => s.auth === undefined), "the token is for Hugging Face alone");
});

test("a download that is killed goes on in the next run", async () => {
  const h = home();
  slow = 5;
  const child = spawn(TANDEM, ["models", "pull", `${base}/model.gguf`, "--ca-file", join(dir, "ca.pem"), "--data-dir", h.data],
    { env: h.env, cwd: h.path, stdio: "ignore" });
  const gone = new Promise((resolve) => child.on("close", resolve));
  await until(() => existsSync(`${h.file}.part`) && statSync(`${h.file}.part`).size > 200_000, "half a file");
  child.kill("SIGKILL");
  await gone;
  const have = statSync(`${h.file}.part`).size;
  assert.ok(have < model.length);
  slow = 0;
  const r = await h.run("pull", `${base}/model.gguf`, "--json");
  assert.equal(r.code, 0, r.stderr);
  assert.equal(seen.at(-1).range, `bytes=${have}-`);
  assert.equal(digest(h.file), sha);
});

test("a file that changed meanwhile starts afresh; a wrong digest is refused and leaves nothing", async () => {
  const h = home();
  plan = [200_000, (q, r) => { etag = '"v2"'; plan = []; server.emit("request", q, r); }];
  assert.equal((await h.run("pull", `${base}/model.gguf`, "--sha256", sha)).code, 0);
  assert.equal(digest(h.file), sha);
  const w = home();
  const r = await w.run("pull", `${base}/model.gguf`, "--sha256", "0".repeat(64));
  assert.equal(r.code, 1);
  assert.match(r.stderr, /SHA-256 is .* expected 0000/);
  assert.ok(!existsSync(w.file) && !existsSync(`${w.file}.part`));
});

test("what is no model, not there, or not trusted is said plainly", async () => {
  const h = home();
  plan = [(q, r) => r.end("<html>please log in</html>")];
  let r = await h.run("pull", `${base}/model.gguf`);
  assert.equal(r.code, 1);
  assert.match(r.stderr, /not a GGUF file/);
  assert.ok(!existsSync(`${h.file}.part`));
  r = await h.run("pull", `${base}/nothing`);
  assert.match(r.stderr, /HTTP status 404/);
  r = await tandem(["models", "pull", `${base}/model.gguf`, "--data-dir", h.data], { env: h.env, cwd: h.path });
  assert.equal(r.code, 1);
  assert.match(r.stderr, /tandem\.upstream\.tls/);
});

test("a repository by name: listing, digest, credentials that do not follow a redirect to elsewhere", async () => {
  const h = home();
  const other = createServer({ key: readFileSync(join(dir, "key.pem")), cert: readFileSync(join(dir, "ca.pem")) },
    (q, r) => { seen.push({ url: q.url, auth: q.headers.authorization, elsewhere: true }); r.writeHead(200, { etag: '"x"' }); r.end(model); });
  await new Promise((resolve) => other.listen(0, "127.0.0.1", resolve));
  after(() => other.close());
  listing["/api/models/maker/small/tree/main?recursive=true"] =
    [{ path: "README.md" }, { path: "model.gguf", lfs: { oid: sha, size: model.length } }];
  plan = [(q, r) => r.writeHead(302, { location: `https://127.0.0.1:${other.address().port}/blob.gguf` }).end()];
  const r = await h.run("pull", "maker/small", "--json");
  assert.equal(r.code, 0, r.stderr);
  assert.equal(JSON.parse(r.stdout).verified, true, "the published digest was compared");
  assert.deepEqual(seen.map((s) => [s.auth, !!s.elsewhere]),
    [["Bearer hf_secret", false], ["Bearer hf_secret", false], [undefined, true]]);
  listing["/api/models/maker/two/tree/main?recursive=true"] = [{ path: "a.gguf" }, { path: "b.gguf" }];
  const two = await h.run("pull", "maker/two");
  assert.equal(two.code, 2);
  assert.match(two.stderr, /2 GGUF files.*owner\/name:file/);
});

test("from a folder; add, list, use by name, rm", async () => {
  const h = home();
  mkdirSync(join(h.path, "usb"));
  copyFileSync(join(ROOT, "models/starter.gguf"), join(h.path, "usb/model.gguf"));
  writeFileSync(join(h.path, "usb/notes.txt"), "x");
  assert.equal((await h.run("pull", join(h.path, "usb"))).code, 0);
  assert.equal(digest(h.file), sha);
  assert.equal((await h.run("add", join(h.path, "usb/model.gguf"), "--name", "second")).code, 0);
  const list = JSON.parse((await h.run("list", "--json")).stdout).models;
  assert.deepEqual(list.map((m) => [m.name, m.sha256]).sort(), [["model.gguf", sha], ["second", sha]]);
  writeFileSync(join(h.path, "tandem.yaml"), `version: 1\ndata_dir: ${h.data}\ntargets:\n` +
    `  - {name: mine, tier: device, provider: llama, model: model.gguf}\n`);
  const asked = await tandem(["ask", "--json", "set a timer for 10 minutes"], { env: h.env, cwd: h.path });
  assert.equal(asked.code, 0, asked.stderr);
  assert.match(asked.stdout, /"target":"mine"/);
  assert.equal((await h.run("rm", "second")).code, 0);
  assert.ok(existsSync(join(h.path, "usb/model.gguf")), "a file that was added stays its owner's");
  assert.equal((await h.run("rm", "model.gguf")).code, 0);
  assert.ok(!existsSync(h.file));
  assert.equal((await h.run("rm", "model.gguf")).code, 1);
});

test("the progress bar, on a terminal only", async () => {
  const h = home();
  const plain = await h.run("pull", `${base}/model.gguf`);
  assert.doesNotMatch(plain.stderr, /%/);
  const shown = await new Promise((resolve) => {
    let out = "";
    const child = spawn("script", ["-qec", `${TANDEM} models pull ${base}/model.gguf --ca-file ${dir}/ca.pem --data-dir ${home().data}`, "/dev/null"],
      { env: h.env, cwd: h.path });
    child.stdout.on("data", (d) => (out += d));
    child.on("close", () => resolve(out));
  });
  assert.match(shown, /\[#+ *\] +\d+ %  [\d.]+ MiB of [\d.]+ MiB/);
  assert.match(shown, /SHA-256 [0-9a-f]{64}/);
});
