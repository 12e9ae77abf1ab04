// SPDX-License-Identifier: Apache-2.0
// What every flow test stands on: a scratch folder, the scripted upstream and a whole Tandem daemon as child processes,
// started on free ports, waited for by condition and always stopped. Environment from meson: TANDEM (the program),
// UPSTREAM (scripted-upstream), CLIENT (folder with the official client), ROOT (the source tree).
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after } from "node:test";

export const ROOT = process.env.ROOT;
export const TANDEM = process.env.TANDEM;
const DEADLINE_MS = Number(process.env.FLOW_DEADLINE_MS ?? 20000); // sanitizers are slow
export const SLOWER = DEADLINE_MS / 20000; // how much, for what plays another side that must not be the faster one

const stops = [];
after(async () => {
  const failures = [];
  for (const stop of stops.reverse()) await Promise.resolve(stop()).catch((e) => failures.push(e));
  if (failures.length) throw failures[0];
});

// Whatever a test starts it ends with this, in reverse order.
export const stopLater = (fn) => stops.push(fn);

export function scratch() {
  const dir = mkdtempSync(join(tmpdir(), "tandem-flow-"));
  stops.push(() => rmSync(dir, { recursive: true, force: true }));
  return dir;
}

// Waits until `condition` returns something truthy, and returns that.
export async function until(condition, what, ms = DEADLINE_MS) {
  const end = Date.now() + ms;
  for (;;) {
    const value = await condition();
    if (value) return value;
    if (Date.now() > end) throw new Error(`timed out waiting for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

function child(program, args, options = {}) {
  const proc = spawn(program, args, { stdio: ["pipe", "pipe", "pipe"], ...options });
  const out = { proc, stdout: "", stderr: "", exited: null };
  proc.stdout.on("data", (d) => (out.stdout += d));
  proc.stderr.on("data", (d) => (out.stderr += d));
  out.exit = new Promise((resolve) => proc.on("close", (code, signal) => resolve((out.exited = { code, signal }))));
  return out;
}

async function stopChild(c, signal = "SIGTERM") {
  if (c.exited) return c.exited;
  c.proc.kill(signal);
  const timer = setTimeout(() => c.proc.kill("SIGKILL"), DEADLINE_MS);
  const result = await c.exit;
  clearTimeout(timer);
  return result;
}

export async function startUpstream(...args) {
  const c = child(process.env.UPSTREAM, ["--port", "0", ...args]);
  stops.push(() => stopChild(c));
  await until(() => /control_port=\d+/.test(c.stdout) || c.exited, "the upstream's ports");
  const ports = Object.fromEntries([...c.stdout.matchAll(/^(\w+)=(\d+)$/gm)].map((m) => [m[1], Number(m[2])]));
  const control = (path, body) =>
    fetch(`http://127.0.0.1:${ports.control_port}${path}`, body && { method: "POST", body: JSON.stringify(body) });
  return {
    ...ports,
    url: `http://127.0.0.1:${ports.port}/v1`,
    script: (...queue) => control("/_script", { queue }),
    scriptThen: (standing, ...queue) => control("/_script", { queue, standing }),
    standing: (b) => control("/_script", { queue: [], standing: b }),
    down: (down) => control("/_down", { down }),
    reset: () => control("/_reset", {}),
    log: async (query = "") => (await control(`/_log${query}`)).json(),
    stop: () => stopChild(c),
  };
}

// A port that was free a moment ago, for what must know its own before it starts.
export function freePort() {
  return new Promise((resolve, reject) => {
    const server = createServer().once("error", reject);
    server.listen(0, "127.0.0.1", () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}

// `config` is YAML text; data_dir and listen are added.
export async function startTandem(config, { env = {}, args = [], dir = scratch(), port = 0, listen = `127.0.0.1:${port}`, program = TANDEM, before = [] } = {}) {
  const file = join(dir, "tandem.yaml");
  writeFileSync(file, `version: 1\nlisten: ${listen}\ndata_dir: ${dir}/data\n${config}`);
  // FLOW_WORKERS: so that there are threads to race, also on a machine of two cores.
  if (process.env.FLOW_WORKERS && !args.includes("--workers")) args = ["--workers", process.env.FLOW_WORKERS, ...args];
  const [first, ...rest] = [...before, program, "serve", "--config", file, "--drain", "5", ...args]; // before: such as prlimit
  const c = child(first, rest, { env: { ...process.env, ...env } });
  let stopped = false;
  const self = {
    dir, file, child: c,
    // Politely it must end well: a sanitizer's finding is a status of its own.
    stop: async (signal) => {
      const running = !c.exited;
      stopped = true;
      const end = await stopChild(c, signal);
      if (running && !signal && end.code !== 0) throw new Error(`tandem ended with ${end.code ?? end.signal}\n${c.stderr}`);
      return end;
    },
  };
  stops.push(async () => {
    if (!stopped) await self.stop();
  });
  await until(() => /listens on http/.test(c.stdout) || c.exited, "tandem to listen");
  if (c.exited) {
    stopped = true;
    throw new Error(`tandem did not start: ${c.stderr}`);
  }
  self.url = c.stdout.match(/listens on (https?:\/\/\S+)/)[1];
  self.post = (body, path = "/v1/chat/completions", headers = {}) =>
    fetch(self.url + path, {
      method: "POST", body: typeof body === "string" ? body : JSON.stringify(body),
      headers: { "content-type": "application/json", ...headers },
    });
  // What /metrics says of one metric; undefined where it has none of this name.
  self.metric = async (name) => {
    const line = (await (await fetch(self.url + "/metrics")).text()).split("\n").find((l) => l.startsWith(`${name} `));
    return line && Number(line.slice(name.length + 1));
  };
  self.client = async () => {
    const require = createRequire(join(process.env.CLIENT, "package.json"));
    const { OpenAI } = require("openai");
    return new OpenAI({ baseURL: `${self.url}/v1`, apiKey: "none", maxRetries: 0 });
  };
  return self;
}

// Runs the command line to its end.
export async function tandem(args, options = {}) {
  const c = child(TANDEM, args, options);
  if (options.input !== undefined) c.proc.stdin.write(options.input);
  c.proc.stdin.end();
  await c.exit;
  return { code: c.exited.code, stdout: c.stdout, stderr: c.stderr };
}

// All events of a stream: {chunks, text, done, error}.
export async function readStream(response) {
  const result = { chunks: [], text: "", done: false, error: null, finish: null };
  let rest = "";
  for await (const piece of response.body.pipeThrough(new TextDecoderStream())) {
    rest += piece;
    let at;
    while ((at = rest.indexOf("\n\n")) >= 0) {
      const line = rest.slice(0, at);
      rest = rest.slice(at + 2);
      if (!line.startsWith("data:")) continue;
      const data = line.slice(5).trim();
      if (data === "[DONE]") { result.done = true; continue; }
      const chunk = JSON.parse(data);
      result.chunks.push(chunk);
      if (chunk.error) result.error = chunk.error;
      const choice = chunk.choices?.[0];
      result.text += choice?.delta?.content ?? choice?.text ?? "";
      result.finish = choice?.finish_reason ?? result.finish;
    }
  }
  return result;
}

// Bytes straight to the socket, and all that comes back until it closes (or `ms` have passed in silence).
export function raw(url, bytes, ms = 2000) {
  return new Promise((resolve) => {
    const { hostname, port } = new URL(url);
    const socket = connect(Number(port), hostname, () => socket.write(bytes));
    let out = "";
    socket.setTimeout(ms, () => socket.destroy());
    socket.on("data", (d) => (out += d.toString("latin1")));
    socket.on("close", () => resolve(out));
    socket.on("error", () => {});
  });
}

export const cloud = (name, url, extra = "") =>
  `  - {name: ${name}, tier: cloud, provider: openai, base_url: "${url}", model: upstream-model, region: us, ` +
  `clearance: internal, quality: 0.9, context: 128000, price: {input: 2.50, output: 10.00}${extra}}\n`;

export const user = (content) => [{ role: "user", content }];
