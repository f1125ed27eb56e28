"""Made-up prices and an endpoint that is paid by them."""

from datetime import date

from lastgood.settings import CostSettings
from lastgood.settings.prices import Prices

PRICES = Prices(
    as_of=date(2026, 1, 1), dbu=0.1, launch=2.0, idle_s=600,
    pay_per_token={"m": {"input": 1.0, "output": 10.0}}, provisioned={"m": {"per_hour": 50.0, "tokens_per_s": 100.0}},
    cpu={"per_hour": 1.0, "concurrency": 1}, gpu={"small": {"per_hour": 10.0, "concurrency": 4}},
)  # fmt: skip
SETTINGS = CostSettings(model="m", latency={"provisioned": 0.5, "cpu": 20.0, "gpu": 1.0})
