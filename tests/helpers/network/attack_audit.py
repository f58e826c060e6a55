"""A server in a process of its own that notes whatever Python's audit hooks tell of it while it is watched.

Says where it is in one line of JSON; "watch" on its input begins, and "report" prints what was seen.
"""

import json
import sys

import labnet as ln
from labnet import nn

#: Starting programs, making code out of data, asking other machines, and changing files.
FORBIDDEN = (
    *("subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.startfile", "pty."),
    *("compile", "exec", "code.__new__", "function.__new__", "import", "marshal.", "pickle.", "ctypes.", "shelve."),
    *("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "urllib.", "http.client."),
    *("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "shutil."),
)
MAX_BODY = 1 << 22


def _is_a_traceback():
    frame = sys._getframe(2)
    while frame is not None and not frame.f_code.co_filename.endswith("traceback.py"):
        frame = frame.f_back
    return frame is not None


def main():
    seen, watching = [], False

    def hook(event, arguments):
        if not watching:
            return
        if event == "compile" and _is_a_traceback():  # which marks the place in a line of its own source
            return
        writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
        if writes or event.startswith(FORBIDDEN):
            seen.append(f"{event} {arguments!r:.200}")

    sys.addaudithook(hook)
    routes = {"echo": lambda x: x, "hello": lambda: "hi", "user": lambda user, x=None: len(vars(user))}
    model, optimizer = nn.Linear(2, 1), ln.optim.SGD(lr=0.1)
    server = ln.network.serve_model(model, optimizer, port=0, routes=routes, name="it", max_body=MAX_BODY)
    table = {path: route.methods for path, route in server._port.routes.items()}
    print(json.dumps({"url": server.url, "port": server.port, "token": server.token, "routes": table}), flush=True)
    for line in sys.stdin:
        watching = line.strip() == "watch"
        if line.strip() == "report":
            print(json.dumps(seen), flush=True)
    server.stop()


if __name__ == "__main__":
    main()
