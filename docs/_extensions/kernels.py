"""Run the cells of the pages in forked kernels, on all cores.

Importing JAX and IPython takes longer than the cells of most pages. One process imports them, and
forks a kernel for each page: the page has its own modules, variables, and compiled functions, as it
has in a kernel that Jupyter starts.
"""

import asyncio
import contextlib
import gc
import importlib
import json
import os
import select
import socket
import subprocess
import sys
import tempfile
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from jupyter_client.provisioning import KernelProvisionerFactory, LocalProvisioner

IMPORTED = (
    "ipykernel.kernelapp",
    "matplotlib.backends.backend_agg",
    "matplotlib.projections",
    "jaxnn.data",
    "jaxnn.sweep",
    "jaxnn.train",
)


class Kernel:
    """A forked kernel, with what Jupyter uses of `subprocess.Popen`."""

    stdin = stdout = stderr = None

    def __init__(self, address: str, arguments: list[str], folder: str, variables: dict[str, str]):
        """Ask the server at an address for a kernel, and wait for its process."""
        self.connection = socket.socket(socket.AF_UNIX)
        self.connection.connect(address)
        self.connection.sendall(json.dumps([arguments, folder, variables]).encode() + b"\n")
        self.pid = int(self.connection.recv(64))
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return None while the process runs: its end closes the connection."""
        if self.returncode is None and select.select([self.connection], [], [], 0)[0]:
            self.connection.close()
            self.returncode = 0
        return self.returncode

    def wait(self) -> int:
        """Wait for the end of the process."""
        while self.poll() is None:
            select.select([self.connection], [], [])
        return 0

    def send_signal(self, number: int) -> None:
        """Send a signal to the process."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)


class ForkedProvisioner(LocalProvisioner):
    """Start the kernels of Jupyter in the server of this build."""

    address = ""

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
        """Fork a kernel with the arguments, the folder, and the environment of a command."""
        arguments = cmd[cmd.index("-f") :]
        self.process = Kernel(self.address, arguments, kwargs["cwd"], kwargs["env"])
        self.pid = self.pgid = self.process.pid
        return self.connection_info


def serve(listener: socket.socket) -> None:
    """Fork a kernel for each request, until the standard input is closed."""
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"  # that of kernels
    for name in IMPORTED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
        forget_ended()
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            run(connection)
            return
        connection.close()
    forget_ended()


def forget_ended() -> None:
    """Remove the kernels that have ended from the table of processes."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def run(connection: socket.socket) -> None:
    """Run one kernel in this process."""
    from ipykernel.kernelapp import IPKernelApp

    os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    arguments, folder, variables = json.loads(connection.makefile().readline())
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    connection.sendall(str(os.getpid()).encode())
    asyncio.set_event_loop(asyncio.new_event_loop())
    parent = f"--IPKernelApp.parent_handle={os.getppid()}"  # the kernel ends with the server
    # Each kernel would warn that the cells are sent in plain text, within this machine.
    IPKernelApp.launch_instance(argv=[*arguments, parent, "--log-level=ERROR"])


def start(app: Any) -> None:
    """Start the server, which ends with this process."""
    folder = tempfile.TemporaryDirectory(prefix="kernels")
    ForkedProvisioner.address = str(Path(folder.name) / "socket")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(ForkedProvisioner.address)
        listener.listen(64)
        number = listener.fileno()
        command = [sys.executable, __file__, str(number)]
        server = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[number])
    app.connect("build-finished", lambda *_: (server.communicate(), folder.cleanup()))
    factory = KernelProvisionerFactory.instance()
    factory.provisioners["forked"] = EntryPoint(
        "forked", "kernels:ForkedProvisioner", "jupyter_client.kernel_provisioners"
    )
    factory.default_provisioner_name = "forked"


def spread(app: Any, env: Any, names: list[str]) -> None:
    """Distribute the pages of each folder evenly, since those of some folders take longer."""
    names[:] = [name for first in range(8) for name in names[first::8]]


def setup(app: Any) -> dict[str, Any]:
    """Use all cores, and start the server on systems that can fork."""
    app.parallel = max(app.parallel, os.cpu_count() or 1)
    app.connect("env-before-read-docs", spread)
    if sys.platform == "linux":
        app.connect("builder-inited", start)
    return {"parallel_read_safe": True}


if __name__ == "__main__":
    del sys.path[0]
    serve(socket.socket(fileno=int(sys.argv[1])))
