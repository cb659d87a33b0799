"""Squid's configuration as text, and that Squid itself takes it without a word."""

import ipaddress
import subprocess
from pathlib import Path

import pytest

from tci.egress.squid import find_squid
from tci.egress.squid_config import INSIDE_4, INSIDE_6, SquidConfig


@pytest.fixture
def config(tmp_path: Path) -> SquidConfig:
    return SquidConfig(directory=tmp_path, address="127.0.0.1", packages_port=3128, open_port=3129, hosts=("pypi.org",))


def test_squid_takes_the_configuration_without_a_warning(config: SquidConfig, tmp_path: Path) -> None:
    file = tmp_path / "squid.conf"
    file.write_text(config.text())
    found = subprocess.run(
        [str(find_squid()), "-k", "parse", "-f", str(file)], capture_output=True, text=True, check=True
    )
    said = [line for line in found.stderr.splitlines() if "WARNING" in line or "ERROR" in line]
    assert said == []


@pytest.mark.parametrize(
    "address",
    ["10.1.2.3", "127.0.0.1", "169.254.169.254", "172.31.0.1", "192.168.1.1", "100.64.0.1", "0.0.0.1", "224.0.0.1"],
)
def test_address_that_is_not_public_is_inside(address: str) -> None:
    assert any(ipaddress.ip_address(address) in ipaddress.ip_network(network) for network in INSIDE_4)


def test_what_python_calls_private_is_inside() -> None:
    for network in ipaddress.IPv4Address("10.0.0.0")._constants._private_networks:  # type: ignore[attr-defined]
        assert any(network.subnet_of(ipaddress.ip_network(inside)) for inside in INSIDE_4), network


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "151.101.0.223"])
def test_public_address_is_not_inside(address: str) -> None:
    assert not any(ipaddress.ip_address(address) in ipaddress.ip_network(network) for network in INSIDE_4)


def test_public_address_of_version_6_is_not_inside() -> None:
    for network in INSIDE_6:
        assert ipaddress.ip_address("2606:4700::1111") not in ipaddress.ip_network(network)


def test_networks_do_not_overlap() -> None:
    networks = [ipaddress.ip_network(network) for network in INSIDE_6]
    assert len(list(ipaddress.collapse_addresses(networks))) <= len(networks)
    for index, network in enumerate(networks):
        assert not [other for other in networks[index + 1 :] if network.overlaps(other)]


def test_version_4_in_version_6_is_left_to_the_rules_of_version_4() -> None:
    mapped = ipaddress.ip_network("::ffff:0:0/96")
    assert not [network for network in INSIDE_6 if ipaddress.ip_network(network).overlaps(mapped)]


def test_without_hosts_nothing_is_listed(tmp_path: Path) -> None:
    text = SquidConfig(directory=tmp_path, address="127.0.0.1", packages_port=1, open_port=2, hosts=()).text()
    assert "acl listed dstdomain -n none.invalid" in text
