"""`python -m alignbench.serve NAME [key=value ...]`: one evaluator, asked over HTTP by any number of programs."""

import argparse
import os
from collections.abc import Sequence

import torch
from transformers.utils import logging as transformers_logging

from alignbench.cli import check_neighbours
from alignbench.configuration.find_evaluator import build_evaluator, read_settings
from alignbench.errors import UserError
from alignbench.serve.access import TOKEN_VARIABLE
from alignbench.serve.server import ScoreServer
from alignbench.terminal.endings import one_sentence


def usable(device: str) -> str:
    """Return a device on which numbers can be kept.

    Raises:
        UserError: it is none.
    """
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # the latter where torch is built without CUDA
        raise UserError(f"device={device} cannot be used ({str(error).splitlines()[0]}); give another") from None
    return device


def main() -> None:
    """Serve until a signal ends it. See `alignbench.terminal.endings` for its exit status."""
    args = arguments()
    transformers_logging.set_verbosity_error()  # long prompts would fill the screen with warnings
    transformers_logging.disable_progress_bar()
    with one_sentence():
        check_neighbours()
        evaluator = build_evaluator(args.evaluator, read_settings(args.settings))
        evaluator.to(usable(args.device))
        token = args.token or os.environ.get(TOKEN_VARIABLE)
        server = ScoreServer(evaluator, args.host, args.port, token, args.batch_size, args.max_request_mb)
    server.run(f"serving {server.info.name}@{server.info.version} on {server.url}")
    server.lock.acquire()  # the interpreter must not end under a network at work


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read a command line, that of this process by default."""
    parser = argparse.ArgumentParser(prog="python -m alignbench.serve", description=__doc__)
    parser.add_argument("evaluator", help="the name of a file in conf/evaluator")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="in place of values of that file")
    parser.add_argument("--host", default="127.0.0.1", help="any other than loopback needs a token")
    parser.add_argument("--port", type=int, default=8000, help="0 for any that is free")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--token", help=f"what requests must carry; by default that of {TOKEN_VARIABLE}, if set")
    parser.add_argument("--batch-size", type=int, default=16, help="images that go through the network at once")
    parser.add_argument("--max-request-mb", type=float, default=256, help="largest request")
    return parser.parse_intermixed_args(words)


if __name__ == "__main__":
    main()
