"""A server in a process of its own: says where it is in one line of JSON, and stops when its input is closed."""

import json
import sys

import labnet as ln
from tests.helpers.network.digits import OPTIMIZERS, make_model


def main(optimizer="sgd", port="0", name="digits"):
    server = ln.network.serve_model(make_model(), OPTIMIZERS[optimizer](), port=int(port), name=name)
    print(json.dumps({"url": server.url, "port": server.port, "token": server.token}), flush=True)
    sys.stdin.read()
    server.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
