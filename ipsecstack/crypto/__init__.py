"""Cryptography of IKE and IPsec: one registry for each transform type, key derivation, AUTH and X.509.

``encr``, ``integ``, ``prf`` and ``ke`` each have ``get(id)`` and ``registered()``; ``ikekeys`` derives keys,
``auth`` makes and checks AUTH payloads, ``x509`` loads and validates certificates. Nothing here knows the
time or makes randomness: both are arguments.
"""
