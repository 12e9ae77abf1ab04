#!/usr/bin/env node
// SPDX-License-Identifier: Apache-2.0
// How fast trouble is dealt with: bench/resilience.mjs BUILD [cancel|gone|overload|progressive …]; all by default. Everything runs on
// this machine, against the scripted upstream and a model of random weights; wants a machine that does nothing else.
//   cancel    a client leaves: until the provider's connection is closed, and until the device decodes for somebody else
//   gone      the network goes: what the first request pays, what the later ones pay
//   progressive  the starter's draft beside a cloud that takes 800 ms to its first token
//   overload  ten times what the device can serve: goodput, latency of those let in, who is turned away
import { spawn } from "node:child_process";
import { networkInterfaces } from "node:os";
import { join, resolve } from "node:path";
import { performance } from "node:perf_hooks";

const build = resolve(process.argv[2] ?? "build"), parts = process.argv.slice(3);
process.env.TANDEM ??= join(build, "src/cli/tandem");
process.env.UPSTREAM ??= join(build, "tests/support/scripted-upstream");
process.env.ROOT ??= resolve(build, "..");
const { startTandem, startUpstream, user } = await import("../tests/flow/lib.mjs");
const { startWire, blackHole } = await import("../tests/flow/campaign.mjs");

const sleep = (ms) => new Promise((r) => setTimeout(r, ms));
const at = (list, share) => list.toSorted((a, b) => a - b)[Math.min(list.length - 1, Math.floor(list.length * share))];
const figure = (list) => `p50 ${at(list, 0.5).toFixed(1)} ms, p99 ${at(list, 0.99).toFixed(1)} ms, worst ${Math.max(...list).toFixed(1)} ms (${list.length})`;
const slow = join(build, "tests/support/slow.gguf");
const device = (more) => `  - {name: device, tier: device, provider: llama, model: "${slow}", capabilities: [chat, completion]${more}}\n`;
const remote = (name, url, more = "") => `  - {name: ${name}, tier: cloud, provider: openai, base_url: "${url}", model: c, region: us, ` +
  `clearance: internal, quality: 0.9, context: 64000${more}}\n`;

// Opens a stream, and gives what leaves it again.
async function stream(t, body, path = "/v1/completions") {
  const leaver = new AbortController();
  const r = await fetch(t.url + path, { method: "POST", signal: leaver.signal, headers: { "content-type": "application/json" }, body: JSON.stringify({ stream: true, ...body }) });
  const reader = r.body.getReader();
  await reader.read();
  return { leave: () => { leaver.abort(); reader.read().catch(() => {}); return performance.now(); } };
}

async function cancel() {
  const up = await startUpstream("--tokens", "100000", "--token-ms", "5"), wire = await startWire(up.port);
  const t = await startTandem(`targets:\n${remote("cloud", wire.url)}${device(", parallel: 1")}`);
  const closed = [], freed = [], idle = [];
  for (let i = 0; i < 100; i++) {
    const s = await stream(t, { model: "cloud", messages: user("x") }, "/v1/chat/completions");
    await sleep(20 + (i * 7) % 30);
    const gone = new Promise((r) => { wire.on_end = () => r(performance.now()); });
    const left = s.leave();
    closed.push((await gone) - left);
  }
  const one = async () => { // until the device's first token
    const from = performance.now(), s = await stream(t, { model: "device", prompt: "four", max_tokens: 2000 });
    const took = performance.now() - from;
    return { took, ...s };
  };
  (await one()).leave();
  for (let i = 0; i < 50; i++) {
    await sleep(300);
    const s = await one(); // nobody is before it
    idle.push(s.took);
    await sleep(20 + (i * 7) % 30);
    s.leave();
    const next = await one(); // the one before it has just left
    freed.push(next.took);
    next.leave();
  }
  console.log(`client leaves → provider's connection closed: ${figure(closed)}`);
  console.log(`client leaves → device decodes the next request: first token ${figure(freed)}; on an idle device ${figure(idle)}`);
  await t.stop();
}

// One request: until its first text (only of a stream), until its end, and who was tried.
async function timed(t, stream) {
  const from = performance.now(), r = await t.post({ model: "auto", stream, messages: user("x"), tandem: { prefer: "quality" } });
  let first = 0, text = "";
  for await (const piece of r.body.pipeThrough(new TextDecoderStream())) {
    text += piece;
    if (stream && !first && text.includes('"content":"')) first = performance.now() - from;
  }
  const last = stream ? text.split("\n").findLast((l) => l.startsWith("data: {")).slice(6) : text;
  return { first, ms: performance.now() - from, tried: JSON.parse(last).tandem.attempts.filter((a) => a.target !== "edge").length };
}

async function gone() {
  // Beyond this machine, so that it speaks for the network.
  const address = Object.values(networkInterfaces()).flat().find((a) => !a.internal && a.family === "IPv4")?.address;
  const url = await blackHole(address ?? "127.0.0.1");
  if (!url) return console.log("no black hole to be had here");
  const up = await startUpstream("--tokens", "20", "--first-token-ms", "30", "--token-ms", "2");
  const edge = remote("edge", up.url).replace("0.9", "0.3");
  const well = await startTandem(`targets:\n${edge}`), plain = [], later = [];
  for (let i = 0; i < 220; i++) { const x = await timed(well, i % 2 === 1); if (i >= 20) plain.push(x.ms); }
  await well.stop();
  for (const [clouds, known] of [[1, false], [1, true], [2, true]]) {
    const first = { stream: [], whole: [], end: [] };
    for (let run = 0; run < 6; run++) {
      const more = Array.from({ length: clouds }, (_, i) => remote(`cloud${i}`, url, ", insecure: true")).join("");
      const t = await startTandem(`targets:\n${edge}${more}`), stream = run % 2 === 1;
      for (let i = 0; known && i < 20; i++) await (await t.post({ model: "edge", stream: true, messages: user("x") })).text();
      const x = await timed(t, stream);
      if (!x.tried) throw new Error("bench/resilience: the first request did not try the cloud");
      first[stream ? "stream" : "whole"].push(stream ? x.first : x.ms);
      if (stream) first.end.push(x.ms);
      for (let i = 0; i < 34; i++) { const y = await timed(t, i % 2 === 1); if (!y.tried) later.push(y.ms); }
      await t.stop();
    }
    console.log(`network gone, ${clouds} cloud target(s), fallback ${known ? "known" : "never asked before"}; connect budget 2000 ms`);
    console.log(`  first request, whole answer: ${figure(first.whole)}`);
    console.log(`  first request, streamed, first text: ${figure(first.stream)}; end: ${figure(first.end)}`);
  }
  console.log(`later ones: ${figure(later)}; where no such target is configured: ${figure(plain)}`);
}

// What a load generator sees after `warm` seconds: latency of each answer, refusals by priority.
async function load(t, { rate, clients, warm = 1, seconds, tokens }) {
  const names = clients ? ["interactive"] : ["interactive", "batch"], bodies = tokens.flatMap((n) => names.map((priority) => [priority, n]));
  const body = ([priority, n]) => JSON.stringify({ model: "device", prompt: "one two three", max_tokens: n, tandem: { priority } });
  const child = spawn(join(build, "bench/load"), [new URL(t.url).port, "/v1/completions", ...(clients ? ["-c", clients] : ["-r", rate]),
    "-w", warm, "-s", seconds, ...bodies.map(body)].map(String), { stdio: ["ignore", "pipe", "inherit"] });
  let text = "";
  for await (const piece of child.stdout) text += piece;
  const { goodput, own, kinds, ms } = JSON.parse(text);
  return { goodput, own, ms, kinds: Object.fromEntries(names.map((name) => [name, kinds.filter((_, i) => bodies[i][0] === name).reduce((a, b) => [a[0] + b[0], a[1] + b[1]])])) };
}

// Alone and peak before and after ten times that, and the means of both: a machine whose speed drifts is not held against
// the overload, nor for it. The medians of the rounds (ROUNDS=3) are compared. PARALLEL="1 4" and SLOWDOWN=2 set the
// target, TOKENS="8" the lengths of the answers, in turn: answers of one length whose clients ask again at once begin and
// end together, and their prompts are read together. Between two rounds the overload is over, but what was learned of it is not.
async function overload() {
  const rounds = Number(process.env.ROUNDS ?? 3), slowdown = Number(process.env.SLOWDOWN ?? 2);
  const tokens = (process.env.TOKENS ?? "8").split(" ").map(Number);
  const mid = (list) => at(list, 0.5), p99 = (x) => at(x.ms, 0.99);
  for (const parallel of (process.env.PARALLEL ?? "1 4").split(" ").map(Number)) {
    const t = await startTandem(`targets:\n${device(`, parallel: ${parallel}, threads: 1, slowdown_max: ${slowdown}, timeouts: {connect_ms: 2000, first_token_ms: 30000, idle_ms: 30000, total_ms: 60000}`)}`);
    const runs = [];
    await load(t, { clients: 1, seconds: 1, tokens });
    for (let i = 0; i < rounds; i++) {
      const both = (a, b) => ({ ...a, goodput: (a.goodput + b.goodput) / 2, ms: [...a.ms, ...b.ms] });
      let alone = await load(t, { clients: 1, seconds: 5, tokens }), peak = { goodput: 0 };
      for (const clients of [parallel, 2 * parallel]) {
        const x = await load(t, { clients, seconds: 4, tokens });
        if (x.goodput > peak.goodput) peak = { ...x, clients };
      }
      const over = await load(t, { rate: peak.goodput * 10, warm: 5, seconds: 10, tokens });
      const metrics = await (await fetch(t.url + "/metrics")).text(), told = (what) => Number(metrics.match(new RegExp(`^tandem_model_${what}.* (\\d+)$`, "m"))[1]);
      await sleep(6000);
      alone = both(alone, await load(t, { clients: 1, seconds: 5, tokens }));
      peak = both(peak, await load(t, { clients: peak.clients, seconds: 4, tokens }));
      runs.push({ alone, peak, over, limit: told("limit_thousandths") / 1000, slowdown: told("slowdown_thousandths") / 1000, alone_ms: told("alone_milliseconds") });
    }
    const all = (what) => runs.flatMap((r) => r[what].ms), served = (k) => runs.reduce((n, r) => [n[0] + r.over.kinds[k][0], n[1] + r.over.kinds[k][1]], [0, 0]);
    const ratios = (f) => { const list = runs.map(f); return `${mid(list).toFixed(2)} (${list.map((v) => v.toFixed(2)).join(", ")})`; };
    console.log(`parallel: ${parallel}, slowdown_max: ${slowdown}, ${rounds} rounds\n  one client: ${mid(runs.map((r) => r.alone.goodput)).toFixed(1)} answers/s, ${figure(all("alone"))}`);
    console.log(`  peak, ${runs.map((r) => r.peak.clients).join(", ")} clients: ${mid(runs.map((r) => r.peak.goodput)).toFixed(1)} answers/s, ${figure(all("peak"))}`);
    console.log(`  ten times that offered: ${mid(runs.map((r) => r.over.goodput)).toFixed(1)} answers/s, those let in ${figure(all("over"))}; the generator took ${mid(runs.map((r) => r.over.own)).toFixed(2)} of a core`);
    console.log(`  goodput against peak, median of rounds: ${ratios((r) => r.over.goodput / r.peak.goodput)}`);
    console.log(`  p99 of those let in against one client's: ${ratios((r) => p99(r.over) / p99(r.alone))}; p50 against p50: ${ratios((r) => at(r.over.ms, 0.5) / at(r.alone.ms, 0.5))}`);
    console.log(`  its own view at the end of each round: ${runs.map((r) => `limit ${r.limit.toFixed(2)}, ${r.slowdown.toFixed(2)} x ${r.alone_ms} ms`).join("; ")}`);
    for (const k of ["interactive", "batch"]) console.log(`  ${k}: ${served(k)[0]} served, ${served(k)[1]} turned away`);
    await t.stop();
  }
}

// The questions have different beginnings, so that no draft profits from the one before it.
async function progressive() {
  const up = await startUpstream("--tokens", "30", "--first-token-ms", "800"), drafts = [], better = [];
  const t = await startTandem(`targets:\n  - {name: device, tier: device, provider: llama, model: "${join(process.env.ROOT, "models/starter.gguf")}", class: command, quality: 0.3}\n${remote("cloud", up.url)}`);
  const topics = ["lamps", "rivers", "the news", "a timer for ten minutes", "winter in Oslo", "my shopping list", "old bridges", "how bees live"];
  await t.post({ model: "device", messages: user("hello"), max_tokens: 5 });
  let same = 0, ops = {};
  for (let i = 0; i < 40; i++) {
    const messages = user(`${i} tell me about ${topics[i % topics.length]}`), from = performance.now();
    const r = await t.post({ model: "auto", stream: true, messages, tandem: { mode: "progressive" } });
    let text = "", rest = "", first = 0, revised = 0;
    for await (const piece of r.body.pipeThrough(new TextDecoderStream())) {
      const lines = (rest + piece).split("\n");
      rest = lines.pop();
      for (const line of lines.filter((l) => l.startsWith("data: {"))) {
        const chunk = JSON.parse(line.slice(6)), op = chunk.tandem?.op, delta = chunk.choices?.[0]?.delta?.content ?? "";
        if (op && op !== "draft") revised ||= performance.now(), ops[op] = (ops[op] ?? 0) + 1;
        if (op === "replace") text = "";
        if (delta) first ||= performance.now();
        text += delta;
      }
    }
    drafts.push(first - from);
    better.push(revised - from);
    same += text === JSON.parse(await (await t.post({ model: "cloud", messages })).text()).choices[0].message.content;
  }
  console.log(`progressive, cloud with 800 ms to its first token: draft's first text ${figure(drafts)}`);
  console.log(`  the better answer begins after ${figure(better)}; ${Object.entries(ops).map(([k, v]) => `${v} ${k}`).join(", ")}; final text is the cloud's in ${same} of ${drafts.length}`);
  await t.stop();
}

const all = { cancel, gone, progressive, overload };
for (const part of parts.length ? parts : Object.keys(all)) {
  if (!all[part]) throw new Error(`bench/resilience: what is '${part}'?`);
  await all[part]();
}
process.exit(0);
