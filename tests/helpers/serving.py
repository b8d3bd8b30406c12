"""A server on loopback that runs a real model and speaks the protocol of vLLM's OpenAI-compatible server.

    with serving(model, tokenizer, key="sk-secret") as server:
        server.fail(500, 500)                      # the next two requests are answered so
        ... ServerConfig(url=server.url, model=server.name) ...
        server.requests                            # (path, body) of all that came, in order

Prompts come as tokens or text; ``prompt_logprobs`` holds for each token of a prompt but the first the k likeliest and
the token itself; the key is looked at; a model that is not served is 404. Faults: a status, ``DROP`` (the connection
breaks off), ``GARBAGE`` (an answer that is no JSON), ``CUT`` (log-probabilities of half of the prompt, a text that
stopped for no reason), or a function of the body that gives a status and content.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch

DROP, GARBAGE, CUT = -1, -2, -3

Fault = int | Callable[[dict], tuple[int, dict]]


def called(turn: dict) -> dict:
    """A turn as templates take it: OpenAI's interface has the arguments of a call as a JSON text."""
    calls = [
        {**call, "function": {**call["function"], "arguments": json.loads(call["function"]["arguments"])}}
        for call in turn.get("tool_calls", ())
    ]
    return {"content": "", **turn, **({"tool_calls": calls} if calls else {})}


class Server:
    """What is served, and what was asked."""

    def __init__(self, model: Any, tokenizer: Any, key: str | None, name: str, **options: Any) -> None:
        self.model, self.tokenizer, self.key, self.name = model.eval(), tokenizer, key, name
        self.options = {
            "max_logprobs": 10**6,
            "max_model_len": 80,
            "prompt_logprobs": True,
            "logprobs": True,
            **options,
        }
        self.faults: list[Fault] = []
        self.headers: dict[str, str] = {}
        self.requests: list[tuple[str, dict]] = []
        self.busy = self.most = 0
        self.together: threading.Barrier | None = None
        self.dies_after: int | None = None
        self.lock, self.computing = threading.Lock(), threading.Lock()
        self.url = ""

    def fail(self, *faults: Fault, **headers: str) -> None:
        self.faults, self.headers = list(faults), {name.replace("_", "-"): value for name, value in headers.items()}

    # --- what is answered -------------------------------------------------------------------------------------------

    def answer(self, method: str, path: str, body: dict, authorization: str | None) -> tuple[int, dict]:
        if self.key is not None and authorization != f"Bearer {self.key}":
            return 401, {"error": {"message": f"Incorrect API key provided: {authorization}", "code": 401}}
        if (method, path) == ("GET", "/v1/models"):
            entry = {"id": self.name, "object": "model", "max_model_len": self.options["max_model_len"]}
            return 200, {"object": "list", "data": [entry]}
        if body.get("model") != self.name:
            return 404, {"error": {"message": f"The model `{body.get('model')}` does not exist.", "code": 404}}
        if path == "/tokenize" and self.options.get("tokenize", True):
            ids = self.tokenizer(body["prompt"])["input_ids"]
            return 200, {"count": len(ids), "max_model_len": self.options["max_model_len"], "tokens": ids}
        if path == "/v1/completions":
            return self.completions(body)
        if path == "/v1/chat/completions":
            return self.chat(body)
        return 404, {"detail": "Not Found"}

    def completions(self, body: dict) -> tuple[int, dict]:
        prompt = body["prompt"]
        ids = self.tokenizer(prompt)["input_ids"] if isinstance(prompt, str) else prompt
        if len(ids) + body.get("max_tokens", 16) > self.options["max_model_len"]:
            message = f"This model's maximum context length is {self.options['max_model_len']} tokens."
            return 400, {"error": {"message": message, "code": 400}}
        k = body.get("prompt_logprobs")
        if k is not None and k > self.options["max_logprobs"]:
            message = (
                f"Requested prompt logprobs of {k}, which is greater than max allowed: {self.options['max_logprobs']}"
            )
            return 400, {"error": {"message": message, "code": 400}}
        choices = self.written(ids, body)
        if k is not None and self.options["prompt_logprobs"]:
            for choice in choices:
                choice["prompt_logprobs"] = self.likelihoods(ids, k)
        if body.get("return_token_ids"):
            choices[0]["prompt_token_ids"] = ids
        return 200, {"object": "text_completion", "choices": choices, "usage": {"prompt_tokens": len(ids)}}

    def chat(self, body: dict) -> tuple[int, dict]:
        turns, tools = [called(turn) for turn in body["messages"]], body.get("tools")
        text = self.tokenizer.apply_chat_template(turns, tools=tools, tokenize=False, add_generation_prompt=True)
        choices = self.written(self.tokenizer(text, add_special_tokens=False)["input_ids"], body)
        for choice in choices:
            choice["message"] = {"role": "assistant", "content": choice.pop("text")}
            if choice["logprobs"] is not None:
                values = choice["logprobs"]["token_logprobs"]
                choice["logprobs"] = {"content": [{"token": "", "logprob": value} for value in values]}
        return 200, {"object": "chat.completion", "choices": choices}

    @torch.inference_mode()
    def likelihoods(self, ids: list[int], k: int) -> list[dict | None]:
        with self.computing:
            logs = self.model(input_ids=torch.tensor([ids])).logits[0].float().log_softmax(-1)
        found: list[dict | None] = [None]
        for row, token in zip(logs[:-1], ids[1:], strict=True):
            best = row.topk(min(k, len(row))).indices
            ranks = {each: rank + 1 for rank, each in enumerate(best.tolist())}
            ranks.setdefault(token, int((row > row[token]).sum()) + 1)
            found.append(
                {
                    str(each): {
                        "logprob": max(row[each].item(), -9999.0),
                        "rank": rank,
                        "decoded_token": self.tokenizer.decode([each]),
                    }
                    for each, rank in ranks.items()
                }
            )
        return found

    @torch.inference_mode()
    def written(self, ids: list[int], body: dict) -> list[dict]:
        count, draws = body.get("n", 1), body.get("temperature", 1.0) > 0
        how = {"do_sample": True, "temperature": body["temperature"], "top_k": 0} if draws else {"do_sample": False}
        with self.computing:
            torch.manual_seed(body.get("seed", 0))
            found = self.model.generate(
                torch.tensor([ids] * count),
                attention_mask=torch.ones(count, len(ids), dtype=torch.long),
                max_new_tokens=body.get("max_tokens", 16),
                pad_token_id=self.tokenizer.pad_token_id,
                return_dict_in_generate=True,
                output_logits=True,
                **how,
            )
        new = found.sequences[:, len(ids) :]
        logs = torch.stack(found.logits, 1).float().log_softmax(-1).gather(2, new[:, :, None]).squeeze(2)
        choices = []
        for index, (tokens, values) in enumerate(zip(new.tolist(), logs.tolist(), strict=True)):
            end = self.model.config.eos_token_id
            ended = end in tokens
            length = tokens.index(end) + 1 if ended else len(tokens)
            given = body.get("logprobs") and self.options["logprobs"]
            choices.append(
                {
                    "index": index,
                    "text": self.tokenizer.decode(tokens[:length], skip_special_tokens=True),
                    "finish_reason": "stop" if ended else "length",
                    "logprobs": {"token_logprobs": values[:length], "tokens": []} if given else None,
                }
            )
        return choices


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Nobody reads it."""

    def do_GET(self) -> None:
        self._serve("GET")

    def do_POST(self) -> None:
        self._serve("POST")

    def _serve(self, method: str) -> None:
        server: Server = self.server.served  # type: ignore[attr-defined]
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
        with server.lock:
            server.requests.append((self.path, body))
            server.busy += 1
            server.most = max(server.most, server.busy)
            fault = server.faults.pop(0) if server.faults else None
            dead = server.dies_after is not None and len(server.requests) > server.dies_after
        try:
            if server.together is not None and method == "POST":
                server.together.wait(30)
            self._answer(server, method, body, DROP if dead else fault)
        finally:
            with server.lock:
                server.busy -= 1

    def _answer(self, server: Server, method: str, body: dict, fault: Fault | None) -> None:
        if fault == DROP:
            self.close_connection = True
            return
        if callable(fault):
            status, content = fault(body)
        elif isinstance(fault, int) and fault > 0:
            status, content = fault, {"error": {"message": "out of order", "code": fault}}
        else:
            status, content = server.answer(method, self.path, body, self.headers.get("Authorization"))
        if fault == CUT:
            for choice in content.get("choices", []):
                choice["finish_reason"] = None
                if choice.get("prompt_logprobs"):
                    choice["prompt_logprobs"] = choice["prompt_logprobs"][: len(choice["prompt_logprobs"]) // 2]
        data = b'{"choices": [' if fault == GARBAGE else json.dumps(content).encode()
        self.send_response(status)
        for name, value in (server.headers if status >= 400 else {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


@contextmanager
def serving(
    model: Any, tokenizer: Any, key: str | None = None, name: str = "tiny-llama", **options: Any
) -> Iterator[Server]:
    """Serve until the context ends."""
    server = Server(model, tokenizer, key, name, **options)
    http = _Http(("127.0.0.1", 0), _Handler)
    http.served = server  # type: ignore[attr-defined]
    server.url = f"http://127.0.0.1:{http.server_address[1]}/v1"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
