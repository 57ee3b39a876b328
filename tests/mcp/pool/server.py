"""An MCP server on stdio for the tests of `mcp pool`: every call is a thread, so that calls overlap.

Tools: `whoami` (its pid), `echo`, `wait` (until the file named by `text` exists; tells progress first),
`ask` (a question to the client; answers with what it said), `die` (the process ends at once), `log`,
`slow` (so many messages before the answer), `count` (how often it was called in this life).
"""

import json
import os
import sys
import threading
import time

LOCK = threading.Lock()
ANSWERS = {}
ASKED = 0
COUNT = 0
CANCELLED = set()


def say(message):
    with LOCK:
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        sys.stdout.flush()


def progress(token, done):
    if token is not None:
        say({"method": "notifications/progress", "params": {"progressToken": token, "progress": done}})


def wait_for(path, request):
    while not os.path.exists(path):
        if request in CANCELLED:
            return False
        time.sleep(0.005)
    return True


def ask(text):
    global ASKED
    with LOCK:
        ASKED += 1
        number = f"ask-{ASKED}"
        ANSWERS[number] = box = {"event": threading.Event()}
    say({"id": number, "method": "elicitation/create", "params": {"message": text}})
    box["event"].wait()
    return box["said"]


def call(request, params):
    global COUNT
    name, arguments = params["name"], params.get("arguments", {})
    text, token = arguments.get("text", ""), params.get("_meta", {}).get("progressToken")
    if name == "whoami":
        return str(os.getpid())
    if name == "echo":
        return text
    if name == "count":
        COUNT += 1
        return str(COUNT)
    if name == "wait":
        progress(token, text)
        return f"waited for {text}" if wait_for(text, request) else None
    if name == "ask":
        return json.dumps(ask(text), sort_keys=True)
    if name == "log":
        say({"method": "notifications/message", "params": {"level": "info", "data": text}})
        return "logged"
    if name == "slow":
        for number in range(int(text)):
            progress(token, number)
            say({"method": "notifications/message", "params": {"level": "info", "data": "x" * 1000}})
        return "told"
    if name == "die":
        os._exit(9)
    raise KeyError(name)


def answer(message):
    params = message.get("params", {})
    method = message["method"]
    if method == "initialize":
        capabilities = {"tools": {}, "logging": {}, "resources": {"subscribe": True}}
        if "--tasks" in sys.argv:
            capabilities["tasks"] = {}
        info = {"name": "pool-test", "version": "1"}
        return {"protocolVersion": params["protocolVersion"], "capabilities": capabilities, "serverInfo": info}
    if method == "tools/list":
        names = ["whoami", "echo", "wait", "ask", "log", "slow", "die", "count"]
        return {"tools": [{"name": name, "inputSchema": {"type": "object"}} for name in names]}
    if method == "tools/call":
        text = call(message["id"], params)
        return None if text is None else {"content": [{"type": "text", "text": text}]}
    return {}


def handle(message):
    try:
        result = answer(message)
    except Exception as e:
        say({"id": message["id"], "error": {"code": -32603, "message": repr(e)}})
        return
    if result is not None:
        say({"id": message["id"], "result": result})


for line in sys.stdin:
    message = json.loads(line)
    if "method" not in message:
        box = ANSWERS.pop(message["id"], None)
        if box:
            box["said"] = message.get("result", message.get("error"))
            box["event"].set()
    elif message["method"] == "notifications/cancelled":
        CANCELLED.add(message["params"]["requestId"])
    elif "id" in message:
        threading.Thread(target=handle, args=(message,), daemon=True).start()
