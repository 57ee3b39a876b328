"""The official Python SDK calls tools of a wrapped server that is killed and stopped at random instants.

The only argument is JSON: `command` and `args` of a wrapper, up to the server's own folder, which is put behind
them; `folder` for those folders; `kind` (read | append); `mode` (legacy | auto, which finds 2026-07-28); `rounds`,
`sessions` that work at the same time, `seed`, `pace` (half the time of a call, in microseconds). Ends with a line of
JSON that says what was done and seen; it fails at the first thing that is not as it must be.
"""

import asyncio
import json
import os
import random
import signal
import sys
import time

from mcp import Client, MCPError, StdioServerParameters

# No call waits longer for anything; who runs into it fails.
PATIENCE = 60
# An answer to a call whose server died has to be there in this time, in seconds.
PROMPT = 10


def has(condition, what):
    if not condition:
        raise AssertionError(what)


def lines(*path):
    try:
        with open(os.path.join(*path), encoding="utf-8") as file:
            return file.read().splitlines()
    except FileNotFoundError:
        return []


class Session:
    """One client, one wrapper, one server, and what happens to it."""

    def __init__(self, number, plan, seen):
        self.number, self.plan, self.seen = number, plan, seen
        self.folder = os.path.join(plan["folder"], str(number))
        self.random = random.Random(plan["seed"] * 1000 + number)
        self.sent = 0
        self.acknowledged = []
        self.failed = []

    async def run(self, rounds):
        os.makedirs(self.folder)
        args = [*self.plan["args"], self.folder, "--pace", str(self.plan["pace"]), "--modern"]
        server = StdioServerParameters(command=self.plan["command"], args=args, env=dict(os.environ))
        async with Client(server, mode=self.plan["mode"], read_timeout_seconds=PATIENCE) as client:
            self.client = client
            self.seen["version"] = client.protocol_version
            has({tool.name for tool in (await client.list_tools()).tools} >= {"echo", "append"}, "tools")
            for _ in range(rounds):
                await (self.read_round() if self.plan["kind"] == "read" else self.append_round())
        self.check_appended()

    def token(self):
        self.sent += 1
        self.seen["calls"] += 1
        return f"{self.number}-{self.sent}"

    async def call(self, tool, text):
        result = await self.client.call_tool(tool, {"text": text})
        has(not result.is_error, f"{tool} {text}: {result}")
        return result.content[0].text

    async def echo(self):
        token = self.token()
        said = await self.call("echo", token)
        has(said == token, f"{token} was answered by {said}")

    async def append(self):
        """Whether it was acknowledged."""
        token = self.token()
        begun = time.monotonic()
        try:
            said = await self.call("append", token)
        except MCPError as error:
            reason = ((error.data or {}).get("hms") or {}).get("reason")
            has(error.code == -32000 and reason == "server-ended", f"{token}: {error!r}")
            self.failed.append(token)
            self.seen["failed"] += 1
            return time.monotonic() - begun, False
        has(said == f"appended {token}", f"{token} was answered by {said}")
        self.acknowledged.append(token)
        return time.monotonic() - begun, True

    async def fault(self, name):
        """Does something to the server that runs, some time within the length of a call or a little later."""
        await asyncio.sleep(self.random.random() * 2.4 * self.plan["pace"] / 1e6)
        self.harm(name)

    def harm(self, name):
        pid = int(lines(self.folder, "lives")[-1])
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                has(self.folder.encode() in file.read().split(b"\0"), f"{pid} is not the server")
        except FileNotFoundError as gone:
            raise AssertionError(f"server {pid} is gone by itself") from gone
        os.kill(pid, signal.SIGKILL if name == "crash" else signal.SIGSTOP)
        self.seen["crashes" if name == "crash" else "hangs"] += 1

    def mostly_crash(self):
        return "hang" if self.random.random() < self.plan["hangs"] else "crash"

    async def read_round(self):
        """Calls, a fault among them, and one more call: all of them get what they asked for."""
        begun = time.monotonic()
        calls = [self.echo() for _ in range(self.random.randint(1, 3))]
        await asyncio.gather(*calls, self.fault(self.mostly_crash()))
        await self.echo()
        self.seen["longest_ms"] = max(self.seen["longest_ms"], int((time.monotonic() - begun) * 1000))

    async def append_round(self):
        """An append whose server dies or hangs, a read beside it, and appends until one is acknowledged."""
        before = len(self.failed)
        vice = self.random.choice(["die-before", "die-after", "stop", *["outside"] * 5])
        if vice == "outside":
            name = self.mostly_crash()
            fault = self.fault(name)
        else:
            name = "hang" if vice == "stop" else "crash"
            self.seen["hangs" if vice == "stop" else "crashes"] += 1
            with open(os.path.join(self.folder, vice), "w", encoding="utf-8"):
                fault = asyncio.sleep(0)
        (took, done), _, _ = await asyncio.gather(self.append(), self.echo(), fault)
        if not done:
            self.seen["longest_ms"] = max(self.seen["longest_ms"], int(took * 1000))
            has(took < PROMPT, f"the error of an append came after {took} s")
        # A fault that came after the answer meets the next one; none meets more than one.
        while not (await self.append())[1]:
            has(len(self.failed) - before <= 1, f"two appends failed of one fault: {self.failed[-2:]}")

    def check_appended(self):
        written = lines(self.folder, "appended")
        count = {token: written.count(token) for token in written}
        twice = [token for token, times in count.items() if times > 1]
        lost = [token for token in self.acknowledged if token not in count]
        unknown = set(written) - set(self.acknowledged) - set(self.failed)
        has(not (twice or lost or unknown), f"twice: {twice}, lost: {lost}, nobody's: {unknown}")
        self.seen["lives"] += len(lines(self.folder, "lives"))
        self.seen["acknowledged"] += len(self.acknowledged)
        self.seen["written"] += len(written)


async def main():
    plan = json.loads(sys.argv[1])
    seen = dict.fromkeys(
        ["calls", "crashes", "hangs", "failed", "acknowledged", "written", "lives", "longest_ms"], 0
    )
    sessions = plan["sessions"]
    shares = [plan["rounds"] // sessions + (n < plan["rounds"] % sessions) for n in range(sessions)]
    await asyncio.gather(*(Session(n, plan, seen).run(share) for n, share in enumerate(shares)))
    print(json.dumps(seen))


asyncio.run(main())
