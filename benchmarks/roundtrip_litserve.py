"""The identity model in LitServe, for ``benchmarks/roundtrip.py``: ``roundtrip_litserve.py PORT``.

Numbers travel as JSON, the only form that LitServe takes for arrays.
"""

import os
import signal
import sys
import threading

import litserve
import numpy as np


class Identity(litserve.LitAPI):
    """Returns the numbers that it is given."""

    def setup(self, device):
        """Nothing to load."""

    def decode_request(self, request):
        """Read the list."""
        return np.asarray(request["x"], "float32")

    def predict(self, x):
        """Touch every number."""
        return x * np.float32(1)

    def encode_response(self, output):
        """Write a list."""
        return {"y": output.tolist()}


if __name__ == "__main__":
    print(sys.argv[1], flush=True)
    os.setpgid(0, 0)  # its workers are processes too, and end together
    threading.Thread(target=lambda: (os.read(0, 1), os.killpg(0, signal.SIGKILL)), daemon=True).start()
    litserve.LitServer(Identity(), accelerator="cpu").run(
        host="127.0.0.1", port=int(sys.argv[1]), log_level="error", generate_client_file=False
    )
