#!/usr/bin/env node
// The launcher of codex-hms: finds the program in the package of this platform and becomes it, or, where this
// Node cannot, starts it and passes signals and its end on. Nothing else: each line here is time before main().
"use strict";

const path = require("node:path");

/** The packages that exist. The names are npm's: process.platform and process.arch. */
const PLATFORMS = ["linux-x64"];

function fail(message) {
  process.stderr.write(`codex-hms: ${message}\n`);
  process.exit(1);
}

function find() {
  const platform = `${process.platform}-${process.arch}`;
  if (!PLATFORMS.includes(platform)) {
    fail(`there is no package for ${platform}; there are: ${PLATFORMS.join(", ")}`);
  }
  const name = `codex-hms-${platform}`;
  try {
    return path.join(path.dirname(require.resolve(`${name}/package.json`)), "bin", "codex-hms");
  } catch {
    return fail(
      `the package ${name} is not installed; install codex-hms again without --omit=optional (or --no-optional), ` +
        `or ${name} of the same version beside it`,
    );
  }
}

/** Runs the program beside this process. */
function start(program, args) {
  const { spawn } = require("node:child_process");
  const child = spawn(program, args, { stdio: "inherit" });
  child.on("error", (e) => fail(`starting ${program}: ${e.message}`));
  // A terminal gives its SIGINT to the whole group, so that the program has it already, and a second one would
  // mean that it shall not wait. Everything else that asks this process to end is meant for the program.
  const tty = require("node:tty");
  const atTerminal = [0, 1, 2].some((fd) => tty.isatty(fd));
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) {
    process.on(signal, () => {
      if (signal !== "SIGINT" || !atTerminal) child.kill(signal);
    });
  }
  child.on("exit", (code, signal) => {
    if (signal === null) process.exit(code);
    // Ends as the program did, so that whoever waits sees the same.
    process.removeAllListeners(signal);
    process.kill(process.pid, signal);
  });
}

const program = find();
const args = process.argv.slice(2);
if (typeof process.execve === "function") {
  try {
    process.execve(program, [program, ...args], process.env);
  } catch {
    // Not offered here after all.
  }
}
start(program, args);
