"""Serve one handler at the route ``/route``."""

import labnet as ln


def serve(function, **options):
    return ln.network.serve({"route": function}, port=0, **options)
