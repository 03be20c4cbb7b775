"""What a variable holds goes to the server; its name goes everywhere else: rows, payloads, errors, logs."""

from __future__ import annotations

import base64
import gzip
import logging
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import urllib3

from assets.build import BuildError, SilentProgress
from assets.sources.config import SourceConfig
from assets.sources.crawl import capture_source
from assets.sources.variables import Variables, named_place, names_again, sign_in, without_userinfo
from orchestration.config import ConfigError, read_sources_toml, validate
from orchestration.identity.digest import data_version
from tests.assets.sources.bulk.bulk import Crawled, crawl, table
from tests.assets.sources.file_server import FileServer
from tests.assets.sources.file_server import serve as serve_files
from tests.assets.sources.site import Page, Site, html, serve
from tests.builds import segment_of
from tests.canaries import contents_of, forms_of, found_below

QUERY, FOLDER, PASSWORD = "q/canary-1=xyz", "canary-folder-77", "canary:p@ss/word"
VALUES = {"HW_QUERY": QUERY, "HW_FOLDER": FOLDER, "HW_PASSWORD": PASSWORD, "HW_USER": "canary-user"}
CANARIES = forms_of(VALUES.values())


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in VALUES.items():
        monkeypatch.setenv(name, value)


def refuse_canaries(folder: Path) -> None:
    assert found_below(folder, VALUES.values()) == []


# --- a site


def guarded_site() -> dict[str, Page]:
    """A site whose pages come only with the token, in the path and the query, and link each other with it."""
    here, query = f"/{FOLDER}/docs/", quote(QUERY, safe="")
    locs = f"<url><loc>SITE{here}mapped.html?t={query}</loc></url>".encode()
    urlset = b'<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">%s</urlset>' % locs
    return {
        "/robots.txt": Page(f"User-agent: *\nDisallow: {here}private/\nSitemap: /sitemap.xml.gz\n".encode()),
        "/sitemap.xml.gz": Page(urlset, content_type="application/gzip"),
        f"{here}index.html?t={QUERY}": Page(
            html(
                "Index",
                *(
                    f"two.html?t={QUERY}",
                    f"{here}three.html?t={query}",
                    f"moved.html?t={query}",
                    f"private/x.html?t={query}",
                ),
                *("https://other.example/?${HW_QUERY}", f"missing.html?t={query}"),
                text=f"Your key is {QUERY}, you are in {FOLDER}.",
            ),
            headers={"ETag": f'"{FOLDER}"', "Link": f"<{here}three.html?t={query}>; rel=next"},
        ),
        f"{here}two.html?t={QUERY}": Page(html("Two", text="second page")),
        f"{here}three.html?t={QUERY}": Page(
            html("Three", head=f'<link rel="canonical" href="{here}three.html?t={query}">', text="third page")
        ),
        f"{here}moved.html?t={QUERY}": Page(status=301, headers={"Location": f"{here}arrived.html?t={query}"}),
        f"{here}arrived.html?t={QUERY}": Page(html("Arrived", text="after a redirect")),
        f"{here}mapped.html?t={QUERY}": Page(html("Mapped", text="only in the sitemap")),
    }


def of_site(site: Site) -> dict[str, Any]:
    return {
        "kind": "web",
        "licence": "CC0-1.0",
        "domain": "documentation",
        "format": "html",
        "start_urls": [f"{site.url}/${{HW_FOLDER}}/docs/index.html?t=${{HW_QUERY}}"],
        "delay_s": 0,
        "retries": 0,
        "allow_private_hosts": True,
    }


def crawl_site(folder: Path, site: Site, previous: Any = None) -> tuple[dict[str, dict[str, Any]], str, Any]:
    output = folder / "output"
    output.mkdir(parents=True)
    source = SourceConfig.model_validate(of_site(site)).root
    capture_source(source, "bulk@20260101T000000Z", output, folder / "work", SilentProgress(), previous)
    segment = segment_of(output, "raw_crawl", "bulk@20260101T000000Z")
    rows = {row["url"].removeprefix(site.url): row for row in segment.table("captures").to_pylist()}
    return rows, data_version(output, ("*.warc.gz",))[0], segment


def with_real_urls(site: Site) -> None:
    page = site.pages["/sitemap.xml.gz"]
    page.body = gzip.compress(page.body.replace(b"SITE", site.url.encode()))


def test_a_site_behind_a_token_is_crawled_under_the_names_of_its_variables(tmp_path: Path) -> None:
    with serve(guarded_site()) as site:
        with_real_urls(site)
        rows, _, segment = crawl_site(tmp_path / "a", site)
        again, _, _ = crawl_site(tmp_path / "b", site, segment)
    where = "/${HW_FOLDER}/docs/"
    assert {url: row["drop_reason"] for url, row in rows.items()} == {
        f"{where}index.html?t=${{HW_QUERY}}": None,
        f"{where}two.html?t=${{HW_QUERY}}": None,
        f"{where}three.html?t=${{HW_QUERY}}": None,
        f"{where}mapped.html?t=${{HW_QUERY}}": None,
        f"{where}arrived.html?t=${{HW_QUERY}}": None,
        f"{where}moved.html?t=${{HW_QUERY}}": "redirected",
        f"{where}missing.html?t=${{HW_QUERY}}": "http_404",
        f"{where}private/x.html?t=${{HW_QUERY}}": "robots_denied",
    }
    assert again[f"{where}index.html?t=${{HW_QUERY}}"]["revisit"] == "server_not_modified"
    said = b"Your key is ${HW_QUERY}, you are in ${HW_FOLDER}."
    assert any(said in content for _, content in contents_of(tmp_path / "a"))
    refuse_canaries(tmp_path)


def test_another_value_is_no_other_crawl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    versions = []
    for number, folder in enumerate((FOLDER, "another-canary")):
        pages = {path.replace(FOLDER, folder): page for path, page in guarded_site().items()}
        for page in pages.values():
            page.body = page.body.replace(FOLDER.encode(), folder.encode())
            page.headers = {name: value.replace(FOLDER, folder) for name, value in page.headers.items()}
        monkeypatch.setenv("HW_FOLDER", folder)
        with serve(pages) as site:
            with_real_urls(site)
            rows, _, _ = crawl_site(tmp_path / str(number), site)
        told = ("drop_reason", "content_sha256", "etag", "location")
        versions.append({url: [str(row[key]).replace(site.url, "") for key in told] for url, row in rows.items()})
    assert versions[0] == versions[1]


def test_a_token_is_sent_to_the_source_only(tmp_path: Path) -> None:
    """A page can write the name of our variable into a link, or into the address of a licence that we fetch."""
    with serve({}) as thief:
        pages = guarded_site()
        head = f'<link rel="license" type="application/rsl+xml" href="{thief.url}/steal?x=${{HW_QUERY}}">'
        pages[f"/{FOLDER}/docs/two.html?t={QUERY}"] = Page(html("Two", head=head))
        with serve(pages) as site:
            with_real_urls(site)
            crawl_site(tmp_path, site)
        asked = " ".join(thief.requests)
    assert "steal" in asked and not any(canary.decode() in asked for canary in CANARIES)


def test_a_crawl_that_fails_tells_no_value(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    empty = {"/robots.txt": Page(b"", content_type="text/plain")}
    with serve(empty) as site, pytest.raises(BuildError, match="kept nothing") as caught:
        crawl_site(tmp_path, site)
    text = str(caught.value) + "".join(capfd.readouterr())
    assert not any(canary.decode() in text for canary in CANARIES)
    refuse_canaries(tmp_path)
    assert "${HW_FOLDER}" in text


# --- what is read in bulk


def test_bulk_sources_sign_in_and_pass_tokens_by_name(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root/rows.jsonl").write_text(f'{{"id": "a", "text": "the key is {QUERY} today"}}\nno JSON {QUERY}\n')
    with serve_files(FileServer(tmp_path / "root")) as server:
        place = f"http://${{HW_USER}}:${{HW_PASSWORD}}@{server.url.partition('//')[2]}"
        paths = [
            f"{place}/rows.jsonl?t=${{HW_QUERY}}",
            f"{place}/absent-${{HW_FOLDER}}.jsonl?t=${{HW_QUERY}}",
        ]
        found = crawl(
            tmp_path / "c",
            table("dataset", paths=paths, columns={"id": "id"}, allow_private_hosts=True, retries=0, retry_wait_s=0),
        )
        user = base64.b64encode(f"{VALUES['HW_USER']}:{PASSWORD}".encode()).decode()
        assert server.signed_in == {f"Basic {user}"}
        assert f"/rows.jsonl?t={QUERY}" in [path for path, _ in server.requests]
    assert sorted(filter(None, found.reasons.values())) == ["input_unreadable", "invalid_json"]
    assert list(found.payloads.values()) == [b"the key is ${HW_QUERY} today"]
    refuse_canaries(tmp_path / "c")


@pytest.mark.parametrize("kind", ["documents", "warc", "wikipedia", "common_crawl", "api", "columnar"])
def test_errors_of_every_kind_name_the_variable(tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    with serve_files(FileServer(tmp_path / "nothing")) as server:
        place = f"{server.url}/${{HW_FOLDER}}/x?t=${{HW_QUERY}}"
        keys: dict[str, dict[str, Any]] = {
            "wikipedia": {"paths": [place], "language": "en"},
            "common_crawl": {"path_lists": [place]},
            "api": {"index_api": place, "urls": ["example.org/${HW_FOLDER}/*"]},
            "columnar": {"columnar": [place], "urls": ["example.org/*"]},
        }
        name = {"api": "common_crawl", "columnar": "common_crawl"}.get(kind, kind)
        source = table(name, **keys.get(kind, {"paths": [place]}), allow_private_hosts=True, retries=1, retry_wait_s=0)
        server.failures = [503, 503, 503]
        with pytest.raises(BuildError, match=r"HW_FOLDER|HW_QUERY") as caught:
            crawl(tmp_path / "c", source)
    text = str(caught.value) + caplog.text
    assert not any(canary.decode() in text for canary in CANARIES), text
    assert caught.value.__context__ is None or "canary" not in str(caught.value.__context__)


def test_s3_keys_and_errors_name_the_variable(tmp_path: Path) -> None:
    keys = {"paths": ["s3://bucket/${HW_FOLDER}/*.jsonl"], "s3_endpoint": "http://127.0.0.1:9/${HW_QUERY}"}
    with pytest.raises(BuildError) as caught:
        crawl(tmp_path / "c", table("dataset", **keys, s3_anonymous=True, retries=0, retry_wait_s=0))
    assert "${HW_FOLDER}" in str(caught.value)
    assert not any(canary.decode() in str(caught.value) for canary in CANARIES)


def test_a_data_set_of_a_hub_is_named_by_its_variable(tmp_path: Path) -> None:
    with pytest.raises(BuildError) as caught:
        crawl(tmp_path / "c", table("dataset", paths=["hf://${HW_FOLDER}/data"], layout="huggingface"))
    assert FOLDER not in str(caught.value)


def test_a_local_folder_may_be_a_variable_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Crawled] = []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.txt").write_text(f"A text of {folder[:0]}the folder.")
        monkeypatch.setenv("HW_DATA", str(tmp_path / folder))
        found.append(crawl(tmp_path / f"c-{folder}", table("documents", paths=["${HW_DATA}"])))
    assert [list(each.rows) for each in found] == [["documents:bulk/a.txt"]] * 2
    assert [(tmp_path / f"c-{folder}/output/source.json").read_text() for folder in ("one", "two")].count(
        (tmp_path / "c-one/output/source.json").read_text()
    ) == 2


# --- libraries


def test_the_log_of_a_library_holds_no_value(caplog: pytest.LogCaptureFixture) -> None:
    Variables.of("s", {"paths": ["http://h/?t=${HW_QUERY}"]})
    retry = urllib3.Retry(total=1, backoff_factor=0)
    with caplog.at_level(logging.DEBUG), pytest.raises(urllib3.exceptions.MaxRetryError):
        urllib3.PoolManager(retries=retry).request("GET", f"http://127.0.0.1:9/?t={QUERY}")
    try:
        raise ValueError(f"no {QUERY}")
    except ValueError:
        logging.getLogger("library").exception("in %s", QUERY)
    assert "Retrying" in caplog.text and "${HW_QUERY}" in caplog.text
    assert not any(canary.decode() in caplog.text for canary in CANARIES)


# --- sources.toml

HEAD = '[a]\nlicence = "CC0-1.0"\ndomain = "web"\n'
DATA = HEAD + 'kind = "dataset"\n'


def read(folder: Path, text: str) -> Any:
    path = folder / "sources.toml"
    path.write_text(text)
    return validate(SourceConfig, read_sources_toml(path)["a"], path, "a").root


def test_names_stay_in_places_and_hosts_and_defaults_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HW_HOST", "data.example")
    paths = '["https://${HW_USER}:${HW_PASSWORD}@${HW_HOST}:${HW_PORT:-8443}/${HW_YEAR:-2026}/${HW_QUERY}", "${HW_DATA:-}/x"]'
    found = read(tmp_path, f"{DATA}paths = {paths}")
    assert found.paths == ("https://${HW_USER}:${HW_PASSWORD}@data.example:8443/2026/${HW_QUERY}", "${HW_DATA}/x")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (DATA + 'paths = ["https://me:hunter2secret@h/x"]', r"carries credentials.*\$\{USER\}:\$\{PASSWORD\}@h"),
        (DATA + 'paths = ["https://${HW_USER}:hunter2secret@h/x"]', r"carries credentials"),
        (DATA + 'paths = ["https://hunter2secret@h/x"]', r"carries credentials"),
        (DATA + 'paths = ["s3://key:${HW_PASSWORD}@bucket/x"]', r"nothing signs in there by its URL"),
        (DATA + 'paths = ["s3://b/x"]\ns3_endpoint = "http://k:hunter2secret@h"', r"nothing signs in there"),
        (
            HEAD + 'kind = "common_crawl"\nurls = ["h/*"]\nindex_api = "https://u:hunter2secret@h/i"',
            r"carries credentials",
        ),
        (
            HEAD + 'kind = "web"\nformat = "html"\ncontact = "x"\nstart_urls = ["https://u:hunter2secret@h/"]',
            r"nothing signs in there",
        ),
        (DATA + 'paths = ["x"]\nencoding = "${HW_QUERY}"', r"HW_QUERY holds would be published"),
    ],
)
def test_what_would_be_published_is_refused_without_quoting_it(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        read(tmp_path, text)
    assert "hunter2secret" not in str(caught.value)


def test_values_that_cannot_be_hidden_or_are_not_there_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HW_QUERY", "abc")
    with pytest.raises(BuildError, match=r"HW_QUERY has 3 characters.*\$\{HW_QUERY:-default\}"):
        Variables.of("s", {"start_urls": ["http://h/?t=${HW_QUERY}"]})
    for value in ("", None):
        monkeypatch.setenv("HW_QUERY", value) if value is not None else monkeypatch.delenv("HW_QUERY")
        with pytest.raises(BuildError, match="needs the environment variable HW_QUERY"):
            Variables.of("s", {"start_urls": ["http://h/?t=${HW_QUERY}"]})


def test_small_things() -> None:
    assert names_again("http://h/$%7BA_b%7D?x=%24%7BC%7D&y=%7B") == "http://h/${A_b}?x=${C}&y=%7B"
    assert without_userinfo("see http://u:p@h/a@b and ftp://h") == "see http://h/a@b and ftp://h"
    assert named_place("http://${A}:${B:-1}/${C}", str.lower) == "http://${a}:${b:-1}/${C}"
    variables = Variables({"A": "value-a", "AB": "value-a-longer"}, frozenset({"A", "AB"}))
    assert variables.hide("value-a-longer, value-a") == "${AB}, ${A}"
    assert variables.hide_bytes("x value-a".encode("utf-16-le")) == "x ${A}".encode("utf-16-le")
    assert sign_in("http://${A}:${AB}@h/${A}", variables) == ("http://h/value-a", "value-a:value-a-longer")
