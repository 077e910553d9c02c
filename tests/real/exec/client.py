"""Talks to a program in a container by clients that others wrote. Arguments: address, token, case."""

import hashlib
import json
import sys
import time

import websocket
from kubernetes.client import Configuration
from kubernetes.stream import ws_client

address, token, case = sys.argv[1:]
headers = {"authorization": "Bearer " + token}


def kubernetes(command, **more):
    """A session of Kubernetes' own client, which speaks version 4."""
    query = [("command", word) for word in command] + [(key, value) for key, value in more.items()]
    return ws_client.websocket_call(Configuration(), "GET", address, query_params=query, headers=headers,
                                    _preload_content=False)


def plain(query, version, **more):
    """A bare connection."""
    return websocket.create_connection(address.replace("http", "ws", 1) + "?" + query, header=headers, timeout=30,
                                       subprotocols=version, **more)


def to_end(socket):
    """Bytes of each channel, and the code of the closing frame."""
    channels, code = {}, None
    while code is None:
        kind, frame = socket.recv_data_frame(True)
        if kind == websocket.ABNF.OPCODE_CLOSE:
            code = int.from_bytes(frame.data[:2], "big")
        elif kind == websocket.ABNF.OPCODE_BINARY:
            channels.setdefault(frame.data[0], bytearray()).extend(frame.data[1:])
        else:
            assert kind == websocket.ABNF.OPCODE_PING, kind
    socket.close()
    return channels, code


if case == "kubernetes":
    session = kubernetes(["sh", "-c", "read line; echo got $line; echo err >&2; exit 3"], stdin=True, stdout=True,
                         stderr=True, tty=False)
    session.write_stdin("hello\n")
    session.run_forever(timeout=30)
    assert session.returncode == 3, session.returncode
    session = kubernetes(["sh", "-c", "echo out; echo err >&2"], stdout=True, stderr=True)
    out, err = session.readline_stdout(timeout=30), session.readline_stderr(timeout=30)
    session.run_forever(timeout=30)
    assert (out, err, session.returncode) == ("out", "err", 0), (out, err)
    terminal = kubernetes(["sh"], stdin=True, stdout=True, tty=True)
    terminal.write_channel(4, json.dumps({"Width": 123, "Height": 45}))
    terminal.write_stdin("stty size; exit 7\n")
    shown = ""
    while terminal.is_open():
        terminal.update(timeout=30)
        shown += terminal.read_stdout() if terminal.peek_stdout() else ""
    assert "45 123" in shown, shown
    assert terminal.returncode == 7, terminal.returncode
elif case == "version5":
    socket = plain("command=sha256sum&stdin=1", ["v5.channel.k8s.io", "v4.channel.k8s.io"])
    assert socket.getsubprotocol() == "v5.channel.k8s.io", socket.getsubprotocol()
    for _ in range(64):
        socket.send_binary(b"\x00" + b"x" * (256 << 10))
    socket.send_binary(b"\xff\x00")
    channels, code = to_end(socket)
    assert code == 1000, code
    expected = hashlib.sha256(b"x" * (64 * (256 << 10))).hexdigest()
    assert bytes(channels[1]).decode().split()[0] == expected, channels
    assert json.loads(channels[3]) == {"metadata": {}, "status": "Success"}, channels
    socket = plain("command=head&command=-c&command=20000000&command=/dev/zero", ["v5.channel.k8s.io"])
    channels, code = to_end(socket)
    assert (len(channels[1]), code) == (20000000, 1000), len(channels[1])
elif case == "refused":
    for query, version, status in [("command=/nope", ["v5.channel.k8s.io"], 422), ("command=id", ["other"], 400),
                                   ("command=id", None, 400), ("", ["v4.channel.k8s.io"], 422)]:
        try:
            plain(query, version)
            raise AssertionError("it is taken: " + query)
        except websocket.WebSocketBadStatusException as error:
            assert error.status_code == status, (query, error.status_code)
    try:
        plain("command=id", ["v5.channel.k8s.io"], origin="http://evil.example")
        raise AssertionError("a page is let in")
    except websocket.WebSocketBadStatusException as error:
        assert error.status_code == 403, error.status_code
elif case == "goes":
    socket = plain("command=sh&command=-c&command=echo%20begun;sleep%201000%26%20sleep%201000", ["v5.channel.k8s.io"])
    while socket.recv()[:1] != b"\x01":
        pass
    print("begun", flush=True)
    sys.stdin.readline()
    # Neither a closing frame nor an answer to a ping any more.
    socket.sock.close()
elif case == "hears":
    socket = plain("command=sh&command=-c&command=echo%20begun;sleep%201000%26%20sleep%201000", ["v5.channel.k8s.io"])
    print("begun", flush=True)
    channels, code = to_end(socket)
    print(json.dumps(json.loads(channels[3])), code, flush=True)
elif case == "deaf":
    socket = plain("command=yes", ["v5.channel.k8s.io"])
    print("begun", flush=True)
    time.sleep(120)
