"""GET /v2/events over a raw socket: every byte of it, and when a stream ends."""

import asyncio
import re
import socket

import pytest

HEAD = re.compile(
    rb"HTTP/1\.1 200 OK\r\n"
    rb"Date: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT\r\n"
    rb"Cache-Control: no-cache, no-store, must-revalidate\r\n"
    rb"Pragma: no-cache\r\n"
    rb"Expires: 0\r\n"
    rb"X-Marathon-Leader: http://marathon-1\.lab:8088\r\n"
    rb"Content-Type: text/event-stream;charset=utf-8\r\n"
    rb"Connection: close\r\n"
    rb"\r\n"
)
ATTACHED = re.compile(
    rb"event: event_stream_attached\r\n"
    rb'data: \{"remoteAddress":"127\.0\.0\.1","eventType":"event_stream_attached",'
    rb'"timestamp":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"\}\r\n'
    rb"\r\n"
)


async def open_attached(lab, query=""):
    """An open stream whose headers and first event have been read."""
    reader, writer = await lab.open_stream(query)
    head = await reader.readuntil(b"\r\n\r\n")
    assert HEAD.fullmatch(head), head
    attached = await reader.readuntil(b"\r\n\r\n")
    assert ATTACHED.fullmatch(attached), attached
    return reader, writer


async def test_headers_first_then_the_attached_event(lab):
    _, writer = await open_attached(lab)
    writer.close()


async def test_an_event_is_two_lines_and_an_empty_one(start):
    lab = await start(heartbeat_s=60.0)
    reader, writer = await open_attached(lab)
    await lab.call("POST", "/lab/events", {"eventType": "x_event", "text": "Grüße\r\n"})
    expected = 'event: x_event\r\ndata: {"eventType":"x_event","text":"Grüße\\r\\n"}\r\n\r\n'.encode()
    assert await reader.readexactly(len(expected)) == expected
    writer.close()


async def test_heartbeat_is_a_cr_and_then_a_lf(start):
    lab = await start(heartbeat_s=0.05)
    reader, writer = await open_attached(lab)
    reads = [await reader.read(100) for _ in range(40)]
    assert b"".join(reads).strip(b"\r\n") == b""
    assert b"\r" in reads, "a lone CR ends a read"
    writer.close()


async def test_heartbeat_comes_on_time(start):
    lab = await start(heartbeat_s=0.3)
    reader, writer = await open_attached(lab)
    await reader.readexactly(2)
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert await reader.readexactly(2) == b"\r\n"
    assert 0.2 < loop.time() - began < 2.0
    writer.close()


@pytest.mark.parametrize(
    "accept",
    ["", "*/*", "text/event-stream, */*", "text/event-stream;q=1", "text/html"],
)
async def test_accept_has_to_be_exact(lab, accept):
    headers = {"Accept": accept} if accept else {}
    assert (await status_of(lab, headers)) == b"HTTP/1.1 405"


async def test_one_exact_accept_header_among_several_suffices(lab):
    reader, writer = await asyncio.open_connection("127.0.0.1", lab.port)
    writer.write(b"GET /v2/events HTTP/1.1\r\nHost: lab\r\nAccept: */*\r\nAccept: text/event-stream\r\n\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    writer.close()


async def status_of(lab, headers):
    reader, writer = await asyncio.open_connection("127.0.0.1", lab.port)
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    writer.write(f"GET /v2/events HTTP/1.1\r\nHost: lab\r\n{lines}\r\n".encode())
    status = (await reader.readline())[:12]
    writer.close()
    return status


async def test_filter_repeats_its_parameter_and_knows_no_commas(start):
    lab = await start(heartbeat_s=60.0)
    wanted = "?event_type=event_stream_attached&event_type=b_event&event_type=a_event,c_event"
    reader, writer = await open_attached(lab, wanted)
    for name in ("a_event", "b_event", "c_event", "b_event"):
        await lab.call("POST", "/lab/events", {"eventType": name})
    frame = b'event: b_event\r\ndata: {"eventType":"b_event"}\r\n\r\n'
    assert await reader.readexactly(2 * len(frame)) == 2 * frame
    writer.close()


async def test_nothing_is_missed_after_attached(lab):
    reader, writer = await open_attached(lab)
    await asyncio.gather(
        *(lab.call("POST", "/lab/events", {"eventType": "n_event", "n": n}) for n in range(50))
    )
    received = [await reader.readuntil(b"\r\n\r\n") for _ in range(50)]
    assert sum(b"n_event" in frame for frame in received) >= 49  # a heartbeat may have come between
    writer.close()


async def test_leaving_is_announced_at_the_next_write(lab):
    _, writer = await open_attached(lab)
    writer.transport.abort()
    await lab.seen("event_stream_detached")


async def test_a_reader_with_too_many_outstanding_events_is_closed(start):
    lab = await start(stream_buffer_bytes=4096, heartbeat_s=60.0)
    slow = socket.socket()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.connect(("127.0.0.1", lab.port))
    slow.sendall(b"GET /v2/events HTTP/1.1\r\nHost: lab\r\nAccept: text/event-stream\r\n\r\n")
    await lab.until(lambda: sum(e["eventType"] == "event_stream_attached" for e in lab.events) == 2)
    published = 0
    while not any(e["eventType"] == "event_stream_detached" for e in lab.events):
        await lab.call("POST", "/lab/events", {"eventType": "big_event", "text": "x" * 2000})
        published += 1
        # Beyond the 1,024 there may be a batch that was taken out of the queue before the pipe filled up.
        assert published < 4000, "the slow reader was never closed"
    slow.settimeout(5)
    received = await asyncio.to_thread(read_to_end, slow)
    # What the kernel had taken arrives; the batch being written and the 1,024 behind it do not.
    assert published > 1024
    assert received.count(b"event: big_event") < published - 1024
    assert sum(e["eventType"] == "big_event" for e in lab.events) >= published - 1, "others are not affected"


def read_to_end(connection):
    chunks = []
    try:
        while chunk := connection.recv(65536):
            chunks.append(chunk)
    except ConnectionResetError:  # also an end; Jetty's closing looks like either
        chunks.append(b"")
    connection.close()
    return b"".join(chunks)


async def test_filtered_events_count_as_outstanding(start):
    lab = await start(max_outstanding=10, heartbeat_s=60.0)
    reader, writer = await open_attached(lab, "?event_type=event_stream_attached&event_type=wanted_event")
    await lab.call("POST", "/lab/streams/stall")
    await lab.call("POST", "/lab/events", {"eventType": "wanted_event"})  # its write is held back
    for n in range(11):
        await lab.call("POST", "/lab/events", {"eventType": "other_event", "n": n})
    assert await asyncio.wait_for(reader.read(), 5) == b""
    writer.close()


async def test_cut_ends_every_stream(lab):
    reader, writer = await open_attached(lab)
    assert await lab.call("POST", "/lab/streams/cut") == {"streams": 2}
    assert (await reader.read()).strip(b"\r\n") == b""
    writer.close()


async def test_stall_holds_every_byte_and_resume_lets_them_go(start):
    lab = await start(heartbeat_s=0.05)
    reader, writer = await open_attached(lab)
    await lab.call("POST", "/lab/streams/stall")
    await drain(reader)
    await lab.call("POST", "/lab/events", {"eventType": "late_event"})
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.read(1), 0.3)
    await lab.call("POST", "/lab/streams/resume")
    assert b"event: late_event" in await reader.readuntil(b"late_event")
    writer.close()


async def drain(reader):
    """Read what had been written before."""
    try:
        while True:
            await asyncio.wait_for(reader.read(1000), 0.1)
    except TimeoutError:
        return


async def test_raw_bytes_pass_as_they_are_and_may_be_the_last(start):
    lab = await start(heartbeat_s=60.0)
    reader, writer = await open_attached(lab, "?event_type=event_stream_attached")
    torn = b'event: status_update_event\r\ndata: {"taskId":"half'
    await lab.call("POST", "/lab/streams/raw", b"data: not json\r\n\r\n")
    await lab.call("POST", "/lab/streams/raw?last=true", torn)
    assert await reader.read() == b"data: not json\r\n\r\n" + torn
    writer.close()


async def test_an_oversized_event_arrives_whole(start):
    lab = await start(heartbeat_s=60.0)
    reader, writer = await open_attached(lab)
    await lab.call("POST", "/lab/events", {"eventType": "big_event", "text": "x" * 3_000_000})
    assert len(await reader.readexactly(3_000_000)) == 3_000_000
    writer.close()
