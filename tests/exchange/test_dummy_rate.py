"""The configured rate of dummy packets reaches the SA that sends them, and survives rekeying."""

from dataclasses import replace

import pytest
from ike_network import ESP_GCM, Pair, mirrored

from ipsecstack.ipsec.sa import Direction, SecurityProtocol
from ipsecstack.keyex.configuration import Proposal
from ipsecstack.wire.transforms import EsnId, IntegId

AH = Proposal(SecurityProtocol.AH, (), (IntegId.HMAC_SHA2_256_128,), esn=(EsnId.NO_ESN,))


@pytest.mark.parametrize(("proposal", "sent"), [(ESP_GCM, 2.5), (AH, 0.0)])
def test_esp_that_leaves_has_dummy_packets(proposal: Proposal, sent: float) -> None:
    """RFC 4303 §2.6; AH has none, and every receiver takes them, asked or not."""
    a, b = (
        replace(config, children=(replace(config.children[0], proposals=(proposal,), dummy_rate=rate),))
        for config, rate in zip(mirrored(), (2.5, 0.0), strict=True)
    )
    pair = Pair(a=a, b=b)
    pair.a.do(pair.a.endpoint.initiate, ike="conn", child="net")
    pair.run(20)

    def rates() -> list[dict[Direction, float]]:
        return [{sa.direction: sa.dummy_rate for sa in end.plane.sas.values()} for end in pair.ends]

    expected = [{Direction.OUT: sent, Direction.IN: 0.0}, {Direction.OUT: 0.0, Direction.IN: 0.0}]
    assert rates() == expected
    pair.b.do(pair.b.endpoint.rekey, child="net")
    pair.run(20)
    assert rates() == expected
    pair.check_agreement()
