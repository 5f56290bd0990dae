"""The fast path: what pollers send, answered on encoded octets before any object is made of it.

GET, GETNEXT and GETBULK of all versions and security levels, when nothing about them is unusual. Whatever is
makes it answer None, "not mine", and the plain path (`agent.engine.dispatcher`) gets the same datagram. The
plain path defines what is right: both give the same octets, which a differential test holds them to.

| module | job |
|---|---|
| `names` | OID octets to a place: number of a leaf and row key |
| `parse` | the octets of a PDU after its request-id to a plan |
| `sight` | what one requester may see, as the functions that read it |
| `walk` | one repeater of a GETBULK |
| `answer` | a plan and room for it to the VarBinds of the response |
| `quick` | requests of a kind that came before, from their first octets |
| `community` | messages of SNMPv1 and SNMPv2c |
| `v3`, `cipher` | messages of SNMPv3 under USM; MAC and AES-CFB on kept contexts |
| `path` | the whole |
"""

from agent.engine.fastpath.path import FastPath

__all__ = ["FastPath"]
