"""An MCP client that kills its own server between two calls, to see what happens.

    python3 client.py COMMAND...    # COMMAND is how the client would start the server
"""

import json
import os
import signal
import subprocess
import sys

server = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def send(message: dict) -> None:
    server.stdin.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    server.stdin.flush()


def ask(number: int, method: str, params: dict) -> dict:
    send({"id": number, "method": method, "params": params})
    line = server.stdout.readline()
    if not line:
        raise ConnectionError("Transport closed")
    return json.loads(line)


def whoami(number: int) -> int:
    answer = ask(number, "tools/call", {"name": "whoami", "arguments": {}})
    return int(answer["result"]["content"][0]["text"])


client = {"name": "example", "version": "1.0"}
ask(1, "initialize", {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client})
send({"method": "notifications/initialized"})
ask(2, "tools/list", {})

pid = whoami(3)
print(f"first call: answered by process {pid}")
os.kill(pid, signal.SIGKILL)
try:
    print(f"server killed; second call: answered by process {whoami(4)}")
except (ConnectionError, BrokenPipeError):
    print("server killed; second call: Transport closed")
