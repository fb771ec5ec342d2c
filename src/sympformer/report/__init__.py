"""The page of runs: one HTML file that needs no network, also of runs that are under way."""

from sympformer.report.page import write_page

__all__ = ["write_page"]
