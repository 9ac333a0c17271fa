"""HTTP servers that are at work while a test asks them."""

import threading
from contextlib import contextmanager


@contextmanager
def at_work(server):
    """Yield a server while a thread serves."""
    with server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
