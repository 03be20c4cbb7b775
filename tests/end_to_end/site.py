"""A small web site of our own making, in Chinese, English and French, for whole-graph tests.

Pages are sentences put together from word lists by a hash, so every page is different, the same
arguments give the same bytes, and nothing here was written by anyone else.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ZH = (
    (
        "河流上游的",
        "山谷里的",
        "清晨的",
        "老城区的",
        "实验室的",
        "图书馆的",
        "仓库里的",
        "海边的",
        "新修的",
        "北方的",
        "会议上的",
        "地下的",
    ),
    ("工程师", "管理员", "老师", "渔民", "记者", "学生们", "志愿者", "木匠", "医生", "程序员", "园丁", "司机"),
    (
        "每天都会检查",
        "终于修好了",
        "仔细记录了",
        "正在重新设计",
        "不得不放弃",
        "悄悄改进了",
        "公开讨论了",
        "很少提到",
        "认真比较了",
        "及时更换了",
        "慢慢理解了",
        "准备展示",
    ),
    (
        "服务器的日志",
        "水闸的开关",
        "古老的地图",
        "数据库的备份",
        "一座石桥",
        "学校的课程表",
        "网络的配置",
        "稻田的水位",
        "发动机的零件",
        "邮件的队列",
        "山路的标志",
        "仪器的读数",
    ),
    (
        "，因为大家都依赖它",
        "，这样就不会再出错",
        "，结果比预想的要好",
        "，但是时间并不充足",
        "，并且写了一份说明",
        "，随后通知了所有人",
        "，从而节省了许多费用",
        "，虽然天气很冷",
        "，以便下一次参考",
        "，最后得到了认可",
        "，同时保留了旧的版本",
        "，直到傍晚才结束",
    ),
)
EN = (
    (
        "Upstream of the dam, ",
        "In the old workshop, ",
        "Before the meeting, ",
        "After a long winter, ",
        "On the second floor, ",
        "Without any warning, ",
        "As the manual explains, ",
        "In most of the cases, ",
        "Near the harbour, ",
        "For the first time, ",
        "Late in the evening, ",
        "With a little patience, ",
    ),
    (
        "the engineer ",
        "a careful reader ",
        "our neighbour ",
        "the night train driver ",
        "the system administrator ",
        "one of the students ",
        "the gardener ",
        "a retired captain ",
        "the librarian ",
        "the whole team ",
        "the carpenter ",
        "a visiting doctor ",
    ),
    (
        "repaired ",
        "described ",
        "compared ",
        "measured ",
        "replaced ",
        "painted ",
        "documented ",
        "rejected ",
        "borrowed ",
        "tested ",
        "forgot ",
        "rebuilt ",
    ),
    (
        "the wooden bridge",
        "a set of backup disks",
        "the water level of the field",
        "the configuration of the network",
        "an old map of the valley",
        "the mail queue",
        "the engine of the ferry",
        "a list of missing books",
        "the garden wall",
        "the log of the server",
        "a box of instruments",
        "the timetable of the school",
    ),
    (
        " because everyone depends on it.",
        " and then told the others about it.",
        ", which took longer than expected.",
        " so that it would not fail again.",
        ", although the weather was cold.",
        " and wrote a short report.",
        " with the help of two friends.",
        ", but nobody noticed the change.",
        " before the sun went down.",
        " in order to save some money.",
        " that had been there for years.",
        " and kept the old version too.",
    ),
)
FR = (
    ("Au bord de la rivière, ", "Dans la vieille ville, ", "Pendant la réunion, ", "Après un long hiver, "),
    ("l'ingénieur ", "une lectrice attentive ", "le jardinier ", "notre voisine "),
    ("a réparé ", "a décrit ", "a comparé ", "a remplacé "),
    ("le pont de bois", "la carte de la vallée", "le journal du serveur", "le niveau de l'eau"),
    (
        " parce que tout le monde en dépend.",
        " avant le coucher du soleil.",
        " avec l'aide de deux amis.",
        " et a rédigé un court rapport.",
    ),
)
LISTS = {"zh": ZH, "en": EN, "fr": FR}
PARAGRAPHS, SENTENCES = 5, 5


def sentence(language: str, key: str) -> str:
    """One sentence chosen by a hash of `key`."""
    digest = hashlib.sha256(f"{language} {key}".encode()).digest()
    words = (column[digest[i] % len(column)] for i, column in enumerate(LISTS[language]))
    return "".join(words) + ("。" if language == "zh" else "")


def body(language: str, key: str) -> list[str]:
    """The paragraphs of one page."""
    joiner = "" if language == "zh" else " "
    return [joiner.join(sentence(language, f"{key}/{p}/{s}") for s in range(SENTENCES)) for p in range(PARAGRAPHS)]


def page(language: str, key: str, links: Sequence[str] = ()) -> str:
    """A whole HTML page with a menu, an article and a footer."""
    paragraphs = "\n".join(f"<p>{text}</p>" for text in body(language, key))
    menu = "".join(f'<li><a href="{link}">{link}</a></li>' for link in links)
    return (
        f'<!DOCTYPE html><html lang="{language}"><head><meta charset="utf-8"><title>{language} {key}</title></head>'
        f"<body><nav><ul>{menu}</ul></nav><main><article><h1>{language} {key}</h1>\n{paragraphs}\n</article></main>"
        f"<footer>Headwater test site</footer></body></html>"
    )


def write_page(root: Path, language: str, name: str, key: str | None = None) -> None:
    """Write or replace one page; another `key` gives it another text."""
    path = root / language / f"{name}.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(language, key or name, ["/index.html"]), encoding="utf-8")


def write_index(root: Path) -> None:
    """The front page links every page there is."""
    links = sorted("/" + p.relative_to(root).as_posix() for p in root.rglob("*.html") if p.name != "index.html")
    (root / "index.html").write_text(page("en", "front page", links), encoding="utf-8")
    (root / "robots.txt").write_text("User-agent: *\nDisallow: /private/\n", encoding="utf-8")


def make_site(root: Path, zh: int = 24, en: int = 24, fr: int = 4) -> Path:
    """A fresh site with that many pages per language, and one exact copy."""
    root.mkdir(parents=True, exist_ok=True)
    for language, count in (("zh", zh), ("en", en), ("fr", fr)):
        for number in range(count):
            write_page(root, language, f"page-{number:03d}")
    write_page(root, "zh", "copy", "page-000")
    write_index(root)
    return root


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def serve(root: Path, port: int = 0) -> Iterator[int]:
    """Serve the site on loopback; yields the port."""
    server = ThreadingHTTPServer(("127.0.0.1", port), partial(_Quiet, directory=str(root)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
