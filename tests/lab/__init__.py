"""The lab: real peers and tools around the project's daemons, in network namespaces of their own.

`netns` namespaces and links; `process` child processes; `pki` certificates; `swanconf` swanctl.conf texts;
`gateway` what strongSwan's charon and our ipsecstackd have in common (swanctl, VICI); `strongswan` and `ours` the
two kinds; `traffic` exact traffic; `capture` packet capture and tshark; `snmp` net-snmp's tools; `topology` two
gateways, ready to use; `router` NAT, lost fragments and delay between them; `policy` what happens to a test
whose tool is missing.

The demo and the benches are built on the same modules.
"""

import os

# An ordinary user's PATH often lacks where Debian keeps swanctl, tcpdump and sysctl.
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
os.environ["PATH"] = f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}".lstrip(":")
