// The official TypeScript SDK against `codex-hms mcp serve`: over stdio, or over HTTP with `URL TOKEN`.
// Arguments: program, or URL and token. Ends with a line of JSON that says what was done.
import assert from "node:assert/strict";
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StdioClientTransport } from "@modelcontextprotocol/sdk/client/stdio.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import {
  ElicitRequestSchema,
  ResourceListChangedNotificationSchema,
  ResourceUpdatedNotificationSchema,
} from "@modelcontextprotocol/sdk/types.js";

const [where, token] = process.argv.slice(2);
const transport = token
  ? new StreamableHTTPClientTransport(new URL(where), {
      requestInit: { headers: { Authorization: `Bearer ${token}` } },
    })
  : new StdioClientTransport({ command: where, args: ["mcp", "serve"], env: process.env });
const client = new Client({ name: "ts", version: "1" }, { capabilities: { elicitation: {} } });

const updated = new Set();
let wake = () => {};
const until = async (uri) => {
  while (!updated.has(uri)) await new Promise((resolve) => (wake = resolve));
};
client.setNotificationHandler(ResourceUpdatedNotificationSchema, ({ params }) => {
  updated.add(params.uri);
  wake();
});
client.setNotificationHandler(ResourceListChangedNotificationSchema, () => {
  updated.add("list");
  wake();
});
const asked = [];
client.setRequestHandler(ElicitRequestSchema, ({ params }) => {
  asked.push(params.message);
  return { action: "decline" };
});

const call = async (name, args = {}) => {
  const result = await client.callTool({ name, arguments: args });
  assert.ok(!result.isError, JSON.stringify(result));
  return result.structuredContent;
};

await client.connect(transport);
// The SDK checks every result against its tool's output schema from here on.
const { tools } = await client.listTools();
await call("agent_create", { type: "process", name: "ts", config: { command: ["sh", "-c", "echo ready; sleep 1000"] } });
await until("list");
await client.subscribeResource({ uri: "hms://agents/ts" });
await client.subscribeResource({ uri: "hms://health" });
const { pid } = await call("agent_status", { agent: "ts" });
process.kill(pid, "SIGKILL");
await until("hms://agents/ts");
const { result: history } = await call("heal_history", { agent: "ts", wait: true });
assert.ok(history.length > 0);

// Every tool that only reads and needs nothing answers as it promised.
let read = 0;
for (const tool of tools) {
  if (!tool.annotations.readOnlyHint || (tool.inputSchema.required ?? []).length > 0) continue;
  await call(tool.name, "seconds" in tool.inputSchema.properties ? { seconds: 1 } : {});
  read += 1;
}
const logs = await call("agent_logs", { agent: "ts" });
assert.ok(logs.items.some((item) => item.line === "ready"), JSON.stringify(logs));

const { completion } = await client.complete({
  ref: { type: "ref/resource", uri: "hms://agents/{name}" },
  argument: { name: "name", value: "t" },
});
assert.deepEqual(completion.values, ["ts"]);

// A person is asked, and says no.
const refused = await client.callTool({ name: "system_reset", arguments: { confirm: true } });
assert.ok(refused.isError && asked.length === 1, JSON.stringify(refused));
await call("agent_destroy", { agents: ["ts"] }).catch(async () => call("agent_destroy", { agent: ["ts"] }));
await client.close();
console.log(JSON.stringify({ tools: tools.length, read, asked: asked.length }));
