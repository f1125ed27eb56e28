"""conf/prices.yaml: what serving costs in each mode."""

from datetime import date
from pathlib import Path

from pydantic import Field, ValidationError

from lastgood.errors import ConfigError
from lastgood.settings import Model
from lastgood.settings.mistakes import parsed


class TokenPrice(Model):
    """DBU per million tokens. Kinds without a price of their own cost what their side costs: cached ones and audio as `input`, reasoning as
    `output`."""

    input: float = Field(ge=0)
    output: float = Field(ge=0)
    cached: float | None = Field(None, ge=0)
    cache_write: float | None = Field(None, ge=0)
    reasoning: float | None = Field(None, ge=0)
    audio_in: float | None = Field(None, ge=0)
    audio_out: float | None = Field(None, ge=0)

    def surcharge(self) -> dict[str, float]:
        """Kind of tokens -> what one million of them costs more (or less) than others of its side. Keys as in a request's `tokens_KIND`."""
        sides = {
            "cached": self.input,
            "cache_write": self.input,
            "audio_in": self.input,
            "reasoning": self.output,
            "audio_out": self.output,
        }
        own = {kind: getattr(self, kind) for kind in sides}
        return {kind: own[kind] - side for kind, side in sides.items() if own[kind] is not None}


class UnitPrice(Model):
    per_hour: float = Field(ge=0)
    tokens_per_s: float = Field(gt=0)


class InstancePrice(Model):
    per_hour: float = Field(ge=0)
    concurrency: float = Field(gt=0)


class Prices(Model):
    """conf/prices.yaml, in DBU; `dbu` is the price of one."""

    as_of: date
    currency: str = "USD"
    dbu: float = Field(gt=0)
    checked: bool = False
    launch: float = Field(0.0, ge=0)
    idle_s: float = Field(1800, ge=0)
    pay_per_token: dict[str, TokenPrice] = {}
    provisioned: dict[str, UnitPrice] = {}
    cpu: InstancePrice | None = None
    gpu: dict[str, InstancePrice] = {}


def prices(path: Path) -> Prices:
    """Prices from a YAML file. Errors: ConfigError naming the file, the key and what was expected."""
    try:
        return Prices(**parsed(path.read_text()))
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    except (OSError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{path}: cannot be read as prices: {error}; start from conf/prices.yaml of the sources"
        ) from error


def known_prices(path: Path) -> Prices:
    """The prices of a file; none of anything where there is no such file. Errors: ConfigError."""
    return prices(path) if path.is_file() else Prices(as_of=date.min, dbu=1.0)
