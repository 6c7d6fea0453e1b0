"""What a night costs, from a measured speed and a price.

    python -m benchmarks.cost --images-per-second 12.2 --price 0.10 --images 1000000
    python -m benchmarks.cost --manifest audit/_nights/2026-01-31.json --price 0.10

One machine makes ``3600 * images_per_second / price_per_hour`` images a dollar. ``n`` images on
``m`` machines take ``start_up / 3600 + n / (3600 * m * images_per_second)`` hours, which are paid
``m`` times: only the start-up makes more machines dearer.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer


@dataclass(frozen=True)
class Cost:
    """Of a number of images."""

    hours: float
    """From start to end."""
    dollars: float
    images_per_dollar: float


def cost(
    images: int,
    images_per_second: float,
    price_per_hour: float,
    machines: int = 1,
    start_up_seconds: float = 0.0,
) -> Cost:
    """Hours and dollars; see the module's docstring for the formula.

    Parameters
    ----------
    images : how many, at least one
    images_per_second : of one machine, after its start-up
    price_per_hour : of one machine, in dollars
    machines : of the same kind, all busy to the end
    start_up_seconds : of each machine, also paid for

    Raises
    ------
    ValueError
        A number is not positive, or the start-up negative.
    """
    if min(images, images_per_second, price_per_hour, machines) <= 0 or start_up_seconds < 0:
        raise ValueError("images, speed, price and machines must be positive numbers")
    hours = start_up_seconds / 3600 + images / (3600 * machines * images_per_second)
    dollars = hours * machines * price_per_hour
    return Cost(hours, dollars, images / dollars)


def main(
    price: Annotated[float, typer.Option(help="Dollars an hour of one machine.")],
    images: Annotated[int, typer.Option(help="How many images.")] = 1_000_000,
    images_per_second: Annotated[float | None, typer.Option(help="Of one machine.")] = None,
    manifest: Annotated[Path | None, typer.Option(help="Of a run, for its speed.")] = None,
    machines: Annotated[int, typer.Option(help="Of the same kind.")] = 1,
    start_up_seconds: Annotated[float, typer.Option(help="Of each machine.")] = 0.0,
) -> None:
    """Hours and dollars for a number of images."""
    if (manifest is None) == (images_per_second is None):
        raise typer.BadParameter("give --images-per-second or --manifest, one of them")
    if manifest is not None:
        told = json.loads(manifest.read_text())
        images_per_second, start_up_seconds = told["images_per_second"], told["start_up_seconds"]
    try:
        found = cost(images, images_per_second or 0.0, price, machines, start_up_seconds)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    print(
        f"{images:,} images at {images_per_second:.1f} a second on {machines} machine(s) of "
        f"{price:.2f} dollars an hour: {found.hours:.2f} hours, {found.dollars:.2f} dollars, "
        f"{found.images_per_dollar:,.0f} images a dollar."
    )


if __name__ == "__main__":
    typer.run(main)
