"""The page that shows a trace, as Chromium shows it and as one uses it (T5)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from attrs import evolve

from supervisor.tracing.merge import merge
from supervisor.tracing.records import Event, Head, Trace
from tests.supervisor.tracing.browser import Scheme, Shown, chromium, shown
from tests.supervisor.tracing.page_samples import HOSTILE, WHY, troubled
from tests.supervisor.tracing.samples import ACCEPTED, conversation, many

if TYPE_CHECKING:
    from playwright.sync_api import Browser

CRASH = next(event for event in troubled().events if "crashed" in event.text)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture
def view(browser: Browser, tmp_path: Path) -> Iterator[Shown]:
    """The troubled evening; whatever a test does, the page complains of nothing and asks nothing of the network."""
    with shown(browser, troubled(), tmp_path) as opened:
        yield opened
        assert opened.complaints == []
        assert opened.requests == [opened.path.as_uri()]


def steps(view: Shown) -> list[str]:
    """The types of the messages in the chain of causes that is shown."""
    return view.texts("#details ol:first-of-type .step strong")


def test_the_page_opens_from_a_file_and_shows_what_the_trace_is_and_lacks(view: Shown) -> None:
    """T5: no request but for the file itself, no complaint in the console."""
    trace = troubled()
    assert view.figures("counts")["events"] == len(trace.events)
    assert view.figures("counts")["processes"] == 2
    notices = view.texts(".notice")
    assert notices[0] == "the last line of shop.jsonl was cut and is left out"
    assert any("1,234 older messages" in notice for notice in notices)
    assert any("3 messages could not be kept" in notice for notice in notices)
    assert any("stopped itself" in notice for notice in notices)
    assert view.texts(".track .name")[:4] == ["shop", "caller", "link-1", "connection-2"]


def test_words_and_prefixes_filter_messages_tracks_and_lists(view: Shown) -> None:
    """T5."""
    events = troubled().events
    chosen = {
        "checkout": [event for event in events if "checkout" in event.text],
        "TYPE:peer": [event for event in events if event.type == "PeerReset"],
        "actor:request-25 opened": [event for event in events if event.type == "Opened" and event.stream == 25],
        "stream:25 -type:frames": [event for event in events if event.stream == 25],
        f"stream:{ACCEPTED}#27": [event for event in events if event.process == "store" and concerns(event, 27)],
        "process:store": [event for event in events if event.process == "store"],
        '"bytes, ended"': [event for event in events if event.text.endswith("bytes, ended")],
        "nobody says this": [],
    }
    for query, expected in chosen.items():
        view.page.fill("#filter", query)
        assert view.hook(f"visible({len(events)})") == [event.id for event in expected], query
        assert view.page.inner_text("#count") == f"{len(expected)} of {len(events)}"
    view.page.fill("#filter", f"stream:{ACCEPTED}#27")
    assert view.texts(".track .name") == ["store", "server-1", "connection-1", "stream-27", "socket"]
    assert view.page.inner_text("#tab-streams") == "Streams 1 of 30"
    view.press("Escape")
    assert view.hook("matches") == len(events)
    assert view.page.input_value("#filter") == ""


def concerns(event: Event, stream: int) -> bool:
    return event.stream == stream or any(frame.stream == stream for frame in event.frames or ())


def test_a_click_on_a_message_shows_its_chain_of_causes_down_to_the_first_one(view: Shown) -> None:
    """T2, T5: on to the other process, whose frames brought it, and each cause can be opened in its turn."""
    view.page.fill("#filter", "crashed")
    view.page.click("#tab-messages")
    view.page.click("#panel-messages .body .line >> nth=0")
    assert view.hook("selected") == CRASH.id
    assert tuple(steps(view)) == WHY
    assert view.page.inner_text("#details .banner") == f"Crashed: {CRASH.text}"
    assert "over the wire from shop" in view.page.inner_text("#details")
    chain = view.hook("chain")
    assert isinstance(chain, list)
    assert len(chain) == len(WHY)
    view.page.click("#details ol:first-of-type .step >> nth=-1")
    assert view.hook("selected") == chain[-1]
    assert view.page.inner_text("#details h2") == "OpenStream"
    assert view.hook("chain") == chain


def test_a_click_on_an_arrow_opens_its_message_and_the_chain_is_drawn(view: Shown) -> None:
    """T5."""
    view.press("n", "o")
    start = view.hook(f"place({CRASH.id})")
    assert isinstance(start, list)
    before = view.page.screenshot(clip={"x": 230, "y": 160, "width": 690, "height": 380})
    view.press("Escape")
    assert view.hook("selected") is None
    assert view.hook("chain") == []
    assert view.page.screenshot(clip={"x": 230, "y": 160, "width": 690, "height": 380}) != before
    view.page.fill("#filter", "crashed")
    ends = view.hook(f"place({CRASH.id})")
    assert isinstance(ends, list)
    x1, y1, x2, y2 = ends
    view.page.mouse.click((x1 + x2) / 2, (y1 + y2) / 2)
    assert view.hook("selected") == CRASH.id


def test_in_a_merged_trace_lines_lead_from_end_to_end(browser: Browser, tmp_path: Path) -> None:
    """T5, T8: and causes over the wire are known though addresses do not tell them."""
    records = list(conversation().records())
    ends = [Trace.of(each for each in records if each.process == process) for process in ("client", "server")]
    merged = evolve(merge(*ends), conversations=())
    arrivals = [event for event in merged.events if event.remote]
    asked = next(event for event in merged.events if event.process == "server" and event.type == "HeadersArrived")
    with shown(browser, merged, tmp_path) as view:
        for arrived in arrivals:
            lines = view.hook(f"wires({arrived.process!r}, {arrived.id})")
            assert isinstance(lines, list)
            assert len(lines) == len(arrived.remote) > 0
            assert all(x1 <= x2 and y1 != y2 for x1, y1, x2, y2 in lines)
        assert "A broken line leads from where frames were sent" in view.page.inner_text("#details")
        view.page.fill("#filter", "process:server type:HeadersArrived")
        view.page.click("#tab-messages")
        view.page.click("#panel-messages .body .line >> nth=0")
        assert view.hook("selected") == asked.id
        assert "over the wire from client" in view.page.inner_text("#details")
        assert view.hook(f"wires({arrivals[0].process!r}, {arrivals[0].id})") == []
        assert view.complaints == []


def test_errors_and_stalls_are_listed_in_their_order_and_lead_to_their_messages(view: Shown) -> None:
    """T5: what a trace of a bad evening must not hide."""
    kinds = [
        *("Crashed", "Dead letter", "Peer reset", "Silent stream", "Taken late"),
        *("Connection lost", "Stream failed", "Stream failed"),
    ]
    figures = view.figures("counts")
    assert (figures["problems"], figures["errors"], figures["stalls"]) == (8, 6, 2)
    found = []
    for _ in kinds:
        view.press("n")
        found.append(view.page.inner_text("#details .banner strong").rstrip(": "))
    assert found == kinds
    view.press("p", "p", "p", "p")
    assert "65,536 bytes have come and nobody read them" in view.page.inner_text("#details .banner")
    colors = {
        severity: view.page.eval_on_selector(
            f"#panel-problems .line[data-severity={severity}] .kind", "element => getComputedStyle(element).color"
        )
        for severity in ("error", "stall")
    }
    assert colors == {"error": "rgb(179, 38, 30)", "stall": "rgb(143, 86, 0)"}


def test_streams_are_listed_with_state_and_bytes_and_sorted_by_any_column(view: Shown) -> None:
    """T5: bytes are those of DATA frames."""
    view.page.click("#tab-streams")
    view.page.click("#panel-streams .head button:text('State')")
    assert view.texts("#panel-streams .body .state")[:3] == ["failed", "failed", "failed"]
    view.page.click("#panel-streams .head button:text('Bytes received')")
    view.page.click("#panel-streams .head button:text('Bytes received')")
    heading = view.page.query_selector("#panel-streams [aria-sort=descending]")
    assert heading is not None
    assert heading.inner_text().startswith("Bytes received")
    received = view.texts("#panel-streams .body .line .bytes:nth-child(6)")
    assert received[:3] == ["65,536", "4,096", "700"]
    view.page.click("#panel-streams .body .line >> nth=0")
    assert view.page.input_value("#filter") == f"stream:{ACCEPTED}#27 process:store"


def test_the_keyboard_alone_reaches_a_message_its_causes_and_the_way_back(view: Shown) -> None:
    """T5: the focus can be seen at each step."""
    press, page = view.press, view.page
    press("/")
    page.keyboard.type("actor:stream-25 crashed")
    press("Enter", "Enter")
    assert view.hook("selected") == CRASH.id
    assert focus_is_visible(view)
    press("c")
    assert page.inner_text("#details h2") == "DataArrived"
    assert page.evaluate("document.activeElement.className") == "step"
    assert focus_is_visible(view)
    press("Tab", "Enter")
    assert page.inner_text("#details h2") == "BytesArrived"
    assert page.evaluate("document.activeElement.innerText.startsWith('BytesArrived')")
    press("Escape")
    assert page.input_value("#filter") == ""
    selected = view.hook("selected")
    press("j")
    following = view.hook("selected")
    assert following != selected
    press("k")
    assert view.hook("selected") == selected
    press("Escape")
    assert view.hook("selected") is None


def focus_is_visible(view: Shown) -> bool:
    found: bool = view.page.evaluate(
        "() => document.activeElement.matches(':focus-visible')"
        " && getComputedStyle(document.activeElement).outlineStyle !== 'none'"
    )
    return found


def test_every_part_of_the_page_is_reached_by_tab_and_says_what_it_is(view: Shown) -> None:
    """T5: each has a role and a name, and an outline when it has the focus."""
    reached = []
    for _ in range(14):
        view.press("Tab")
        reached.append(view.page.evaluate("document.activeElement.id || document.activeElement.className"))
        assert focus_is_visible(view), reached
    assert reached[:9] == ["filter", "fit", "theme", "help-open", "expand", "collapse", "tree", "stage", "tab-problems"]
    assert reached[9:11] == ["grid", "link"]
    for selector in ("#filter", "#tree", "#stage", "#panel-problems [role=grid]", "#details", "#help"):
        named = "element => !!(element.ariaLabel || element.labels?.length || element.getAttribute('aria-labelledby'))"
        assert view.page.eval_on_selector(selector, named), selector
    view.press("?")
    assert view.page.is_visible("#help")
    view.press("Escape")
    assert not view.page.is_visible("#help")


def test_the_tree_of_actors_folds_and_unfolds_by_key_and_by_pointer(view: Shown) -> None:
    """T5: messages of what is folded are drawn in the row of what it is folded into."""
    view.page.focus("#tree")
    view.press("ArrowDown", "ArrowDown", "ArrowLeft")
    assert view.texts(".track .name")[:5] == ["shop", "caller", "link-1", "socket", "timer"]
    assert view.page.get_attribute("[role=treeitem] >> nth=2", "aria-expanded") == "false"
    view.press("ArrowRight")
    assert view.texts(".track .name")[3] == "connection-2"
    rows = view.figures("counts")["rows"]
    view.page.click("#collapse")
    assert view.figures("counts")["rows"] < rows
    view.page.click("#expand")
    assert view.figures("counts")["rows"] == view.figures("counts")["tracks"] == rows


def test_keys_wheel_and_drag_zoom_and_move_and_zero_shows_all_again(view: Shown) -> None:
    """T5."""
    view.press("0")
    whole = span(view)
    view.press("+")
    assert span(view) == pytest.approx(whole / 2)
    view.press("-")
    assert span(view) == pytest.approx(whole)
    view.press("+", "+")
    left = view.figures("view")["from"]
    view.page.focus("#stage")
    view.press("ArrowRight")
    assert view.figures("view")["from"] == pytest.approx(left + 0.15 * span(view))
    near = span(view)
    view.page.mouse.move(500, 300)
    view.page.mouse.wheel(0, -200)
    view.press("Shift")
    assert span(view) < near
    left = view.figures("view")["from"]
    view.page.mouse.down()
    view.page.mouse.move(400, 300)
    view.page.mouse.up()
    assert view.figures("view")["from"] > left
    view.press("0")
    assert span(view) == pytest.approx(whole)


def span(view: Shown) -> float:
    figures = view.figures("view")
    return figures["to"] - figures["from"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_color_schemes_have_contrast_and_a_switch(browser: Browser, tmp_path: Path, scheme: Scheme) -> None:
    """T5: at least 4.5 to 1 for text, as WCAG AA asks."""
    with shown(browser, troubled(), tmp_path, scheme) as view:
        assert view.hook("theme") == scheme
        grounds = [background(view)]
        assert (sum(grounds[0]) > 384) == (scheme == "light")
        view.press("n")
        for selector in (
            *("#summary", ".notice", ".track .name", ".track .note", ".line.head", "#panel-problems .line .time"),
            *(".banner", "#details dt", ".link", ".step .who", ".tabs button", ".kind"),
        ):
            assert contrast(view, selector) >= 4.5, selector
        view.press("t")
        assert view.hook("theme") != scheme
        assert background(view) != grounds[0]
        assert view.complaints == []


def background(view: Shown) -> tuple[float, ...]:
    """The color of the page as one sees it, without what is drawn on it."""
    numbers: list[float] = view.page.evaluate(
        "() => getComputedStyle(document.body).backgroundColor.match(/[\\d.]+/g).map(Number)"
    )
    return tuple(numbers[:3])


def contrast(view: Shown, selector: str) -> float:
    """The least contrast of those elements' text with what is behind it (WCAG 2.2, relative luminance)."""
    pairs = view.page.eval_on_selector_all(
        selector,
        """elements => elements.filter((each) => each.checkVisibility()).map((element) => {
            const numbers = (color) => color.match(/[\\d.]+/g).map(Number);
            let behind = element;
            while (behind && numbers(getComputedStyle(behind).backgroundColor)[3] === 0) behind = behind.parentElement;
            return [getComputedStyle(element).color, getComputedStyle(behind).backgroundColor].map(numbers);
        })""",
    )
    assert pairs, selector
    return min(ratio(luminance(text), luminance(ground)) for text, ground in pairs)


def ratio(one: float, other: float) -> float:
    low, high = sorted((one, other))
    return (high + 0.05) / (low + 0.05)


def luminance(color: list[float]) -> float:
    parts = [part / 255 for part in color[:3]]
    red, green, blue = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_hostile_text_stays_text(view: Shown) -> None:
    """T5: no element comes of it, no script runs."""
    tags = view.page.evaluate("() => document.querySelectorAll('img, script').length")
    assert tags == 1
    view.page.fill("#filter", "owned")
    view.page.click("#tab-messages")
    view.page.click("#panel-messages .body .line >> nth=0")
    assert view.page.eval_on_selector("#details dd", "element => element.textContent") == HOSTILE
    assert view.page.evaluate("() => document.querySelectorAll('img, script').length") == 1
    assert view.page.title() == "shop, store - muxlink trace"


def test_hostile_names_stay_text_too(browser: Browser, tmp_path: Path) -> None:
    """T5: as the name of a process, an actor, a connection and a type."""
    event = Event(
        process=HOSTILE, id=1, time=1.0, sender=HOSTILE, receiver=HOSTILE + "/" * 500, type=HOSTILE, text=HOSTILE,
        connection=HOSTILE, stream=1, data={HOSTILE: HOSTILE},
    )  # fmt: skip
    head = Head(process=HOSTILE, pid=1, monotonic=1.0, wall=2.0)
    trace = Trace.of([head, event, evolve(event, process="other", id=2)], [HOSTILE])
    with shown(browser, trace, tmp_path) as view:
        view.press("j", "3", "Enter", "2", "Enter")
        assert view.page.evaluate("() => document.querySelectorAll('img, script').length") == 1
        assert "</script><img" in view.page.title()
        assert view.complaints == []
        assert view.requests == [view.path.as_uri()]


def test_a_trace_without_messages_says_so(browser: Browser, tmp_path: Path) -> None:
    with shown(browser, Trace.of([Head(process="p", pid=1, monotonic=1.0, wall=2.0)]), tmp_path) as view:
        assert view.page.inner_text("#empty") == "This trace has no messages."
        view.press("j", "n", "z", "0", "+", "1", "Enter", "2", "Enter", "3", "Enter")
        assert view.complaints == []


def test_fifty_thousand_messages_open_and_filter_without_freezing(browser: Browser, tmp_path: Path) -> None:
    """T5: the figures are printed, and bounded only so that a slow machine passes."""
    with shown(browser, many(50_000), tmp_path) as view:
        times = view.figures("times")
        painted: float = view.page.evaluate("() => performance.getEntriesByType('paint')[0].startTime")
        queries = ("stream:5", "actor:stream-7 credit", "12345", "-bytesarrived", "")
        filtered = {}
        for query in queries:
            view.page.fill("#filter", query)
            filtered[query] = view.figures("times")["filtered"]
        assert view.hook("matches") == 50_000
        # No element for each message, however far one scrolls.
        view.press("Escape", "2", "End")
        assert view.texts("#panel-messages .body .line .time")[-1] == "0.999980"
        assert view.page.evaluate("() => document.querySelectorAll('*').length") < 1_000
        frames: list[float] = view.page.evaluate(FRAMES)
        slowest = max(later - earlier for earlier, later in pairwise(frames))
        print(f"\nfirst paint {painted:.0f} ms, {', '.join(f'{name} {ms:.0f} ms' for name, ms in times.items() if ms)}")
        print(f"filters {', '.join(f'{query!r} {ms:.0f} ms' for query, ms in filtered.items())}")
        print(f"slowest of {len(frames) - 1} zoomed frames {slowest:.0f} ms")
        assert painted < 5_000
        assert times["drawn"] < 5_000
        assert max(filtered.values()) < 5_000
        assert slowest < 5_000
        assert view.complaints == []


FRAMES = """async () => {
    const stage = document.getElementById("stage");
    const times = [];
    for (let k = 0; k < 40; k++) {
        const deltaY = k < 20 ? -120 : 120;
        stage.dispatchEvent(new WheelEvent("wheel", { deltaY, clientX: 500, clientY: 300, cancelable: true }));
        times.push(await new Promise(requestAnimationFrame));
    }
    return times;
}"""
