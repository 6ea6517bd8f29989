import socket
import subprocess
import sys

from tests.gateway import ROOT
from tests.ports import FIRST, LAST, free_port

MANY = "from tests.ports import free_port; print(*[free_port() for _ in range(150)])"


def test_processes_at_once_never_get_the_same_port():
    running = [
        subprocess.Popen([sys.executable, "-c", MANY], cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    ports = [int(port) for process in running for port in process.communicate()[0].split()]
    assert len(ports) == 600
    mine = [free_port() for _ in range(3)]
    # A block is given back when its process ends, so only those that ran at once are compared with each other.
    assert len(set(mine)) == 3
    assert all(FIRST <= port < LAST for port in (*ports, *mine))


def test_a_port_on_which_something_listens_is_passed_over():
    first = free_port()
    with socket.create_server(("127.0.0.1", first + 1)):
        assert free_port() != first + 1
