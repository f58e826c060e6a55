"""Real kernels, each in a process of its own, spoken to as a notebook does."""

import contextlib
import warnings
from dataclasses import dataclass, field

SECONDS = 200
#: What ipykernel and zmq warn about by themselves, in their own processes and at the end of theirs.
IGNORED = ("ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::RuntimeWarning")


@dataclass
class Outcome:
    """What a cell has left: text, rich output by type, and the error if there was one."""

    text: str = ""
    rich: list = field(default_factory=list)
    error: str = ""
    traceback: str = ""

    def html(self):
        return "".join(data.get("text/html", "") for data in self.rich)


class Kernel:
    """A kernel with labnet loaded."""

    def __init__(self, manager):
        self.manager = manager
        self.client = manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=SECONDS)

    @property
    def pid(self):
        return self.manager.provisioner.process.pid

    def start(self, code):
        """Start a cell without waiting for it; returns when it runs, and has printed something if it does at once."""
        return self.client.execute(code)

    def wait_for_text(self, text):
        """Wait until a running cell prints something."""
        while True:
            message = self.client.get_iopub_msg(timeout=SECONDS)
            assert message["msg_type"] != "error", message["content"]
            if message["msg_type"] == "stream" and text in message["content"]["text"]:
                return

    def finish(self, request):
        """Wait for a cell to end."""
        outcome = Outcome()
        while True:
            message = self.client.get_iopub_msg(timeout=SECONDS)
            if message["parent_header"].get("msg_id") != request:
                continue
            content = message["content"]
            if message["msg_type"] == "stream":
                outcome.text += content["text"]
            elif message["msg_type"] in ("execute_result", "display_data"):
                outcome.rich.append(content["data"])
                outcome.text += content["data"].get("text/plain", "")
            elif message["msg_type"] == "error":
                outcome.error = f"{content['ename']}: {content['evalue']}"
                outcome.traceback = "\n".join(content["traceback"])
            elif message["msg_type"] == "status" and content["execution_state"] == "idle":
                return outcome

    def try_to_run(self, code):
        """Run a cell that may fail."""
        return self.finish(self.start(code))

    def run(self, code):
        """Run a cell that must not fail."""
        outcome = self.try_to_run(code)
        assert not outcome.error, outcome.traceback
        return outcome

    def interrupt(self):
        self.manager.interrupt_kernel()

    def restart(self):
        self.client.stop_channels()
        self.manager.restart_kernel(now=True)
        self.client = self.manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=SECONDS)

    def complete(self, line):
        """Return what the Tab key offers at the end of a line."""
        return self.client.complete(line, reply=True, timeout=SECONDS)["content"]["matches"]


@contextlib.contextmanager
def kernel(*, load=True):
    """Run a kernel that has imported labnet."""
    from jupyter_client.manager import KernelManager

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        manager = KernelManager(kernel_name="python3")
        manager.start_kernel()
        running = Kernel(manager)
        try:
            if load:
                running.run("import labnet as ln\n%load_ext labnet")
            yield running
        finally:
            running.client.stop_channels()
            manager.shutdown_kernel(now=True)
            manager.cleanup_resources()
            manager.context.destroy()
