"""Credentials in the forms that data paths have them in; what is no secret stays."""

import pytest

from vlv.redaction import printable, redact, redact_values

CANARY = "CANARY7"


@pytest.mark.parametrize(
    ("path", "written"),
    [
        (f"https://me:{CANARY}@host/a/{{000..010}}.tar", "https://***@host/a/{000..010}.tar"),
        (f"https://me:p@{CANARY}@host/a.tar", "https://***@host/a.tar"),
        (f"https://{CANARY}@host/a.tar?v=1#x", "https://***@host/a.tar?***"),
        (f"s3://bucket/a.tar?X-Amz-Signature={CANARY}&token={CANARY}", "s3://bucket/a.tar?***"),
        (f"pipe:curl -s -H 'Authorization: Bearer {CANARY}' https://h/a.tar", "pipe:curl -s -H *** https://h/a.tar"),
        (f"pipe:curl -HX-Key:{CANARY} --header=X:{CANARY} https://h/a.tar", "pipe:curl *** *** https://h/a.tar"),
        (f"pipe:curl -u me:{CANARY} https://h/a.tar?sig={CANARY} | cat", "pipe:curl -u *** https://h/a.tar?*** | cat"),
        (f"pipe:tool --secret-key a/{CANARY} /data/a.tar", "pipe:tool --secret-key *** /data/a.tar"),
        (f"pipe:AWS_SECRET_ACCESS_KEY={CANARY} aws s3 cp s3://b/a.tar -", "pipe:*** *** *** *** s3://b/a.tar -"),
        (f"pipe:sshpass -p{CANARY} ssh h cat a.tar", "pipe:sshpass *** *** *** *** a.tar"),
        (f"pipe:curl 'open {CANARY}", "pipe:***"),
        (f"no answer from https://me:{CANARY}@host/a.tar: 403", "no answer from https://***@host/a.tar: 403"),
    ],
)
def test_credentials_are_hidden(path, written):
    assert redact(path) == written
    assert redact(written) == written


@pytest.mark.parametrize("text", ["./data/a?b.tar", "owner/name", "max_caption_tokens=300", "a:b@c", "C:/x", "/a/pipe"])
def test_other_text_stays(text):
    assert redact(text) == text


def test_settings_of_every_type():
    values = {"path": f"https://{CANARY}@h/", "many": [f"s3://b?{CANARY}", 1], "lr": 1e-3, "none": None}
    expected = {"path": "https://***@h/", "many": ["s3://b?***", 1], "lr": 1e-3, "none": None}
    assert redact_values(values) == expected


def test_a_terminal_gets_no_control_characters():
    assert printable("a\x1b[2J\r\nb\udcff é 日") == r"a\x1b[2J\r\nb\udcff é 日"
