import pytest

from vlv.serving.urls import ImageError, is_public, redirected, target_of


@pytest.mark.parametrize(
    ("url", "target", "host"),
    [
        ("https://example.com/föto.jpg", "https://example.com:443/f%C3%B6to.jpg", "example.com"),
        ("https://Bücher.example:443?ä b", "https://xn--bcher-kva.example:443/?%C3%A4%20b", "xn--bcher-kva.example"),
        ("http://me:pass@a.b:8080/x?sig=%2B|a'&c=[d]#e", "http://a.b:8080/x?sig=%2B|a'&c=[d]", "a.b:8080"),
        ("http://[::1]:99/", "http://::1:99/", "[::1]:99"),
    ],
)
def test_a_url_is_sent_in_ascii_and_else_as_it_is(url, target, host):
    found = target_of(url)
    origin = f"{found.url.scheme.decode()}://{found.url.host.decode()}:{found.url.origin.port}"
    assert origin + found.url.target.decode() == target
    assert found.host == host


@pytest.mark.parametrize("url", ["", "a.png", "ftp://a/b", "http:///a", "http://:80/a", "file:///etc/passwd"])
def test_others_are_refused(url):
    with pytest.raises(ImageError, match="none of http, https and data"):
        target_of(url)


def test_a_redirect_may_be_of_any_bytes():
    assert target_of(redirected("http://a/b/c", "ö".encode())).url.target == b"/b/%C3%B6"
    assert target_of(redirected("http://a/b/c", b"/\xf6")).url.target == b"/%F6"
    with pytest.raises(ImageError, match="a part of the host"):
        target_of(redirected("http://a/b/c", b"//\xf6/"))


@pytest.mark.parametrize(
    "address",
    [
        "8.8.8.8",
        "2606:4700::1111",
        "::ffff:8.8.8.8",
        "::8.8.8.8",
        "64:ff9b::8.8.8.8",  # how a network without IPv4 sees it
        "2002:808:808::1",
    ],
)
def test_public_addresses(address):
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.0.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "::",
        "::1",
        "fe80::1%eth0",
        "fd00::1",
        "ff02::1",
        "fec0::1",
        "feff::1",
        "::ffff:127.0.0.1",
        "::7f00:1",
        "::a9fe:a9fe",
        "::ffff:0:7f00:1",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b::a00:1",
        "64:ff9b:1::808:808",
        "2002:7f00:1::1",
    ],
)
def test_private_addresses_whatever_they_are_wrapped_in(address):
    assert not is_public(address)
