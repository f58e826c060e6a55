"""Statistics of servers: what every server counts, fields of your own, and the tree of a composed server.

``python examples/server_statistics.py`` asks three servers in three processes.
"""

from processes import running

import labnet as ln


def basic():
    return ln.network.serve({"double": lambda x: x * 2}, port=0, name="basic")


def custom():
    seen = {"images": 0}

    def classify(x):
        seen["images"] += len(x)
        return x.argmax(axis=1)

    routes = {"classify": classify, "statistics": lambda: dict(seen)}
    return ln.network.serve(routes, port=0, name="custom")


def recursive(*urls):
    async def statistics():
        first, second = await ln.network.all(*(ln.network.tfetch(f"{url}/statistics") for url in urls))
        return {"doubler": first, "classifier": second}

    return ln.network.serve({"statistics": statistics, "ping": lambda: "pong"}, port=0, name="recursive")


def show(statistics, title, indent=""):
    """Print a tree of statistics: the routes of a server, its own fields, then the servers that it asked."""
    print(f"{indent}{title} ({statistics['server']['name']})")
    for name, value in statistics.items():
        if isinstance(value, dict) and "server" in value:
            show(value, name, indent + "    ")
        elif isinstance(value, dict) and "hits" in value:
            print(f"{indent}  /{name}: {value['hits']} hits, {value['seconds'] * 1e3:.2f} ms")
        elif name != "server":
            print(f"{indent}  {name} = {value}")


def main():
    with running(basic, custom) as (first, second), running((recursive, first, second)) as (url,):
        for _ in range(3):
            ln.network.tfetch(f"{first}/double", ln.ones(4), blocking=True)
        ln.network.tfetch(f"{second}/classify", ln.randn((100, 10)), blocking=True)
        show(ln.network.tfetch(f"{url}/statistics", blocking=True), "the composed server")


if __name__ == "__main__":
    main()
