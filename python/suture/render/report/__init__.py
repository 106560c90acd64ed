"""A comparison as a page, a picture or a table for other tools; all of it needs the extra `report`."""

from __future__ import annotations

from suture.render.report.page import write_html
from suture.render.report.parquet import write_parquet
from suture.render.report.plot import write_plot

__all__ = ["write_html", "write_parquet", "write_plot"]
