// The official TypeScript SDK calls tools of a wrapped server that is killed and stopped at random instants.
//
// The only argument is JSON: `command` and `args` of a wrapper, up to the server's own folder, which is put behind
// them; `folder` for those folders; `kind` (read | append); `rounds`, `sessions` that work at the same time, `seed`,
// `pace` (half the time of a call, in microseconds), `hangs` (which part of the faults are). Ends with a line of
// JSON that says what was done and seen; it fails at the first thing that is not as it must be.
import assert from "node:assert/strict";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StdioClientTransport } from "@modelcontextprotocol/sdk/client/stdio.js";
import { McpError } from "@modelcontextprotocol/sdk/types.js";

// No call waits longer for anything; who runs into it fails.
const PATIENCE_MS = 60_000;
// An answer to a call whose server died has to be there in this time.
const PROMPT_MS = 10_000;

const plan = JSON.parse(process.argv[2]);
const seen = {
  calls: 0, crashes: 0, hangs: 0, failed: 0, acknowledged: 0, written: 0, lives: 0, longest_ms: 0,
};

// Numbers in 0–1 that depend on the seed alone (mulberry32).
const chance = (seed) => () => {
  seed = (seed + 0x6d2b79f5) | 0;
  let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
  return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
};

const lines = (...path) =>
  existsSync(join(...path)) ? readFileSync(join(...path), "utf8").split("\n").slice(0, -1) : [];

// One client, one wrapper, one server, and what happens to it.
class Session {
  constructor(number) {
    this.number = number;
    this.folder = join(plan.folder, String(number));
    this.random = chance(plan.seed * 1000 + number);
    this.sent = 0;
    this.acknowledged = [];
    this.failed = [];
  }

  async run(rounds) {
    mkdirSync(this.folder);
    const args = [...plan.args, this.folder, "--pace", String(plan.pace)];
    this.client = new Client({ name: "ts", version: "1" });
    await this.client.connect(new StdioClientTransport({ command: plan.command, args, env: process.env }));
    const { tools } = await this.client.listTools();
    assert.ok(["echo", "append"].every((name) => tools.some((tool) => tool.name === name)));
    for (let done = 0; done < rounds; done += 1) {
      await (plan.kind === "read" ? this.readRound() : this.appendRound());
    }
    await this.client.close();
    this.checkAppended();
  }

  token() {
    this.sent += 1;
    seen.calls += 1;
    return `${this.number}-${this.sent}`;
  }

  async call(name, text) {
    const result = await this.client.callTool({ name, arguments: { text } }, undefined, { timeout: PATIENCE_MS });
    assert.ok(!result.isError, `${name} ${text}: ${JSON.stringify(result)}`);
    return result.content[0].text;
  }

  async echo() {
    const token = this.token();
    assert.equal(await this.call("echo", token), token);
  }

  // Whether it was acknowledged.
  async append() {
    const token = this.token();
    const begun = performance.now();
    let said;
    try {
      said = await this.call("append", token);
    } catch (error) {
      assert.ok(error instanceof McpError, error);
      assert.equal(error.code, -32000, error);
      assert.equal(error.data?.hms?.reason, "server-ended", JSON.stringify(error));
      this.failed.push(token);
      seen.failed += 1;
      const took = performance.now() - begun;
      seen.longest_ms = Math.max(seen.longest_ms, Math.round(took));
      assert.ok(took < PROMPT_MS, `the error of an append came after ${took} ms`);
      return false;
    }
    assert.equal(said, `appended ${token}`);
    this.acknowledged.push(token);
    return true;
  }

  // Does something to the server that runs, some time within the length of a call or a little later.
  async fault(name) {
    await sleep((this.random() * 2.4 * plan.pace) / 1000);
    this.harm(name);
  }

  harm(name) {
    const pid = Number(lines(this.folder, "lives").at(-1));
    const words = readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0");
    assert.ok(words.includes(this.folder), `${pid} is not the server`);
    process.kill(pid, name === "crash" ? "SIGKILL" : "SIGSTOP");
    seen[name === "crash" ? "crashes" : "hangs"] += 1;
  }

  mostlyCrash() {
    return this.random() < plan.hangs ? "hang" : "crash";
  }

  // Calls, a fault among them, and one more call: all of them get what they asked for.
  async readRound() {
    const begun = performance.now();
    const calls = Array.from({ length: 1 + Math.floor(this.random() * 3) }, () => this.echo());
    await Promise.all([...calls, this.fault(this.mostlyCrash())]);
    await this.echo();
    seen.longest_ms = Math.max(seen.longest_ms, Math.round(performance.now() - begun));
  }

  // An append whose server dies or hangs, a read beside it, and appends until one is acknowledged.
  async appendRound() {
    const before = this.failed.length;
    const vices = ["die-before", "die-after", "stop"];
    const vice = vices[Math.floor(this.random() * 8)];
    let fault;
    if (vice === undefined) {
      fault = this.fault(this.mostlyCrash());
    } else {
      seen[vice === "stop" ? "hangs" : "crashes"] += 1;
      writeFileSync(join(this.folder, vice), "");
    }
    await Promise.all([this.append(), this.echo(), fault]);
    // A fault that came after the answer meets the next one; none meets more than one.
    while (!(await this.append())) {
      const failed = this.failed.slice(before);
      assert.ok(failed.length <= 1, `two appends failed of one fault: ${failed}`);
    }
  }

  checkAppended() {
    const written = lines(this.folder, "appended");
    const known = new Set([...this.acknowledged, ...this.failed]);
    assert.equal(new Set(written).size, written.length, "something was written twice");
    assert.deepEqual(this.acknowledged.filter((token) => !written.includes(token)), [], "lost");
    assert.deepEqual(written.filter((token) => !known.has(token)), [], "nobody's");
    seen.lives += lines(this.folder, "lives").length;
    seen.acknowledged += this.acknowledged.length;
    seen.written += written.length;
  }
}

const share = (n) => Math.floor(plan.rounds / plan.sessions) + (n < plan.rounds % plan.sessions ? 1 : 0);
await Promise.all(Array.from({ length: plan.sessions }, (_, n) => new Session(n).run(share(n))));
console.log(JSON.stringify(seen));
