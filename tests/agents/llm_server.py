#!/usr/bin/env python3
"""A language model that says its lines: an OpenAI-compatible server on loopback.

    llm_server.py PLAY

A play (see plays.py) has one part for each agent, and a part has its replies in order. Whose
request it is says its API key, which is the agent's name. A reply may wait for another agent or
for the operator (`after`), and may check what the agent has sent (`expect`), so that a play tells
a story about two agents that is the same at every performance: nothing here is timed.

The first line it writes is its address, under which POST /v1/chat/completions gives whoever asks
the next reply, streamed if that is asked for. It reads commands, a line each, until its standard
input ends:

    go        the operator's cue
    report    writes a line of JSON: how far each part is, and all that went wrong

It is also the agents' proxy for everything else, and there it refuses: that an agent asked for
another host is in the report.
"""

import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from plays import OPERATOR, PLAYS

# No play waits so long for another part: this ends a play that can't go on.
LONGEST_WAIT_SECONDS = 100


class Play:
    """The state of a performance. Every method may be called from any thread."""

    def __init__(self, parts):
        self.parts = {part.agent: part for part in parts}
        self.asked = {agent: 0 for agent in (*self.parts, OPERATOR)}
        self.trouble = []
        self.changed = threading.Condition()

    def answer(self, agent, request):
        """The next reply to `agent`, or None if the play does not go that way."""
        text = "\n".join(message_text(message) for message in request["messages"])
        part = self.parts.get(agent)
        if part is None:
            return self.wrong(f"{agent!r} has no part in this play")
        number = self.cue(agent)
        if number >= len(part.replies):
            return self.wrong(f"{agent} asks again after the last reply: {text[-400:]}")
        reply = part.replies[number]
        for expected in reply.expect:
            if expected not in text:
                return self.wrong(f"{agent}'s request {number + 1} lacks {expected!r}: {text}")
        if not self.wait_for(reply.after):
            return self.wrong(f"{agent}'s reply {number + 1} waited in vain: {reply.after}")
        return reply.text

    def cue(self, who):
        """Counts a request, and gives how many there were before it."""
        with self.changed:
            number = self.asked[who]
            self.asked[who] += 1
            self.changed.notify_all()
            return number

    def wait_for(self, cue):
        """Whether whoever `cue` names has asked that often, after waiting for it."""
        if cue is None:
            return True
        who, number = cue
        with self.changed:
            return self.changed.wait_for(lambda: self.asked[who] >= number, LONGEST_WAIT_SECONDS)

    def wrong(self, what):
        with self.changed:
            self.trouble.append(what)

    def report(self):
        with self.changed:
            parts = {
                agent: {"asked": self.asked[agent], "replies": len(part.replies)}
                for agent, part in self.parts.items()
            }
            return {"parts": parts, "trouble": self.trouble}


def message_text(message):
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "".join(piece.get("text", "") for piece in content)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path != "/v1/chat/completions":
            return self.refuse_other_host()
        request = json.loads(body)
        agent = self.headers.get("Authorization", "").removeprefix("Bearer ")
        text = self.server.play.answer(agent, request)
        if text is None:
            # A status that clients do not try again.
            self.send_json(400, {"error": {"message": "this is not in the play"}})
        elif request.get("stream"):
            self.send_stream(text)
        else:
            self.send_json(200, completion(message={"role": "assistant", "content": text}))

    def refuse_other_host(self):
        self.server.play.wrong(f"another host was asked: {self.command} {self.path}")
        self.close_connection = True
        self.send_json(403, {"error": {"message": "only the model may be asked"}})

    do_CONNECT = do_GET = do_HEAD = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = refuse_other_host

    def send_json(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def send_stream(self, text):
        self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for line in text.splitlines(keepends=True):
            self.send_event(json.dumps(completion(delta={"role": "assistant", "content": line})))
        self.send_event(json.dumps(completion(delta={}, finish_reason="stop")))
        self.send_event("[DONE]")

    def send_event(self, data):
        self.wfile.write(f"data: {data}\n\n".encode())
        self.wfile.flush()

    def log_message(self, *_):
        """The report tells what matters."""


def completion(finish_reason=None, **content):
    whole = "message" in content
    return {
        "id": "scripted",
        "object": "chat.completion" if whole else "chat.completion.chunk",
        "created": int(time.time()),
        "model": "scripted",
        "choices": [{"index": 0, "finish_reason": "stop" if whole else finish_reason, **content}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }


def main():
    if len(sys.argv) != 2 or sys.argv[1] not in PLAYS:
        sys.exit(f"usage: llm_server.py PLAY; the plays are: {', '.join(PLAYS)}")
    play = Play(PLAYS[sys.argv[1]])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.play = play
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
    for line in sys.stdin:
        match line.strip():
            case "go":
                play.cue(OPERATOR)
            case "report":
                print(json.dumps(play.report()), flush=True)
            case other:
                sys.exit(f"no such command: {other!r}")


if __name__ == "__main__":
    main()
