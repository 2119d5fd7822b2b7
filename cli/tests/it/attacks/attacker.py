"""Says what of all it tries has worked."""

import ctypes
import json
import os
import socket
import sys

if sys.argv[1] == "validate":
    sys.exit(0)
if sys.argv[1] == "info":
    print('{"id":"attacker","version":"0.1.0","phases":["attack"]}')
    sys.exit(0)

VICTIM = int("@VICTIM@")
libc = ctypes.CDLL(None, use_errno=True)


def in_a_child(act):
    """What ends or replaces the process is done by another."""
    child = os.fork()
    if child == 0:
        os.dup2(os.open("/dev/null", os.O_WRONLY), 1)
        try:
            act()
        except BaseException:
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        raise OSError("it failed")


def call(name, *arguments):
    if getattr(libc, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), name)


def memory_file():
    fd = os.memfd_create("it")
    with open(sys.executable, "rb") as source:
        while piece := source.read(1 << 20):
            os.write(fd, piece)
    os.execve(fd, ["it", "-c", "pass"], {})


def unix(path):
    with socket.socket(socket.AF_UNIX) as it:
        it.connect(path)


def through_the_proxy(target):
    host, port = os.environ["https_proxy"].removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 5) as it:
        it.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
        if it.recv(12) != b"HTTP/1.1 200":
            raise OSError("it was refused")


def listed(path, name):
    if name not in os.listdir(path):
        raise OSError("it is not there")


ATTACKS = {
    "granted_file": lambda: open("@GRANTED@/file").read(),
    "read": lambda: open("@SECRET@/file").read(),
    "dotdot": lambda: open("@GRANTED@/../secret/file").read(),
    "link": lambda: open("@GRANTED@/link").read(),
    "metadata": lambda: os.stat("@SECRET@/file"),
    "mode": lambda: os.chmod("@SECRET@/file", 0o600),
    "times": lambda: os.utime("@SECRET@/file"),
    "mode_of_what_is_read": lambda: os.chmod("@GRANTED@/file", 0o600),
    "hard_link": lambda: os.link("@SECRET@/file", "@GRANTED@/hard"),
    "remove": lambda: os.remove("@SECRET@/other"),
    "victim_is_seen": lambda: listed("/proc", "@VICTIM@"),
    "victim_environment": lambda: open("/proc/@VICTIM@/environ").read(),
    "victim_files": lambda: os.listdir("/proc/@VICTIM@/fd"),
    "signal": lambda: os.kill(VICTIM, 0),
    "priority": lambda: os.setpriority(os.PRIO_PROCESS, VICTIM, 19),
    "limit": lambda: call("prlimit", VICTIM, 4, None, ctypes.create_string_buffer(16)),
    "ptrace": lambda: call("ptrace", 16, VICTIM, None, None),
    "tcp": lambda: socket.create_connection(("127.0.0.1", int("@PORT@")), 5),
    "tcp6": lambda: socket.socket(socket.AF_INET6),
    "udp": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", 9)),
    "raw": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1),
    "netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
    "unix": lambda: unix("@SECRET@/socket"),
    "unix_abstract": lambda: unix("\0@ABSTRACT@"),
    "memory_file": lambda: in_a_child(memory_file),
    "other_program": lambda: in_a_child(lambda: os.execv("/usr/bin/id", ["id"])),
    "namespace": lambda: in_a_child(lambda: call("unshare", 0x10000000)),
    "granted_address": lambda: through_the_proxy("127.0.0.1:@PORT@"),
    "other_port": lambda: through_the_proxy("127.0.0.1:@OTHER_PORT@"),
    "other_name": lambda: through_the_proxy("localhost:@PORT@"),
    "other_spelling": lambda: through_the_proxy("[::ffff:127.0.0.1]:@OTHER_PORT@"),
    "host_secret": lambda: os.environ["HOST_SECRET"],
}

worked = []
for name, attack in ATTACKS.items():
    try:
        attack()
        worked.append(name)
    except Exception:
        pass
print(json.dumps(worked))
