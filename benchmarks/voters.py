"""Many people vote at once: how long the server of a study lets each of them wait, and whether a vote is lost.

    python -m benchmarks.voters --voters 200 --prompts 10

Every voter joins, then answers all questions and looks at the images, without a pause; people are slower by far.
"""

import argparse
import http.client
import json
import multiprocessing
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from alignbench.store.image_records import PromptRecord, SamplingRecord, image_name, write_prompts, write_sampling
from alignbench.store.manifest import Manifest
from alignbench.store.run_folder import RunFolder
from alignbench.study.begin import open_study
from alignbench.study.server import StudyServer
from alignbench.votes.ballots import Ballots
from alignbench.votes.record import StudyFolder


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.voters")
    parser.add_argument("--voters", type=int, default=200)
    parser.add_argument("--prompts", type=int, default=10)
    parser.add_argument("--side", type=int, default=512, help="of the images, in pixels")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        study = made(Path(place) / "results", arguments.prompts, arguments.side)
        waits, seconds, num_votes, num_expected = load(study, arguments.voters)
    milliseconds = 1000 * np.array(waits)
    heads = (
        "voters",
        "requests",
        "a second",
        "median wait, ms",
        "99 % wait, ms",
        "longest wait, ms",
        "votes",
        "votes lost",
    )
    print(f"| {' | '.join(heads)} |\n|{'---:|' * len(heads)}")
    times = (np.median(milliseconds), np.quantile(milliseconds, 0.99), milliseconds.max())
    counts = (arguments.voters, len(waits), round(len(waits) / seconds), *map(round, times))
    print(f"| {' | '.join(f'{one:,}' for one in (*counts, num_votes, num_expected - num_votes))} |")


def made(root: Path, num_prompts: int, side: int) -> StudyFolder:
    """Make two runs with images, and a study of them."""
    runs = []
    for method in ("base", "dpo"):
        run = RunFolder(root / f"{method}-sd15_mini-0")
        run.open(Manifest(run.name, method, "sd15_mini", None if method == "base" else 0, method, method))
        images = run.images("shapes", "1a2b")
        records = [PromptRecord(f"p{i}", f"prompt {i}", (), (image_name(f"p{i}", 0),)) for i in range(num_prompts)]
        write_prompts(images, records)
        write_sampling(images, SamplingRecord("shapes", 20, 4.0, "per_prompt", 0, 1, num_prompts, subset=False))
        draw = np.random.default_rng(len(runs))
        for record in records:
            coarse = Image.fromarray(draw.integers(0, 256, (16, 16, 3), dtype=np.uint8))
            coarse.resize((side, side)).save(images / record.images[0])
        run.complete("generate", "shapes/1a2b", [images / "prompts.jsonl", images / "sampling.json"])
        runs.append(run.path)
    return open_study(runs, "smpo")


def load(study: StudyFolder, num_voters: int) -> tuple[list[float], float, int, int]:
    """Let all voters vote; return the wait of each request in seconds, the time of all, and votes stored and sent."""
    ports = multiprocessing.SimpleQueue()
    server = multiprocessing.Process(target=_serve, args=(study, ports), daemon=True)
    server.start()
    port, begin = ports.get(), time.monotonic()
    barrier = threading.Barrier(num_voters)
    with ThreadPoolExecutor(num_voters) as pool:
        found = list(pool.map(lambda number: _vote_all(port, number, barrier), range(num_voters)))
    seconds = time.monotonic() - begin
    server.terminate()
    server.join()
    ballots = Ballots(study.ballots)
    stored = len(ballots.votes())
    ballots.close()
    return [wait for waits, _ in found for wait in waits], seconds, stored, sum(sent for _, sent in found)


def _serve(study: StudyFolder, ports: "multiprocessing.SimpleQueue[int]") -> None:
    with StudyServer(study, Ballots(study.ballots), port=0) as server:
        ports.put(server.server_address[1])
        server.serve_forever()


def _vote_all(port: int, number: int, barrier: threading.Barrier) -> tuple[list[float], int]:
    waits: list[float] = []
    cookies: dict[str, str] = {}

    def ask(method: str, path: str, content: Any = None) -> Any:
        begin = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        cookie = "; ".join(f"{name}={value}" for name, value in cookies.items())
        headers = {"Content-Type": "application/json", "Cookie": cookie}
        connection.request(method, path, None if content is None else json.dumps(content), headers)
        response = connection.getresponse()
        body = response.read()
        assert response.status == 200, body
        for text in response.headers.get_all("Set-Cookie", []):
            name, _, value = text.partition(";")[0].partition("=")
            cookies[name] = value
        connection.close()
        waits.append(time.monotonic() - begin)
        return json.loads(body) if path != "/" and not path.startswith("/images") else body

    barrier.wait()
    ask("GET", "/")
    state, sent = ask("POST", "/join", {"name": f"voter {number}"}), 0
    while state["task"] is not None:
        for image in state["images"]:
            ask("GET", f"/{image}")
        answer = state["choices"][(number + sent) % len(state["choices"])]["answer"]
        state = ask("POST", "/vote", {"task": state["task"], "question": state["question_name"], "answer": answer})
        sent += 1
    return waits, sent


if __name__ == "__main__":
    main()
