// SPDX-License-Identifier: Apache-2.0
// `make tour` on one screen: each of its steps shows what it says it does, and nothing of the machine it runs on.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { ROOT } from "./lib.mjs";

function tour() {
  const proc = spawn(join(ROOT, "tools/tour"), [process.env.BUILD], { stdio: ["ignore", "pipe", "pipe"] });
  let out = "", err = "";
  proc.stdout.on("data", (d) => (out += d));
  proc.stderr.on("data", (d) => (err += d));
  return new Promise((resolve) => proc.on("close", (code) => resolve({ code, out, err })));
}

const isWide = (c) => c.codePointAt(0) >= 0x1100 && !/[\u2000-\u206f]/.test(c);
const columns = (line) => [...line].reduce((n, c) => n + (isWide(c) ? 2 : 1), 0);

test("the tour shows each step on one screen", async () => {
  const { code, out, err } = await tour();
  assert.equal(code, 0, out + err);
  const lines = out.trimEnd().split("\n");
  assert.ok(lines.length <= 23, `${lines.length} lines and a prompt do not fit on 24`);
  for (const line of lines) assert.ok(columns(line) <= 80, `${columns(line)} columns: ${line}`);
  const steps = out.split(/^\d\. /m).slice(1);
  assert.equal(steps.length, 5);
  const [command, hard, pulled, offline, back] = steps;

  assert.match(command, /^light\(action: "off", room: "kitchen"\)$/m);
  assert.match(command, /^device · device · \S+ · \$0 · /m);

  assert.match(hard, /^cloud · cloud · chosen · \$0\.0/m);

  // Whole, though the one that began it is gone: as many words as the cloud's own answer has.
  const answer = (step) => step.split("\n")[2];
  assert.equal(answer(pulled).split(" ").length, answer(hard).split(" ").length);
  assert.match(pulled, /^edge · edge · \S+ · .* · degraded$/m);
  assert.doesNotMatch(pulled, /tandem\.upstream/);

  const rows = (step) => [...step.matchAll(/^([0-9A-Z]{26}) \S+ \S+ (\S+) +interactive +\d+$/gm)].map((m) => ({ id: m[1], state: m[2] }));
  assert.equal(offline.match(/^device · device · .* · degraded · queued$/gm)?.length, 2, offline);
  assert.equal(rows(offline).length, 2);
  // The return of the network is not waited for: a replay may be trying.
  assert.ok(rows(offline).every((r) => ["answered_locally", "intent_sent"].includes(r.state)), offline);

  assert.deepEqual(rows(back).map((r) => r.state), ["reconciled", "reconciled"]);
  assert.deepEqual(rows(back).map((r) => r.id), rows(offline).map((r) => r.id));

  for (const secret of [ROOT, tmpdir(), "127.0.0.1", "://", process.env.BUILD])
    assert.ok(!(out + err).includes(secret), `the tour shows ${secret}`);
  assert.equal(err, "");
});
