"""Costs are exact, known models cost what the list says, and unknown ones are never free."""

import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import genai_prices
import pytest

from workers.model.prices import Cost, cost_of
from workers.model.protocol import Usage

MILLION = Usage(input_tokens=1_000_000, output_tokens=1_000_000)
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("model", ["rehearsal", "rehearsal-small"])
def test_the_rehearsal_has_a_price_of_its_own(model):
    assert cost_of(MILLION, model=model) == Cost(Decimal("2.25"), is_known=True)
    assert cost_of(Usage(3, 1), model=model).usd == Decimal("0.00000275")


def test_a_known_model_costs_what_the_list_says():
    usage = Usage(input_tokens=1000, output_tokens=10, cached_input_tokens=400)
    tokens = genai_prices.Usage(input_tokens=1000, cache_read_tokens=400, output_tokens=10)
    cost = cost_of(usage, model="gpt-5-mini")
    assert cost == Cost(genai_prices.calc_price(tokens, "gpt-5-mini").total_price, is_known=True)
    assert cost.usd < cost_of(Usage(1000, 10), model="gpt-5-mini").usd


@pytest.mark.parametrize("model", ["", "a-model-nobody-has-heard-of", "gpt-99-zeta"])
def test_an_unknown_model_is_counted_dear_and_said_to_be_unknown(model):
    assert cost_of(MILLION, model=model) == Cost(Decimal(210), is_known=False)
    assert cost_of(MILLION, model=model).usd > cost_of(MILLION, model="gpt-5").usd


def test_more_cached_tokens_than_input_are_no_error():
    usage = Usage(input_tokens=10, output_tokens=0, cached_input_tokens=99)
    assert cost_of(usage, model="gpt-5-mini").is_known


def test_importing_prices_neither_loads_the_list_nor_openai_and_asking_opens_no_socket():
    code = """
import sys
import workers.model.prices as prices
from workers.model.protocol import Usage
import workers.model.retry
assert not {"genai_prices", "openai", "httpx", "httpx2"} & set(sys.modules), "the import is heavy"
def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        raise RuntimeError(event)
sys.addaudithook(refuse)
assert prices.cost_of(Usage(1, 1), model="gpt-5-mini").is_known
"""
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True, timeout=60)
