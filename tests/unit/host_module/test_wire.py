"""Frames of duplicate-address detection, byte by byte."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring.playbooks.module_utils.mooring_host.announce import gratuitous_arp, unsolicited_advertisement
from mooring.playbooks.module_utils.mooring_host.wire import Heard, frame_for, read_frame

MAC = "02:00:0a:40:00:07"
HARDWARE = bytes.fromhex(MAC.replace(":", ""))
FOUR, SIX = ipaddress.ip_address("10.64.0.7"), ipaddress.ip_address("fd00:64::1:2:7")


def test_an_arp_probe_has_no_sender_address() -> None:
    frame = frame_for(FOUR, HARDWARE)
    assert frame.hex() == (
        "ffffffffffff" "02000a400007" "0806"  # to everybody, from us, ARP
        "0001" "0800" "06" "04" "0001"  # Ethernet, IPv4, request
        "02000a400007" "00000000" "000000000000" "0a400007"
    )  # fmt: skip


def test_a_solicitation_goes_to_the_group_of_its_address_with_a_true_checksum() -> None:
    frame = frame_for(SIX, HARDWARE)
    assert frame[:14].hex() == "3333ff02000702000a40000786dd"
    header, message = frame[14:54], frame[54:]
    assert header.hex() == "6000000000183aff" + "00" * 16 + "ff0200000000000000000001ff020007"
    assert (message[0], message[8:]) == (135, SIX.packed)
    summed = header[8:40] + len(message).to_bytes(4, "big") + (58).to_bytes(4, "big") + message
    total = sum(int.from_bytes(summed[at : at + 2], "big") for at in range(0, len(summed), 2))
    assert (total & 0xFFFF) + (total >> 16) == 0xFFFF


@pytest.mark.parametrize("address", [FOUR, SIX])
def test_a_probe_of_somebody_else_is_told_from_an_answer(address: ipaddress.IPv4Address) -> None:
    assert read_frame(frame_for(address, HARDWARE)) == Heard(address, MAC, probes=True)


def test_every_arp_packet_tells_its_senders_address() -> None:
    announced = gratuitous_arp(MAC, FOUR)
    assert read_frame(announced) == Heard(FOUR, MAC, probes=False)
    reply = bytearray(announced)
    reply[21], reply[38:42] = 2, b"\0" * 4  # what answers a probe: the one who asked has no address
    assert read_frame(bytes(reply)) == Heard(FOUR, MAC, probes=False)


def test_an_advertisement_tells_its_target() -> None:
    solicitation = bytearray(frame_for(SIX, HARDWARE))
    solicitation[22:38] = SIX.packed  # the sender
    assert read_frame(bytes(solicitation)) is None, "an ordinary question tells nothing of its target"
    solicitation[54] = 136
    assert read_frame(bytes(solicitation)) == Heard(SIX, MAC, probes=False)


def test_an_unsolicited_advertisement_is_read_as_such_and_has_a_true_checksum() -> None:
    frame = unsolicited_advertisement(MAC, SIX)
    assert frame[:14].hex() == "33330000000102000a40000786dd"
    header, message = frame[14:54], frame[54:]
    assert header.hex() == "6000000000203aff" + SIX.packed.hex() + "ff02" + "00" * 13 + "01"
    assert (message[0], message[4:8].hex(), message[8:24]) == (136, "20000000", SIX.packed)
    assert message[24:].hex() == "020102000a400007"
    summed = header[8:40] + len(message).to_bytes(4, "big") + (58).to_bytes(4, "big") + message
    total = sum(int.from_bytes(summed[at : at + 2], "big") for at in range(0, len(summed), 2))
    assert (total & 0xFFFF) + (total >> 16) == 0xFFFF
    assert read_frame(frame) == Heard(SIX, MAC, probes=False)


@given(st.binary(max_size=120), st.sampled_from(["", "0806", "86dd"]), st.integers(0, 90))
def test_no_frame_breaks_the_reader(data: bytes, kind: str, length: int) -> None:
    read_frame(data)
    read_frame((b"\1" * 12 + bytes.fromhex(kind) + data)[:length])
    for probe in (frame_for(FOUR, HARDWARE), frame_for(SIX, HARDWARE)):
        read_frame(probe[:length])
