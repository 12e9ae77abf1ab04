// SPDX-License-Identifier: Apache-2.0
// A client that understands revisions: shows the device's draft at once and lets the better answer take its place
// (docs/protocol.md). Node.js 18 or later, no packages:  node progressive.mjs "why is the sky blue" [base URL]
const [question = "why is the sky blue", base = "http://127.0.0.1:8484/v1"] = process.argv.slice(2);

const response = await fetch(`${base}/chat/completions`, {
  method: "POST",
  headers: { "content-type": "application/json" },
  body: JSON.stringify({
    model: "auto", stream: true, messages: [{ role: "user", content: question }], tandem: { mode: "progressive" },
  }),
});
let text = "", rest = "", origin = {};
for await (const piece of response.body.pipeThrough(new TextDecoderStream())) {
  const lines = (rest + piece).split("\n");
  rest = lines.pop();
  for (const line of lines) {
    if (!line.startsWith("data: ") || line === "data: [DONE]") continue;
    const chunk = JSON.parse(line.slice(6));
    if (chunk.error) throw new Error(chunk.error.message);
    const { op, origin: from } = chunk.tandem ?? {};
    if (op) origin = from ?? origin;       // draft | append | replace | confirm
    if (op === "replace") text = "";       // all that was shown of the answer is void
    text += chunk.choices?.[0]?.delta?.content ?? "";
    process.stdout.write(`\x1b[2J\x1b[H[${op ?? "…"} · ${origin.target ?? ""}]\n${text}\n`);
  }
}
