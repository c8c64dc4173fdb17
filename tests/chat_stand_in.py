"""A chat endpoint on this machine whose replies a test writes: for teachers behind an address.

    server = StandIn()
    server.script = lambda number, request: answer("A wren.") if number > 1 else refusal(500)
    ... ask at server.url, then look at server.requests ...
    server.close()
"""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from finer1_lib.models.endpoint import ChatEndpoint

RAW = "raw"  # in the place of a status: the body's pieces are all that is sent, with pauses of so many seconds


def answer(text="A wren.", finish="stop", usage=(10, 3), **more):
    usage = {} if usage is None else {"usage": dict(zip(("prompt_tokens", "completion_tokens"), usage))}
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": finish}
    return 200, {}, json.dumps({"model": "giant-2", "choices": [choice], **usage, **more}).encode()


def refusal(status, message="no", headers=(), **error):
    return status, dict(headers), json.dumps({"error": {"message": message, **error}}).encode()


class StandIn:
    """A server whose replies a test writes: `script(number, request)` gives (status, headers, body), or
    (RAW, pause, pieces) for what no server should send; None hangs up."""

    def __init__(self):
        self.script = lambda number, request: answer()
        self.requests, self.headers, self.together, self.most, self.given_up = [], [], 0, 0, 0
        self.lock, owner = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with owner.lock:
                    owner.requests.append(request)
                    owner.headers.append(dict(self.headers) | {"path": self.path})
                    number = len(owner.requests)
                    owner.together += 1
                    owner.most = max(owner.most, owner.together)
                try:
                    reply = owner.script(number, request)
                finally:
                    with owner.lock:
                        owner.together -= 1
                if reply is None:  # hang up
                    return
                status, headers, body = reply
                if status == RAW:
                    self.drip(body, headers)
                    return
                self.send_response(status)
                sent = {"Content-Length": str(len(body)), **headers}
                for name, value in sent.items():
                    self.send_header(name, value)
                self.end_headers()
                pieces = body if isinstance(body, list) else [body]
                try:
                    for piece in pieces:
                        self.wfile.write(piece)
                        self.wfile.flush()
                        time.sleep(0.05 if len(pieces) > 1 else 0)
                except OSError:  # the client has had enough
                    pass

            def drip(self, pieces, pause):
                try:
                    for piece in pieces:
                        self.wfile.write(piece)
                        self.wfile.flush()
                        time.sleep(pause)
                except OSError:  # the client has had enough
                    owner.given_up += 1
                self.close_connection = True

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def prompts(self):
        return [text_of(request) for request in self.requests]

    def close(self):
        self.server.shutdown()
        self.server.server_close()


def text_of(request):
    return request["messages"][0]["content"][-1]["text"]


def endpoint(standin, tmp_path, **options):
    """A client of the stand-in that waits and tries little."""
    options = {"first_wait": 0.01, "time_out": 20.0, **options}
    return ChatEndpoint(standin.url, "giant", tmp_path / "answers.jsonl", **options)
