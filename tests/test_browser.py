"""The browser of the tests notes what it should: else pages that leak would pass."""

PAGE = """<!doctype html><link rel="icon" href="data:,"><p>Hello</p>
<img src="https://example.org/pixel.png"><script>setTimeout(() => { throw new Error("broken") })</script>"""


def test_requests_elsewhere_and_errors_are_noted_and_lead_nowhere(window, tmp_path):
    file = tmp_path / "page.html"
    file.write_text(PAGE)
    window.page.goto(file.as_uri())
    window.page.wait_for_function("document.readyState === 'complete'")
    assert window.page.locator("p").inner_text() == "Hello"
    assert window.requests_elsewhere == ["https://example.org/pixel.png"]
    assert window.page.evaluate("document.images[0].naturalWidth") == 0
    assert any("broken" in error for error in window.errors)
    assert any("ERR_NAME_NOT_RESOLVED" in error for error in window.errors)


def test_windows_share_nothing(open_window, tmp_path):
    (tmp_path / "page.html").write_text("<p>a phone</p>")
    desk, phone = open_window(), open_window(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    phone.page.goto((tmp_path / "page.html").as_uri())
    assert desk.requests == []
    assert len(phone.requests) == 1
    assert phone.page.evaluate("navigator.maxTouchPoints") > 0
    assert desk.page.evaluate("navigator.maxTouchPoints") == 0
