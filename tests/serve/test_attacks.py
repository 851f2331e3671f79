"""Every attack of scripts/attacks/server.py fails on a server as its users start it."""

import pytest
from attacks.server import ATTACKS
from serving import KEY, LOGS, serving


@pytest.fixture(scope="module")
def attacked(served, tmp_path_factory):
    log = tmp_path_factory.mktemp("attacked") / "log"
    with serving(served.run, log, "--engine", "transformers", "--read-timeout", "1") as address:
        yield address


@pytest.mark.parametrize("attack", [attack for _, attack in ATTACKS], ids=[name for name, _ in ATTACKS])
def test_an_attack_fails_and_the_log_stays_short(attacked, attack):
    before = LOGS[attacked].stat().st_size
    attack(attacked, KEY)
    assert LOGS[attacked].stat().st_size - before < 1_000
