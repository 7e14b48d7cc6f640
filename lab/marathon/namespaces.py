"""Sockets inside another process's network namespace, used from this process's event loop.

A socket belongs to the namespace of the thread that makes it and stays there, whoever uses it.  So
a helper thread enters the namespace (setns acts per thread), makes the socket, and hands it to the
event loop.  The threads do nothing else, hence never need to go back.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
from concurrent.futures import ThreadPoolExecutor

CLONE_NEWNET = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)
_threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="netns")


async def open_connection(
    pid: int, address: str, port: int
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect by TCP from inside the network namespace of process `pid`.

    Raises:
        OSError: the process is gone, or nothing answers.
    """
    loop = asyncio.get_running_loop()
    inside = await loop.run_in_executor(_threads, _socket_in, f"/proc/{pid}/ns/net")
    try:
        await loop.sock_connect(inside, (address, port))
        return await asyncio.open_connection(sock=inside)
    except BaseException:
        inside.close()
        raise


def _socket_in(path: str) -> socket.socket:
    namespace = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(namespace, CLONE_NEWNET) != 0:
            error = ctypes.get_errno()
            raise OSError(error, f"cannot enter {path}: {os.strerror(error)}")
    finally:
        os.close(namespace)
    inside = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    inside.setblocking(False)
    return inside
