"""Addresses: which are public, and which a host names without a lookup."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from bindings.domain.addresses import is_public, literal_address
from bindings.settings import PRIVATE_NETWORKS

NETWORKS = (ip_network("10.1.0.0/16"), ip_network("fd00:1::/32"))


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("::ffff:8.8.8.8", True),
        ("64:ff9b::808:808", True),
        ("127.0.0.1", False),
        ("0.0.0.0", False),
        ("10.0.0.1", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("100.64.0.1", False),
        ("169.254.169.254", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("ff02::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:a00:1", False),
        ("64:ff9b::a00:1", False),
        ("2002:7f00:1::", False),
        ("::169.254.169.254", False),
        ("::8.8.8.8", True),
        ("::ffff:0:169.254.169.254", False),
        ("64:ff9b:1::a9fe:a9fe", False),
        ("fec0::1", False),
    ],
)
def test_address_is_public(address: str, public: bool) -> None:
    assert is_public(address) is public


@pytest.mark.parametrize("address", ["10.1.2.3", "::ffff:10.1.2.3", "64:ff9b::a01:203", "fd00:1::5"])
def test_address_in_a_network_is_allowed_in_every_form(address: str) -> None:
    assert is_public(address, NETWORKS)
    assert not is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        *("169.254.169.254", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "100.100.100.200", "fe80::a9fe:a9fe"),
        *("fd00:ec2::254", "fd20:ce::254", "192.0.0.192", "168.63.129.16", "::ffff:168.63.129.16"),
    ],
)
def test_address_at_which_a_cloud_serves_credentials_is_in_no_default_network(address: str) -> None:
    assert not is_public(address, PRIVATE_NETWORKS)


@pytest.mark.parametrize("address", ["fd00:ec2::254", "fd20:ce::254", "192.0.0.192", "168.63.129.16"])
def test_credentials_at_an_address_that_is_not_link_local_are_refused_in_every_network(address: str) -> None:
    assert not is_public(address, [ip_network("0.0.0.0/0"), ip_network("::/0")])


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("127.1", "127.0.0.1"),
        ("2130706433", "127.0.0.1"),
        ("0x7f.0.0.1", "127.0.0.1"),
        ("0177.0.0.1", "127.0.0.1"),
        ("localhost", "127.0.0.1"),
        ("a.localhost", "127.0.0.1"),
        ("::1", "::1"),
        ("fe80::1%25eth0", "fe80::1"),
        ("example.com", None),
        ("127.0.0.1.example.com", None),
        ("b\N{LATIN SMALL LETTER U WITH DIAERESIS}cher.example", None),
        ("", None),
    ],
)
def test_host_that_is_an_address_is_one_in_every_form(host: str, address: str | None) -> None:
    assert literal_address(host) == address
