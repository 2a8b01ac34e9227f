"""The listening socket of a server that ends: its workers share it, and the first process closes it after them.

Until then the system completes new connections, which nobody accepts; closing the socket resets them. A packet filter
on the socket prevents this: it drops the first packet of new connections, so that their clients try again after a
second, and are refused when the server has ended.
"""

import contextlib
import ctypes
import os
import socket
import stat
import struct
import sys
from collections.abc import Iterator

# Linux, asm-generic/socket.h; Python's socket module has no names for them.
_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27
_DROP_SYN = (  # classic BPF (linux/filter.h): code, jumps if true and if false, operand; the data is the TCP segment
    (0x30, 0, 0, 13),  # load the byte of the flags
    (0x45, 0, 1, 0x02),  # is SYN set?
    (0x06, 0, 0, 0),  # drop the packet
    (0x06, 0, 0, 0xFFFFFFFF),  # keep it
)


def stop_connections() -> None:
    """Makes Linux ignore new connections; those that are complete can still be accepted."""
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in _DROP_SYN))
    for listener in _listeners():
        with contextlib.suppress(OSError):  # a system without such filters
            description = struct.pack("HL", len(_DROP_SYN), ctypes.addressof(program))
            listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, description)


def resume_connections() -> None:
    """Undoes `stop_connections`, also that of another process."""
    for listener in _listeners():
        with contextlib.suppress(OSError):  # there is no filter
            listener.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)


def _listeners() -> Iterator[socket.socket]:
    """The listening TCP sockets of this process."""
    if sys.platform != "linux":
        return
    for name in os.listdir("/proc/self/fd"):
        try:
            if not stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                continue
            duplicate = os.dup(int(name))
        except OSError:  # closed meanwhile
            continue
        with socket.socket(fileno=duplicate) as found:
            tcp = found.family in (socket.AF_INET, socket.AF_INET6) and found.type == socket.SOCK_STREAM
            if tcp and found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                yield found
