"""EAP (RFC 3748) for IKEv2 and other key exchanges: both roles, sans-IO, one module for each method.

``peer.Peer`` answers requests, ``authenticator.Authenticator`` makes them; ``methods.METHODS`` lists the methods.
"""
