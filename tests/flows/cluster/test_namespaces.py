"""The network of `make test-cluster`: nothing of it stays on the machine, also if it cannot be made or was killed."""

import pytest

from tests.support import namespaces


class Machine:
    """Interfaces and namespaces, as `ip` would make them, without the arguments in `refused`."""

    def __init__(self, *refused: str):
        self.refused, self.found = refused, set()

    def ip(self, *arguments: str, check: bool = True) -> bool:
        done = not any(word in arguments for word in self.refused) and self._do(list(arguments))
        assert done or not check, arguments
        return done

    def _do(self, arguments: list[str]) -> bool:
        if arguments[:2] not in (["link", "add"], ["netns", "add"], ["link", "delete"], ["netns", "delete"]):
            return True
        name = arguments[3] if arguments[2] == "name" else arguments[2]
        if (name in self.found) == (arguments[1] == "add"):
            return False
        (self.found.add if arguments[1] == "add" else self.found.remove)(name)
        return True


@pytest.fixture
def machine(monkeypatch, request):
    machine = Machine(*getattr(request, "param", ()))
    monkeypatch.setattr(namespaces, "_ip", machine.ip)
    monkeypatch.setattr(namespaces, "_routes", list)
    monkeypatch.setattr(namespaces.shutil, "which", lambda name: name)
    monkeypatch.setattr(namespaces.os, "geteuid", lambda: 0)
    return machine


def test_the_network_of_a_killed_test_is_replaced(machine):
    """Its namespaces live as long as their processes, and so do the cables."""
    for _ in range(2):
        network = namespaces.Network()
        assert network.real and network.address == namespaces.ADDRESS
        assert network.add(1) == ["ip", "netns", "exec", "prolific-1"]
    assert machine.found == {"prolific0", "prolific1", "prolific-1"}
    network.close()
    assert not machine.found


@pytest.mark.parametrize("machine", [["bridge"], ["netns"], ["address"]], indirect=True)
def test_without_the_right_to_make_it_all_machines_share_the_loopback_interface(machine):
    network = namespaces.Network()
    assert not network.real and network.address == "127.0.0.1" and network.add(1) == []
    assert not machine.found


def test_the_network_is_removed_at_the_end_of_the_process(machine, monkeypatch):
    """The cluster may fail before there is a test that could close it."""
    at_exit = []
    monkeypatch.setattr(namespaces.atexit, "register", at_exit.append)
    namespaces.Network().add(1)
    assert machine.found
    for function in at_exit:
        function()
    assert not machine.found


def test_a_network_of_the_machine_is_not_hidden(machine, monkeypatch):
    monkeypatch.setattr(namespaces, "_routes", lambda: ["10.0.0.0/8 dev eth1 scope link"])
    assert not namespaces.Network().real and not machine.found
