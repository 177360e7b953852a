"""Tables of a report in Markdown."""

import pandas as pd


def markdown(table: pd.DataFrame) -> str:
    """A table; numbers with three decimals, vertical bars of names escaped."""

    def shown(value: object) -> str:
        return f"{value:.3f}" if isinstance(value, float) else str(value).replace("|", "\\|")

    rows = [list(table.columns), ["---"] * len(table.columns), *table.itertuples(index=False)]
    return "\n".join(f"| {' | '.join(map(shown, row))} |" for row in rows)
