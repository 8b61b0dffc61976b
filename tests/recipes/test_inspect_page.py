"""The page of `rhapsode inspect` in a real browser: Chromium, where it and playwright are installed.

pip install playwright, and a Chromium of the system; nothing is downloaded.
"""

import shutil

import pytest
import torch
from rhapsode import RhapsodeConfig, RhapsodeForCausalLM
from rhapsode.recipes.cli import run_command
from transformers import AutoTokenizer
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
playwright = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
TEXT = "def f(path):\n\treturn '<script>alert(1)</script>' # é"


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def page_file(tokenizer_directory, tmp_path_factory):
    directory = tmp_path_factory.mktemp("inspect")
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_directory)
    config = RhapsodeConfig.from_preset("rhapsode-10m-tiny", vocab_size=len(tokenizer), initializer_range=0.2)
    RhapsodeForCausalLM(config).save_pretrained(directory / "model")
    tokenizer.save_pretrained(directory / "model")
    assert run_command("inspect", [str(directory / "model"), TEXT, "--output", str(directory / "page.html")]) == 0
    return directory / "page.html"


@pytest.fixture
def page(browser, page_file):
    """Fails at the end if the console has said anything, or anything was asked of a network."""
    page, said, asked = browser.new_page(), [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(page_file.as_uri())
    yield page
    page.close()
    assert said == [] and asked == [page_file.as_uri()]


def test_every_section_is_there(page):
    expected = ["Tokens", "Logit lens", "Sampling", "Attention", "Architecture", "KV cache", "Rotary positions"]
    assert page.locator("h2").all_inner_texts() == expected
    assert page.locator("main script, main img").count() == 0
    assert page.locator("#wiring rect").count() > 4
    assert page.locator(".token").count() == page.evaluate("reading.tokens.length")


def test_a_click_and_the_arrow_keys_choose(page):
    page.locator(".token").nth(3).click()
    assert page.locator("#after").inner_text().startswith("After position 3,")
    page.keyboard.press("ArrowRight")
    assert page.locator("#after").inner_text().startswith("After position 4,")
    assert "position 4," in page.locator("#looking").inner_text()
    page.locator("#layer").select_option("1")
    assert page.locator("#looking").inner_text().startswith("Layer 1, head 0")
    page.locator(".heads button").nth(1).click()
    assert page.locator("#looking").inner_text().startswith("Layer 1, head 1")


def test_the_sliders_move_what_they_name(page):
    def put(name, value):
        page.locator(f"#{name}").evaluate(
            "(slider, v) => { slider.value = v; slider.dispatchEvent(new Event('input')); }", value
        )

    before = page.locator("#sampled").inner_text()
    put("temperature", 0.3)
    assert page.locator("#sampled").inner_text() != before
    put("top-k", 5)
    assert page.locator("#sampled").inner_text().startswith("5 tokens can be drawn")
    assert page.locator("#distribution .bar.out").count() == 24 - 5
    angle = page.locator("#angle").inner_text()
    put("position-m", 0)
    assert page.locator("#angle").inner_text() != angle
    assert "have 1.000 of their" in page.locator("#angle").inner_text()


def test_the_settings_are_those_of_generate(page, seed):
    """Against transformers' own, one after the other; up to 48 tokens every logit is there."""
    torch.manual_seed(seed)
    for temperature, k, p, least in [
        (1, 0, 1, 0),
        (0.5, 0, 1, 0),
        (2, 5, 1, 0),
        (1.3, 0, 0.6, 0),
        (1.5, 9, 0.8, 0),
        (2.5, 0, 1, 0.2),
    ]:
        logits = (3 * torch.randn(40)).sort(descending=True).values
        scores = TemperatureLogitsWarper(float(temperature))(None, logits[None])
        scores = TopKLogitsWarper(k)(None, scores) if k else scores
        scores = TopPLogitsWarper(p)(None, scores) if p < 1 else scores
        scores = MinPLogitsWarper(least)(None, scores) if least else scores
        expected = scores.softmax(-1)[0].tolist()
        kept = [[str(i), logit] for i, logit in enumerate(logits.tolist())]
        arguments = [kept, [], temperature, k, p, least]
        found = page.evaluate("(a) => sampled(...a).tokens.map((token) => token.p)", arguments)
        assert found == pytest.approx(expected, abs=1e-5), (temperature, k, p, least)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_in_light_and_dark(page, scheme):
    page.emulate_media(color_scheme=scheme)
    colours = "getComputedStyle(document.body)"
    ink, paper = (_luminance(page.evaluate(f"{colours}.{name}")) for name in ("color", "backgroundColor"))
    high, low = max(ink, paper), min(ink, paper)
    assert (high + 0.05) / (low + 0.05) > 7  # WCAG 2.2, AAA
    assert (ink < paper) == (scheme == "light")
    page.locator("#theme").click()
    turned = _luminance(page.evaluate(f"{colours}.backgroundColor"))
    assert (turned > paper) == (scheme == "dark")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def _luminance(colour: str) -> float:
    """Of `rgb(r, g, b)`; WCAG 2.2."""
    values = [int(v) / 255 for v in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
    return sum(w * v for w, v in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
