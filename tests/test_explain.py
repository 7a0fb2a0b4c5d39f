"""What `explain` prints."""

from __future__ import annotations

import re

import pytest

from exporter.errors import ExporterError
from exporter.explain import explain, sections
from exporter.health.codes import CODES


@pytest.mark.parametrize("code", sorted({code.value for codes in CODES.values() for code in codes}))
def test_every_code_is_explained_in_plain_text(code: str) -> None:
    """Neither anchors nor marks of Markdown are left, and commands stay as they are."""
    text = explain(code)
    assert text.startswith(f"{code} - ")
    assert "<a id" not in text
    assert "```" not in text
    assert not re.search(r"^#+ ", text, re.MULTILINE)
    assert text.endswith("\n")
    assert not text.endswith("\n\n")


def test_headings_are_underlined_and_commands_are_indented() -> None:
    """The first lines and a command of a section, letter by letter."""
    text = explain("EDB01")
    assert text.startswith(
        "EDB01 - The database does not answer\n"
        "====================================\n"
        "\n"
        "Severity error, alert CoderEDB01DatabasePingFailed.\n"
        "\n"
        "What it means\n"
        "-------------\n"
    )
    assert '\n       pg_isready -d "$PGURL" -t 5\n' in text


@pytest.mark.parametrize("name", ["edb02", " EDB02 ", "CoderEDB02DatabaseLatencyHigh", "coderedb02databaselatencyhigh"])
def test_letter_case_does_not_matter_and_alerts_are_understood(name: str) -> None:
    """Who was paged may paste what the pager shows."""
    assert explain("EDB02") == explain(name)


def test_alerts_of_a_code_with_two_severities_lead_to_the_code() -> None:
    """Both names explain the same code."""
    assert explain("XACS03") == explain("CoderXACS03CertificateExpiresWarning")
    assert explain("XACS03") == explain("CoderXACS03CertificateExpiresCritical")


def test_alerts_about_the_exporter_are_explained() -> None:
    """An alert without a code has words as well."""
    assert explain("CoderExporterGone").startswith("CoderExporterGone - ")


def test_an_unknown_code_names_what_comes_near() -> None:
    """A slip of the finger is answered with the codes that it may have meant."""
    with pytest.raises(ExporterError, match=r"no health code is called 'EDB03'; did you mean .*EDB02.*\?"):
        explain("EDB03")


def test_a_word_that_is_nothing_like_a_code_gets_the_list() -> None:
    """Without a near miss all codes are named."""
    with pytest.raises(ExporterError, match=r"known are EACS01, .*EUNKNOWN"):
        explain("weather")


def test_sections_are_markdown_without_anchors() -> None:
    """The web page renders them itself."""
    for code, text in sections().items():
        assert text.startswith(f"## {code} - ")
        assert "<a id" not in text
