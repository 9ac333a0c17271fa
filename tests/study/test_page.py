"""People vote in a real browser: by keys and by touch, through a dying server, on any prompt."""

import signal
from urllib.parse import urlsplit

import pytest

from alignbench.study.plan import tasks
from alignbench.votes.ballots import Ballots
from tests.studies import serving

PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
KEYS = {"left": "ArrowLeft", "tie": "ArrowDown", "right": "ArrowRight"}
QUESTIONS = ["overall", "appeal", "alignment"]
HOSTILE = {
    "p0": '<script>document.title="owned"</script><img src=x onerror="document.title=1"><b>"bold" & \'quoted\'</b>',
    "p1": "قطة حمراء على سجادة زرقاء (left?) \u202etxet desrever\u202c",
    "p2": "long " * 2000,
    "p3": "👩\u200d🚀 and 🐈, then\n  two\tlines &lt;i&gt; {{ 7*7 }} ${7*7} \\u003cb\\u003e",
}


def come(window, url, name):
    """Open the study and say who comes."""
    window.page.goto(url)
    window.page.get_by_role("textbox").fill(name)
    window.page.get_by_role("button", name="Begin").click()
    shown(window)


def shown(window):
    """Wait until the page can be voted on, or is done; return how far it is and what it asks."""
    window.page.wait_for_selector("#choices button:enabled, #done:not([hidden])")
    page = window.page
    return page.inner_text("#count"), "" if page.is_visible("#done") else page.inner_text("#question")


def moved(window, act):
    """Do something that leads on, and wait until the page has."""
    before = shown(window)
    act()
    window.page.wait_for_function(
        "([count, question]) => document.getElementById('count').innerText !== count"
        " || document.getElementById('question').innerText !== question"
        " || !document.getElementById('done').hidden",
        arg=list(before),
    )
    shown(window)


def press(window, key):
    moved(window, lambda: window.page.keyboard.press(key))


def cast(folder):
    ballots = Ballots(folder.ballots)
    votes = ballots.votes()
    ballots.close()
    return votes


def test_two_raters_vote_the_server_dies_between_votes_and_nothing_is_lost(world, open_window):
    folder = world.study("base", "dpo", checks_per_rater=2)
    answers = ["left", "tie", "right"]
    desk, phone = open_window(), open_window(**PHONE)
    with serving(folder) as (process, url):
        port = urlsplit(url).port
        come(desk, url, "Ada")
        come(phone, url, "بوب")
        for number in range(4):
            press(desk, KEYS[answers[number % 3]])
        for _ in range(2):
            moved(phone, lambda: phone.page.get_by_role("button", name="Right").tap())
        process.send_signal(signal.SIGKILL)
        process.wait()
        desk.page.keyboard.press("ArrowRight")  # into the void
        desk.page.get_by_text("The server does not answer").wait_for()
    assert len(cast(folder)) == 6
    with serving(folder, port=port) as (_, again):
        assert again == url
        desk.page.wait_for_function("() => document.getElementById('question').innerText.includes('shows better')")
        assert len(cast(folder)) == 7  # the vote came in by itself
        phone.page.reload()
        assert shown(phone)[0] == "1 of 6"
        for number in range(5, 18):
            press(desk, KEYS[answers[number % 3]])
        for _ in range(16):
            moved(phone, lambda: phone.page.get_by_role("button", name="Left").tap())
    for window in (desk, phone):
        assert window.page.get_by_text("That was all").is_visible()
        assert window.requests_elsewhere == []
        assert [error for error in window.errors if "ERR_CONNECTION" not in error] == []
    votes = cast(folder)
    plans = [tasks(folder, rater) for rater in range(2)]
    expected = [
        (rater, task, question, plans[rater][task].prompt_id, plans[rater][task].images[0].run)
        for rater in range(2)
        for task in range(6)
        for question in QUESTIONS
    ]
    assert [(vote.rater, vote.task, vote.question, vote.prompt_id, vote.left_run) for vote in votes] == expected
    ada = [answers[number % 3] for number in range(4)] + ["right"] + [answers[number % 3] for number in range(5, 18)]
    assert [vote.answer for vote in votes] == [*ada, *["right"] * 2, *["left"] * 16]


def test_hostile_prompts_are_text(world, open_window):
    for method in ("base", "dpo"):
        world.run(method, HOSTILE)
    folder = world.study("base", "dpo", checks_per_rater=0)
    with serving(folder) as (_, url):
        for settings in ({}, PHONE):
            window = open_window(**settings)
            page = window.page
            come(window, url, '<i>Zoë</i> & "co"' + str(len(settings)))
            assert page.inner_text("#who") == '<i>Zoë</i> & "co"' + str(len(settings))
            seen = {}
            for task in tasks(folder, 0 if not settings else 1):
                text = page.evaluate("document.getElementById('prompt').textContent")
                seen[task.prompt_id] = text
                prompt = page.locator("#prompt")
                assert prompt.evaluate("(one) => one.childElementCount") == 0
                right_to_left = prompt.evaluate("(one) => getComputedStyle(one).direction") == "rtl"
                assert right_to_left == (task.prompt_id == "p1")
                # nothing is pushed off the screen, however long the prompt
                size = page.viewport_size
                for locator in (prompt, page.locator("#question"), *page.locator("#choices button").all()):
                    box = locator.bounding_box()
                    assert box["x"] >= 0
                    assert box["x"] + box["width"] <= size["width"]
                    assert box["y"] + box["height"] <= size["height"]
                assert page.locator("#images img").first.bounding_box()["height"] > 100
                assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
                for _ in QUESTIONS:
                    press(window, "ArrowDown")
            assert seen == HOSTILE
            assert page.title() == "Image study"
            assert window.requests_elsewhere == []
            assert window.errors == []


def test_a_vote_waits_for_both_images_and_a_held_key_is_one_vote(world, open_window):
    folder = world.study("base", "dpo", checks_per_rater=0)
    with serving(folder) as (_, url):
        window = open_window()
        waiting = []
        window.page.route("**/images/0-1-*", lambda route: waiting.append(route))
        window.page.goto(url)
        window.page.get_by_role("textbox").fill("Ada")
        window.page.keyboard.press("Enter")
        window.page.wait_for_selector("#images img >> nth=1", state="attached")
        window.page.keyboard.press("ArrowLeft")
        assert cast(folder) == []
        while not waiting:
            window.page.wait_for_timeout(20)
        waiting.pop().continue_()
        shown(window)
        for _ in range(5):
            window.page.keyboard.down("ArrowLeft")  # what a key that is held down sends
        window.page.keyboard.up("ArrowLeft")
        window.page.wait_for_function("() => document.getElementById('question').innerText.includes('nicer')")
        shown(window)
        assert [vote.answer for vote in cast(folder)] == ["left"]


def test_undo_enlarging_and_leaving(world, open_window):
    folder = world.study("base", "dpo", checks_per_rater=0)
    with serving(folder) as (_, url):
        window = open_window()
        page = window.page
        come(window, url, "Ada")
        assert page.get_by_role("button", name="Undo").is_disabled()
        page.locator("#images img").first.click()
        assert page.locator("#large img").bounding_box()["height"] == page.viewport_size["height"]
        page.keyboard.press("ArrowLeft")  # no vote while an image covers the question
        page.keyboard.press("Escape")
        assert page.locator("#large").is_hidden()
        assert cast(folder) == []
        press(window, "ArrowLeft")
        press(window, "u")
        assert cast(folder) == []
        press(window, "ArrowRight")
        assert [vote.answer for vote in cast(folder)] == ["right"]
        page.get_by_role("button", name="leave").click()
        page.get_by_role("textbox").fill("Bob")
        page.get_by_role("button", name="Begin").click()
        assert shown(window)[1].startswith("Which image do you like better")
        assert page.inner_text("#who") == "Bob"
        assert window.errors == []


@pytest.mark.parametrize("settings", [{}, PHONE], ids=["desk", "phone"])
def test_grades_are_given_by_number_or_touch_to_one_image(world, open_window, settings):
    folder = world.study("base", "dpo", preset="srpo", num_prompts=2, checks_per_rater=1)
    with serving(folder) as (_, url):
        window = open_window(**settings)
        come(window, url, "Ada")
        assert window.page.locator("#images img").count() == 1
        for grade, label in (("1", "Poor"), ("4", "Excellent"), ("2", "Fair")):
            if settings:
                moved(window, lambda label=label: window.page.get_by_role("button", name=label).tap())
            else:
                press(window, grade)
        window.page.keyboard.press("5")
        assert shown(window)[0] == "2 of 5"
        assert [(vote.question, vote.answer) for vote in cast(folder)] == [
            ("realism", "1"), ("aesthetics", "4"), ("overall", "2"),
        ]  # fmt: skip
        assert window.errors == []


def test_the_token_leaves_the_address_and_the_link_is_needed_once(world, open_window):
    folder = world.study("base", "dpo")
    with serving(folder, "--host", "0.0.0.0", "--token", "sesame+1") as (_, url):
        url = url.replace("0.0.0.0", "127.0.0.1")
        assert url.endswith("/?token=sesame%2B1")
        window = open_window()
        window.page.goto(url.partition("?")[0])
        assert "open the whole link" in window.page.content()
        come(window, url, "Ada")
        assert window.page.url == url.partition("?")[0]
        window.page.goto(url.partition("?")[0])
        assert shown(window)[0].startswith("1 of")
        assert window.page.evaluate("document.cookie") == ""  # scripts cannot read it
