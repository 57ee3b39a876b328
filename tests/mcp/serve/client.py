"""The official Python SDK against `codex-hms mcp serve`, in the era that the first argument names.

Arguments: legacy|auto (which finds 2026-07-28), program. Ends with a line of JSON that says what was done.
"""

import asyncio
import json
import os
import signal
import sys

from mcp import Client, StdioServerParameters

PATIENCE = 30


def has(condition, what):
    if not condition:
        raise AssertionError(what)


class Updates:
    """What a legacy session is told, to wait for."""

    def __init__(self):
        self.uris, self.wake = set(), asyncio.Event()

    async def handler(self, message):
        uri = getattr(getattr(message, "params", None), "uri", None)
        if uri is not None:
            self.uris.add(str(uri))
            self.wake.set()

    async def wait(self, uri):
        async with asyncio.timeout(PATIENCE):
            while uri not in self.uris:
                self.wake.clear()
                await self.wake.wait()


async def call(client, tool, **arguments):
    result = await client.call_tool(tool, arguments)
    has(not result.is_error, f"{tool}: {result}")
    has(json.loads(result.content[0].text) == result.structured_content, f"{tool}: text is not its content")
    return result.structured_content


async def ended_incident(client, agent):
    async with asyncio.timeout(PATIENCE):
        while True:
            history = (await call(client, "heal_history", agent=agent, wait=True))["result"]
            if history and history[0]["outcome"]:
                return history[0]


async def use(client, updates):
    """Looks around, makes an agent, kills it, reads the incident, heals, and errs."""
    tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    has(tools["agent_list"].annotations.read_only_hint, "agent_list reads")
    has(tools["agent_destroy"].annotations.destructive_hint, "agent_destroy destroys")
    has("monitor_health" in (client.instructions or ""), "instructions teach")

    name = "py"
    made = await call(client, "agent_create", type="process", name=name, config={"command": ["sleep", "1000"]})
    pid = (await call(client, "agent_status", agent=name))["pid"]
    has(made["name"] == name and pid, made)

    if updates is not None:
        await client.subscribe_resource("hms://incidents")
        os.kill(pid, signal.SIGKILL)
        await updates.wait("hms://incidents")
    else:
        async with client.listen(resource_subscriptions=["hms://incidents"]) as subscription:
            os.kill(pid, signal.SIGKILL)
            async with asyncio.timeout(PATIENCE):
                async for event in subscription:
                    if "hms://incidents" in str(event):
                        break
    incident = await ended_incident(client, name)
    has(incident["outcome"] == "verified", incident)
    text = (await client.read_resource(f"hms://incidents/{incident['id']}")).contents[0].text
    has(json.loads(text)["agent"] == name, text)

    seen = []

    async def progress(done, total, message):
        seen.append((done, total, message))

    healed = await client.call_tool(
        "heal_trigger", {"agent": name, "reason": "a test"}, progress_callback=progress
    )
    has(not healed.is_error, healed)
    has(seen and all(a[0] < b[0] for a, b in zip(seen, seen[1:])), f"progress grows: {seen}")

    wrong = await client.call_tool("agent_status", {"agent": "nobody"})
    has(wrong.is_error and "not-found" in wrong.content[0].text, wrong)
    prompt = await client.get_prompt("diagnose", {"agent": name})
    has(name in prompt.messages[0].content.text, prompt)
    resources = {str(r.uri) for r in (await client.list_resources()).resources}
    has(f"hms://agents/{name}" in resources, resources)
    return {"version": client.protocol_version, "tools": len(tools), "progress": len(seen), "incident": incident["id"]}


async def main(mode, program):
    updates = Updates() if mode == "legacy" else None
    server = StdioServerParameters(command=program, args=["mcp", "serve"], env=dict(os.environ))
    handler = {"message_handler": updates.handler} if updates else {}
    async with Client(server, mode=mode, **handler) as client:
        print(json.dumps(await use(client, updates)))


asyncio.run(asyncio.wait_for(main(sys.argv[1], sys.argv[2]), 120))
