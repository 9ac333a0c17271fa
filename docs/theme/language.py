"""A hook of MkDocs: pages under `zh/` say that they are Chinese, so that browsers choose the right glyphs.

The theme writes one language, that of the site, into every page.
"""

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.pages import Page


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    if page.file.src_uri.startswith("zh/"):
        return output.replace('<html lang="en"', '<html lang="zh-Hans"', 1)
    return output
