// SPDX-License-Identifier: Apache-2.0
// A real browser without a window, spoken to over its debugging pipe: JSON messages that end in a NUL byte, in on
// descriptor 3, out on 4. Every name of `hosts` leads to this machine.
import { spawn, spawnSync } from "node:child_process";
import { scratch, stopLater } from "./lib.mjs";

const NAMES = ["chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"];

export function findBrowser() {
  return [process.env.BROWSER, ...NAMES].find((n) => n && spawnSync(n, ["--version"], { stdio: "ignore" }).status === 0);
}

export async function startBrowser(program, hosts) {
  const args = ["--headless", "--remote-debugging-pipe", "--disable-gpu", "--no-first-run", "--disable-extensions",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage", "--no-proxy-server",
    `--user-data-dir=${scratch()}`, `--host-resolver-rules=${hosts.map((h) => `MAP ${h} 127.0.0.1`).join(",")}`];
  // As root it cannot build its sandbox; the pages are this test's own.
  if (process.getuid?.() === 0) args.push("--no-sandbox");
  const proc = spawn(program, [...args, "about:blank"], { stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"], detached: true });
  const gone = new Promise((resolve) => proc.on("exit", resolve));
  for (const pipe of [proc.stdio[3], proc.stdio[4]]) pipe.on("error", () => {});
  stopLater(async () => { // with all its children, which would hold the pipes
    try { process.kill(-proc.pid, "SIGKILL"); } catch { /* it has ended by itself */ }
    await gone;
    for (const pipe of [proc.stdio[3], proc.stdio[4]]) pipe.destroy();
  });
  const waiting = new Map(), heard = [];
  let rest = "", id = 0;
  proc.stdio[4].on("data", (d) => {
    rest += d;
    for (let at; (at = rest.indexOf("\0")) >= 0; rest = rest.slice(at + 1)) {
      const m = JSON.parse(rest.slice(0, at));
      if (m.id) { waiting.get(m.id)?.(m); waiting.delete(m.id); }
      else for (const fn of heard) fn(m);
    }
  });
  const send = (method, params = {}, sessionId) => new Promise((resolve, reject) => {
    waiting.set(++id, (m) => (m.error ? reject(new Error(`${method}: ${m.error.message}`)) : resolve(m.result)));
    gone.then(() => reject(new Error("the browser ended")));
    proc.stdio[3].write(JSON.stringify({ id, method, params, ...(sessionId && { sessionId }) }) + "\0");
  });
  return {
    // A tab at `url`, loaded (or refused); evaluate() runs an expression there and waits for its promise.
    open: async (url) => {
      const { targetId } = await send("Target.createTarget", { url: "about:blank" });
      const { sessionId } = await send("Target.attachToTarget", { targetId, flatten: true });
      await send("Page.enable", {}, sessionId);
      const loaded = new Promise((resolve) => heard.push((m) => m.sessionId === sessionId && m.method === "Page.loadEventFired" && resolve()));
      await send("Page.navigate", { url }, sessionId);
      await loaded;
      return {
        evaluate: async (expression) => {
          const r = await send("Runtime.evaluate", { expression, awaitPromise: true, returnByValue: true }, sessionId);
          if (r.exceptionDetails) throw new Error(r.exceptionDetails.exception?.description ?? r.exceptionDetails.text);
          return r.result.value;
        },
      };
    },
  };
}
