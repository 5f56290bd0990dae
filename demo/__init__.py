"""`make demo`: two gateways, a live tunnel with light traffic, and the SNMP agent, to look at and to play with.

`__main__` starts, shows, supervises and cleans up; `inside` is the part that lives in network namespaces (in a user
namespace when not root); `manager` asks the agent by SNMP; `view` words what is shown.
"""
