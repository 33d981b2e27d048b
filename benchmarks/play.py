"""How long one move of a slider takes: requests to the page's server, one after the other, over one connection.

    python benchmarks/play.py [COUNT]
"""

import http.client
import json
import sys
import threading
import time

import numpy as np

from dpo_numpy.playground.evaluation import DEFAULTS
from dpo_numpy.playground.server import Server


def milliseconds(connection, path, params, count):
    """(count,) from the request to the last byte of the answer"""
    took, body = [], json.dumps(params)
    for _ in range(count):
        start = time.perf_counter()
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        took.append(1e3 * (time.perf_counter() - start))
        assert answer.status == 200
    return np.array(took)


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        print(f"{'':<24}{'median':>10}{'90 %':>10}{'99 %':>10}   ms")
        for path in ("/evaluate", "/show"):
            for panel, params in DEFAULTS.items():
                number = count // 20 if panel == "run" else count
                milliseconds(connection, path, params, 5)
                at = np.percentile(milliseconds(connection, path, params, number), [50, 90, 99])
                print(f"{path + ' ' + panel:<24}" + "".join(f"{x:10.2f}" for x in at))
        connection.close()
        server.shutdown()


if __name__ == "__main__":
    main()
