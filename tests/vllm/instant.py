"""Stands in for vLLM: reads a request as vLLM's HTTP server does, and answers at once.

instant.py PORT MODEL WIDTH

For `lookout bench servers`: what remains is the time that lookout and the upload take.
"""

import base64
import io
import json
import sys
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

port, model, width = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
OWN_TIME = "vllm:e2e_request_latency_seconds"
answers: list[float] = []


def choice(token: int, top: dict, is_last: bool) -> dict:
    logprobs = {"token_logprobs": [-1.0], "top_logprobs": [top]}
    return {"token_ids": [token], "logprobs": logprobs, "finish_reason": "length" if is_last else None}


class Server(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_) -> None:
        pass

    def reply(self, text: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def do_GET(self) -> None:
        if self.path == "/metrics":
            self.reply(f"{OWN_TIME}_count {len(answers)}\n{OWN_TIME}_sum {sum(answers)!r}\n")
        else:
            self.reply(json.dumps({"data": [{"id": model}]}))

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        begun = time.time()
        count = len(request.get("prompt", []))
        if "prompt_embeds" in request:
            file = zipfile.ZipFile(io.BytesIO(base64.b64decode(request["prompt_embeds"])))
            count = len(file.read("a/data/0")) // 2 // width
        usage = {"prompt_tokens": count}
        if not request.get("stream"):
            asked = request.get("logprob_token_ids", [])
            top = {f"token_id:{token}": -1.0 - token for token in [*range(5), *asked]}
            self.reply(json.dumps({"choices": [choice(3, top, True)], "usage": usage}))
            return
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        most = request["max_tokens"]
        for at in range(most):
            event = {"choices": [choice(40 + at, {}, at + 1 == most)], "usage": usage}
            self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
        answers.append(time.time() - begun)
        self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True


ThreadingHTTPServer(("127.0.0.1", port), Server).serve_forever()
