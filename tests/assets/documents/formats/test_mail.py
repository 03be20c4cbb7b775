"""What of a mail message is its sender's: the lines that a mailbox escaped, the lines that look like a reply's head."""

from __future__ import annotations

import pytest

from assets.documents.formats.mail import without_quotes

OUTLOOK = "From: Bob\nSent: Monday, May 6, 2024 7:08 AM\nTo: Alice\nSubject: Hi\n\nold words"


@pytest.mark.parametrize(
    ("text", "newest"),
    [
        ("Dear all,\n\n>From Monday on.\n\nBye", "Dear all,\n\nFrom Monday on.\n\nBye"),
        (">From Monday\n>From Tuesday\n", "From Monday\nFrom Tuesday"),
        ("Yes.\n> a\n>From the north\n> b\nNo.", "Yes.\nNo."),
        ("Yes.\n>>From the north\nNo.", "Yes.\nNo."),
        ("Trains:\n\nFrom: Lyon\nTo: Paris\n\nBring a coat.", "Trains:\n\nFrom: Lyon\nTo: Paris\n\nBring a coat."),
        ("Trains:\n\nFrom: Lyon\nTo: Paris\n\nBye\n\n" + OUTLOOK, "Trains:\n\nFrom: Lyon\nTo: Paris\n\nBye"),
        ("New.\n\n" + OUTLOOK, "New."),
        ("New.\n\nFrom: bob@example.org\nTo: Alice\n\nold", "New."),
        ("New.\n\nFrom: Bob\nDate: 6 May 2024\nSubject: Hi\n\nold", "New."),
        ("New.\n\nVon: Bob\nGesendet: 07:08\nAn: Alice\n\nold", "New."),
        ("New.\n\nOn Monday Bob wrote:\n> old", "New."),
        ("New.\n\n-----Original Message-----\nold", "New."),
    ],
)
def test_what_is_not_quoted_stays(text: str, newest: str) -> None:
    assert without_quotes(text) == newest
    assert without_quotes(text.replace("\n", "\r\n")) == newest
