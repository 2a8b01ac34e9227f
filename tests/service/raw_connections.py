"""Connections on which a request is sent in parts."""

import socket

from tests.in_process import digit, encoded

IMAGE = encoded(digit())


def half_sent(port: int) -> socket.socket:
    """A connection on which all but the last byte of a request with `IMAGE` has been sent."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    head = f"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Length: {len(IMAGE)}\r\nConnection: close\r\n\r\n"
    connection.sendall(head.encode() + IMAGE[:-1])
    return connection


def answer_on(connection: socket.socket) -> bytes:
    """Everything that is received until the server closes the connection."""
    received = b""
    with connection:
        while part := connection.recv(65536):
            received += part
    return received
