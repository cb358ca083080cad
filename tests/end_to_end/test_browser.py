"""The dashboard in a real browser."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route, expect, sync_playwright

from tests.end_to_end.programs import Cluster

QUIET = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip


def find_chromium() -> str:
    """A Chromium on PATH. Skips the test without one; in CI it fails."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    reason = "no Chromium on PATH (on Debian: apt-get install chromium)"
    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@pytest.fixture
def page(cluster: Cluster) -> Iterator[Page]:
    """The dashboard, open; what the browser complained about must be nothing."""
    with sync_playwright() as playwright:
        # Root may not use Chromium's sandbox; the only page it opens is ours.
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=QUIET, chromium_sandbox=False)
        page = browser.new_page()
        complaints: list[str] = []
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(cluster.url)
        yield page
        browser.close()
        # A refused picture is a failed request to the browser, and it says so: that one is ours to provoke.
        assert [text for text in complaints if "415" not in text] == []


def test_it_shows_the_workers(page: Page, cluster: Cluster) -> None:
    expect(page.get_by_text("3 of 3 workers ready")).to_be_visible()
    for worker in cluster.listed():
        expect(page.get_by_role("row").filter(has_text=worker["address"])).to_contain_text("digits")


def test_it_classifies_a_picture_that_is_chosen(page: Page, digits_model: Path) -> None:
    expect(page.get_by_alt_text("The picture that was classified")).to_be_hidden()
    page.get_by_label("Drop a picture here").set_input_files(digits_model / "digits" / "samples" / "7.png")
    expect(page.locator(".prediction").first).to_contain_text("7")
    expect(page.get_by_text("digits 1, worker-")).to_be_visible()
    expect(page.get_by_alt_text("The picture that was classified")).to_be_visible()


def test_it_says_why_a_file_is_not_classified(page: Page, tmp_path: Path) -> None:
    letter = tmp_path / "letter.txt"
    letter.write_text("Dear worker")
    page.get_by_label("Drop a picture here").set_input_files(letter)
    expect(page.get_by_text("this is not an image")).to_be_visible()


def test_among_several_models_one_is_chosen(page: Page, digits_model: Path) -> None:
    def with_another_model(route: Route) -> None:
        answer = route.fetch()
        listed = answer.json()
        listed["workers"][0]["models"] = ["cats", "digits"]
        route.fulfill(response=answer, json=listed)

    expect(page.get_by_label("Model", exact=True)).to_be_hidden()
    page.route("**/workers", with_another_model)
    page.get_by_label("Model", exact=True).select_option("digits")
    with page.expect_request(lambda request: request.url.endswith("/classify?model=digits")):
        page.get_by_label("Drop a picture here").set_input_files(digits_model / "digits" / "samples" / "7.png")
    expect(page.locator(".prediction").first).to_contain_text("7")
