"""`make bench-snmp`: the agent beside net-snmp's C agent that serves the same table."""
