"""Negotiating a Child SA: the names that other exchanges use. See ``offer``, ``answer`` and ``agreement``."""

from ipsecstack.keyex.ikev2.agreement import NONCE_OCTETS as NONCE_OCTETS
from ipsecstack.keyex.ikev2.answer import answer_offer as answer_offer
from ipsecstack.keyex.ikev2.answer import find_child as find_child
from ipsecstack.keyex.ikev2.offer import ChildFailure as ChildFailure
from ipsecstack.keyex.ikev2.offer import ChildOffer as ChildOffer
from ipsecstack.keyex.ikev2.offer import conclude_offer as conclude_offer
from ipsecstack.keyex.ikev2.offer import esp_proposals as esp_proposals
from ipsecstack.keyex.ikev2.offer import make_offer as make_offer
from ipsecstack.keyex.ikev2.offer import offer_payloads as offer_payloads
