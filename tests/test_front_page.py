"""What the book opens with follows from the verdicts, is read in words, and fits a phone."""

import re
from html import unescape

import pytest
from chromium import PROGRAM, Browser

from repro import files, front_page, pages, pdf
from repro.errors import ReproError
from repro.study import claims as ledger
from repro.study import verdicts
from repro.study.verdicts import NOT_REPRODUCED, NOT_TESTABLE, REPRODUCED, WORDS

STYLE = files.root() / "book" / "_static" / "book.css"


@pytest.fixture
def settled():
    return ledger.load().join(verdicts.load().drop(columns="id"))


def read(html):
    return unescape(re.sub("<[^>]+>", "", html))


# --- a sentence for each method


def test_every_method_has_claims_of_its_own_sources():
    assert list(front_page.FINDINGS) == list(pages.PAPERS)
    for paper, sources in pages.PAPERS.items():
        assert {name[:3] for name in front_page.FINDINGS[paper]} <= set(sources)


@pytest.mark.parametrize("paper", pages.PAPERS)
def test_a_sentence_has_each_claim_under_the_word_of_its_verdict(settled, paper):
    sentence = front_page.describe_findings(settled, paper)
    text = read(sentence)
    assert text.count(".") - len(re.findall(r"\d\.\d", text)) == 1 and text.endswith("."), "one sentence"
    for name, statement in front_page.FINDINGS[paper].items():
        before = sentence.partition(f'"ledger.html#{name}"')[0]
        said = max((before.rfind(f">{word}<"), word) for word in WORDS)[1]
        assert said == settled.loc[name, "word"] and statement in text


def test_a_verdict_that_changes_moves_its_claim(settled):
    name = "001-order-kodak24-50-over-dncnn"
    for word in WORDS:
        settled.loc[name, "word"] = word
        sentence = read(front_page.describe_findings(settled, "SADNet"))
        parts = dict(part.split(": ", 1) for part in sentence.split(": ", 1)[1].rstrip(".").split("; "))
        assert [key for key, told in parts.items() if "above DnCNN" in told] == [word]


def test_numbers_are_those_of_the_verdict(settled):
    value, ordering = "001-t3-kodak24-50-sadnet", "001-order-kodak24-50-over-ffdnet"
    settled.loc[value, "ours"], settled.loc[ordering, "difference"] = 12.341, -6.789
    text = read(front_page.describe_findings(settled, "SADNet")).replace(front_page.NO_BREAK, " ")
    assert f"printed {settled.loc[value, 'value']} dB, ours 12.34 dB" in text
    assert "above FFDNet at 50 (−6.79 dB" in text
    settled.loc[value, "ours"], settled.loc[ordering, "difference"] = float("nan"), float("nan")
    text = read(front_page.describe_findings(settled, "SADNet")).replace(front_page.NO_BREAK, " ")
    assert f"(printed {settled.loc[value, 'value']} dB)" in text and "above FFDNet at 50 (see there)" in text


def test_the_sentences_are_short(settled):
    words = sum(len(read(front_page.describe_findings(settled, paper)).split()) for paper in pages.PAPERS)
    assert words < 200, "half a minute for who skims them"


# --- the matrix


def test_matrix_counts_every_claim_once_and_names_its_verdict(settled):
    matrix = front_page.render_matrix(settled)
    assert "<details" not in matrix
    rows = re.findall(r"<tr><th scope=\"row\">(.*?)</th>(.*?)</tr>", matrix)
    counts = {paper: settled["source"].isin(sources).sum() for paper, sources in pages.PAPERS.items()}
    counts["all"] = len(settled)
    assert [read(head) for head, _ in rows] == [f"{name}{count} claims" for name, count in counts.items()]
    words = {short: word for word, short in front_page.SHORT.items()}
    for (_, cells), (_, sources) in zip(rows, [*pages.PAPERS.items(), ("all", None)], strict=True):
        of_row = settled if sources is None else settled[settled["source"].isin(sources)]
        cells = re.findall(r'<td data-label="([^"]+)">(.*?)</td>', cells)
        assert [kind for kind, _ in cells] == list(pages.KINDS)
        for kind, cell in cells:
            shown = {words[word]: int(count) for count, word in re.findall(r">(\d+) ([a-z ]+)</span>", cell)}
            counted = of_row.loc[of_row["metric"].isin(pages.KINDS[kind]), "word"].value_counts()
            assert shown == counted.to_dict()


def test_it_comes_first_and_is_seen(settled):
    glance = front_page.describe_glance(settled, verdicts.Study([], [], []))
    assert glance.startswith(pages.describe_answer(settled, *pages.PAPERS)) and "the four methods'" in glance
    assert glance.index("matrix") < glance.index("are sizes of a network") < glance.index("**SADNet**")
    assert "<details" not in glance


def test_what_is_reproduced_is_said_beside_the_counts(settled):
    settled["word"] = NOT_TESTABLE
    sizes = settled.index[settled["metric"] == "channels"][:2]
    settled.loc[[*sizes, "001-t3-kodak24-50-dncnn", "001-t3-kodak24-50-sadnet"], "word"] = REPRODUCED
    glance = front_page.describe_glance(settled, verdicts.Study([], [], []))
    assert "Of the 4 claims that are reproduced, 2 are sizes of a network, and 1 the image quality of methods" in glance


def test_what_waits_is_counted(settled):
    settled["waits_for"] = ""
    study = verdicts.Study([], [], [])
    assert "wait for experiments" not in front_page.describe_counts(settled, study)
    settled.loc[settled.index[:3], "waits_for"] = ["one", "one", "other"]
    assert "3 wait for experiments of the list that are not finished (2 of them)" in front_page.describe_counts(
        settled, study
    )


@pytest.mark.skipif(PROGRAM is None, reason="no chromium here")
@pytest.mark.parametrize("width", [320, 390, 1280])
def test_no_word_is_cut_and_nothing_scrolls_sideways(settled, tmp_path, width):
    tables = front_page.render_matrix(settled)
    tables += "".join(pages.describe_paper(settled, paper) for paper in pages.PAPERS)
    page = tmp_path / "page.html"
    page.write_text(
        f"<!doctype html><meta charset='utf-8'><style>{STYLE.read_text(encoding='utf-8')} body {{ font: 17px "
        f"'DejaVu Sans', sans-serif; max-width: 676px; margin: 8px }}</style>{tables}",
        encoding="utf-8",
    )
    with Browser(tmp_path / "profile") as browser:
        browser.resize(width, 844)
        browser.open(page)
        assert browser.run("document.scrollingElement.scrollWidth") <= width
        scrolled = "[...document.querySelectorAll('.study-table')].filter((one) => one.scrollWidth > one.clientWidth)"
        assert browser.run(f"{scrolled}.length") == 0
        # A word that was cut has places on two lines.
        cut = browser.run(
            "(() => { const found = []; const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT); "
            "while (walk.nextNode()) for (const one of walk.currentNode.data.matchAll(/\\S+/g)) { "
            "const range = document.createRange(); range.setStart(walk.currentNode, one.index); "
            "range.setEnd(walk.currentNode, one.index + one[0].length); "
            "if (new Set([...range.getClientRects()].map((box) => box.top)).size > 1) found.push(one[0]); } "
            "return found; })()"
        )
        assert cut == []


# --- the link to the print


@pytest.fixture
def built(tmp_path, monkeypatch):
    from pypdf import PdfWriter

    (tmp_path / "_toc.yml").write_text("root: book/index\nparts: []\n")
    (tmp_path / "_build" / "html" / "book").mkdir(parents=True)
    monkeypatch.setattr(files, "root", lambda: tmp_path)
    writer = PdfWriter()
    for _ in range(3):
        writer.add_blank_page(595, 842)
    writer.write(tmp_path / "print.pdf")
    return tmp_path / "_build" / "html"


def test_the_print_is_linked_once_it_is_there(built):
    page = built / "book" / "index.html"
    page.write_text('<h1>one</h1>\n<p id="book-pdf"></p>\n<p>two</p>')
    for _ in range(2):  # printed again, it is still one link
        pdf.offer(built.parent.parent / "print.pdf")
    (address,) = re.findall(r'href="([^"]+)"', page.read_text())
    assert (page.parent / address).read_bytes() == (built.parent.parent / "print.pdf").read_bytes()
    assert "3 pages" in page.read_text() and page.read_text().endswith("\n<p>two</p>")


def test_a_page_without_a_place_for_the_link_is_left_alone(built):
    page = built / "book" / "index.html"
    page.write_text("<h1>one</h1>")
    with pytest.raises(ReproError, match="no place for a link"):
        pdf.offer(built.parent.parent / "print.pdf")
    assert page.read_text() == "<h1>one</h1>" and not (built / pdf.TARGET).exists()


def test_the_first_page_has_the_place_and_no_link_of_its_own():
    text = (files.root() / "book" / "index.md").read_text(encoding="utf-8")
    assert text.count('<p id="book-pdf"></p>') == 1 and pdf.TARGET not in text
    assert "make book " in text and "make test " in text


def test_sentences_do_not_say_that_a_small_network_refutes_a_paper(settled):
    """The counts are followed by what they do not say."""
    settled["word"] = NOT_TESTABLE
    settled.loc["001-t3-kodak24-50-sadnet", "word"] = NOT_REPRODUCED
    counts = front_page.describe_counts(settled, verdicts.Study([], [], []))
    assert "*Not reproduced*: of 1 claims" in counts and "do not refute the paper" in counts


def test_differences_that_are_not_told_from_0_are_counted_by_their_intervals(settled):
    settled["word"], settled["low"], settled["high"] = NOT_TESTABLE, -1.0, 1.0
    ordering, value = "001-order-kodak24-50-over-dncnn", "001-t3-kodak24-50-sadnet"
    settled.loc[[ordering, value], "word"] = NOT_REPRODUCED
    counts = front_page.describe_counts(settled, verdicts.Study([], [], []))
    assert "1 of the 2 are differences that cannot be told from 0" in counts, "an interval of a value is another thing"
    settled.loc[ordering, "high"] = -0.5
    counts = front_page.describe_counts(settled, verdicts.Study([], [], []))
    assert "0 of the 2 are differences" in counts


def test_whether_it_reproduced_is_answered_in_one_sentence(settled):
    settled["word"] = NOT_TESTABLE
    first, second = "001-t3-kodak24-50-sadnet", "001-t3-kodak24-30-sadnet"
    answer = pages.describe_answer(settled, "SADNet")
    assert re.fullmatch(
        r"\*\*Of \d+ printed values of SADNet's image quality, none is reproduced and \d+ could not be tested.\*\*",
        answer,
    )
    settled.loc[first, "word"] = NOT_REPRODUCED
    answer = pages.describe_answer(settled, "SADNet")
    assert (
        "none is reproduced, 1 does not hold even in direction and" in answer
        and "nothing here was trained as long" in answer
    )
    settled.loc[[first, second], "word"] = REPRODUCED
    answer = pages.describe_answer(settled, *pages.PAPERS)
    assert "of the four methods' image quality, 2 are reproduced and" in answer and "trained as long" not in answer
    other = "001-t3-kodak24-50-dncnn"
    settled.loc[other, "word"] = REPRODUCED
    assert pages.describe_answer(settled, *pages.PAPERS) == answer, "another method's value is none of the four's"
    told = read(pages.describe_paper(settled, "SADNet"))
    assert "Of the 3 claims below that are reproduced, 1 is a value of another method." in told


def test_a_difference_that_a_seed_may_undo_is_a_hint(settled):
    name = "004-order-fsm-dem-over-fsm-no-dem"
    settled.loc[name, ["word", "difference", "reason"]] = ["direction reproduced", 0.08, f"+0.08 dB. {verdicts.HINT}"]
    assert "FSM (+0.08 dB, a hint)" in read(front_page.describe_findings(settled, "ScaoedNet")).replace("\xa0", " ")
    settled.loc[name, "reason"] = "+0.08 dB."
    assert (
        "hint"
        not in read(front_page.describe_findings(settled, "ScaoedNet")).replace("\xa0", " ").split("beside FSM")[1][:20]
    )


def test_a_farther_map_is_not_nearer_by_a_negative_number(settled):
    name = "004-order-nfae-over-none"
    settled.loc[name, ["difference", "low", "high"]] = [-0.43, -0.5, -0.4]
    assert "NFAE (0.43 gray levels farther off)" in read(front_page.describe_findings(settled, "ScaoedNet")).replace(
        "\xa0", " "
    )
    settled.loc[name, ["difference", "low", "high"]] = [0.43, 0.4, 0.5]
    assert "NFAE (0.43 gray levels nearer)" in read(front_page.describe_findings(settled, "ScaoedNet")).replace(
        "\xa0", " "
    )


def test_a_lead_that_may_be_none_is_told_as_such(settled):
    name = "001-order-kodak24-30-over-ffdnet"
    settled.loc[name, ["difference", "low", "high"]] = [-0.01, -0.04, 0.01]
    assert "FFDNet at 30 (−0.01 dB, within chance)" in read(front_page.describe_findings(settled, "SADNet")).replace(
        "\xa0", " "
    )
