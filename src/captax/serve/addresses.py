"""Which addresses of the internet are public.

Python's `ipaddress` has such a list too, but it is as old as the Python that runs us, and it tells
what is private, not what a stranger may have us connect to. So captax keeps its own list.
"""

import ipaddress

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# All of IANA's registries of special-purpose addresses, as they stood in October 2025:
# https://www.iana.org/assignments/iana-ipv4-special-registry
# https://www.iana.org/assignments/iana-ipv6-special-registry
# Also what is said to be reachable from everywhere: that is a service of the network, which holds
# no pictures. Added are multicast (224.0.0.0/4) and what was once 6to4's relay (192.88.99.0/24).
_SPECIAL_4 = (
    *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16"),
    *("172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24"),
    *("192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24"),
    *("203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
)
# Within 2000::/3. Everything outside is special: unicast addresses come from there alone.
_SPECIAL_6 = (
    "2001::/23",  # protocols, among them Teredo (2001::/32), which carries two IPv4 addresses
    "2001:db8::/32",
    "2620:4f:8000::/48",
    "3fff::/20",
)
_UNICAST = ipaddress.IPv6Network("2000::/3")
_SPECIAL: dict[int, tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]] = {
    4: tuple(map(ipaddress.IPv4Network, _SPECIAL_4)),
    6: tuple(map(ipaddress.IPv6Network, _SPECIAL_6)),
}
# IPv6 networks whose addresses hold an IPv4 address, and how many bits come after it.
_HOLDING = {
    ipaddress.IPv6Network("::/96"): 0,  # "IPv4-compatible"
    ipaddress.IPv6Network("::ffff:0:0/96"): 0,  # "IPv4-mapped"
    ipaddress.IPv6Network("64:ff9b::/96"): 0,  # NAT64
    ipaddress.IPv6Network("2002::/16"): 80,  # 6to4
}


def is_public(address: Address) -> bool:
    """Whether an address is on the public internet; one that holds an IPv4 address is as that."""
    if isinstance(address, ipaddress.IPv6Address):
        for network, after in _HOLDING.items():
            if address in network:
                return is_public(ipaddress.IPv4Address(int(address) >> after & 0xFFFFFFFF))
        if address not in _UNICAST:
            return False
    return not any(address in network for network in _SPECIAL[address.version])
