"""The report as a page for a browser: `index.html`, and `report/` with what it loads when it is asked for."""
