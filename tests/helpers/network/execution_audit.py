"""A plain model server that records, from a certain moment on, what could start a process or run code.

Says where it is in one line of JSON, listens for the moment on its input, and prints the events at the end.
"""

import json
import logging
import sys

import labnet as ln

#: Prefixes of audit events that a request must never cause.
FORBIDDEN = ("subprocess", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.system", "os.startfile", "pty")
CODE = ("compile", "exec", "import", "ctypes.dlopen", "marshal", "pickle.find_class")


def main():
    logging.disable()  # a traceback in the log is compiled by Python to mark the place in a line of our own source
    ln.manual_seed(0)
    routes = {"double": lambda x: x * 2, "statistics": lambda: {"extra": 1}, "user": lambda user: "hi"}
    with ln.network.serve_model(ln.nn.Linear(3, 2), ln.optim.SGD(lr=0.1), port=0, routes=routes) as server:
        print(json.dumps({"url": server.url, "port": server.port, "token": server.token}), flush=True)
        events = []
        sys.stdin.readline()
        sys.addaudithook(lambda event, _: events.append(event) if event.startswith((*FORBIDDEN, *CODE)) else None)
        print("recording", flush=True)
        sys.stdin.readline()
        print(json.dumps(sorted(set(events))), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
