"""What all pages have in common: their frame, their style, and what a browser may do for them,
which is to show them. No script, no address, nothing that is fetched; they print, are read on a
phone, and follow the reader's light or dark.
"""

import base64
from hashlib import sha256

from gateway.pages.markup import Markup, markup, tag

STYLE = """\
:root{--ink:#1b1f24;--soft:#57606a;--paper:#fff;--line:#d0d7de;--fill:#f3f5f7;--bar:#2f6fb5;
--band:#cfe8d5;--edge:#5a9a6b;--good:#1a7f37;--wrong:#c4261d;--gap:#e4d9c3;--link:#0a58ca}
@media screen and (prefers-color-scheme:dark){:root{--ink:#e6e9ec;--soft:#9aa4ae;--paper:#14181c;
--line:#3a424a;--fill:#1d2328;--bar:#6ea3dd;--band:#21452e;--edge:#57c274;--good:#57c274;
--wrong:#ff7b70;--gap:#4a4130;--link:#8ab4f8}}
*{box-sizing:border-box}
body{margin:0 auto;padding:1rem;max-width:72rem;color:var(--ink);background:var(--paper);
font:16px/1.45 system-ui,sans-serif;overflow-wrap:anywhere}
a{color:var(--link)}:focus-visible{outline:2px solid var(--link);outline-offset:2px}
h1{font-size:1.5rem;margin:0}h2{font-size:1.25rem;margin:2rem 0 .3rem}
h3{font-size:1rem;margin:1rem 0 .2rem}
p{margin:.3rem 0}.soft,figcaption{color:var(--soft)}small,.soft,figcaption{font-size:.875rem}
.said{border:1px solid var(--line);border-left:.5rem solid var(--soft);background:var(--fill);
padding:.6rem 1rem;margin:1rem 0}.said p:first-child{font-weight:600}
.said.good{border-left-color:var(--good)}.said.bad{border-left-color:var(--wrong)}
.figures{display:flex;flex-wrap:wrap;gap:.5rem;margin:1rem 0}
.figures div{flex:1 1 9rem;border:1px solid var(--line);padding:.4rem .8rem}
.figures dd{font-size:1.25rem;font-weight:600;font-variant-numeric:tabular-nums}
nav{display:flex;flex-wrap:wrap;gap:.3rem 1rem;font-size:.875rem;margin-bottom:.8rem}
nav .last{margin-left:auto}
.wide{overflow-x:auto;position:relative}figure{margin:0}
table{border-collapse:collapse;font-size:.875rem;font-variant-numeric:tabular-nums;margin:.4rem 0;
overflow-wrap:normal}
caption{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
th,td{padding:.15rem .5rem;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap;
vertical-align:top}
th{font-weight:600}thead th{background:var(--fill)}tbody th{font-weight:400}
td.l,th.l{text-align:left}
td.wrap{white-space:normal;min-width:12rem}
.no{color:var(--wrong);font-weight:600}.yes{color:var(--good)}
dl{font-size:.875rem;margin:.4rem 0}dl:not(.figures){display:grid;
grid-template-columns:fit-content(40%) 1fr;gap:.1rem 1rem}
dt{color:var(--soft)}dd{margin:0}sub{line-height:0}
pre{margin:.2rem 0;white-space:pre-wrap}li{margin:.3rem 0}
svg{display:block;width:100%;min-width:34rem;height:auto}
svg text{font:11px system-ui,sans-serif;fill:var(--soft)}
.grid{stroke:var(--line);stroke-width:.5}.axis{stroke:var(--soft);stroke-width:1}
.bar{fill:var(--bar)}.band{fill:var(--band)}.gap{fill:var(--gap)}
.edge{stroke:var(--edge);stroke-width:.8;fill:none}
.line{stroke:var(--ink);stroke-width:1.2;fill:none}
.dot{stroke:var(--bar);stroke-width:3.5;stroke-linecap:round;fill:none}
.wrong{stroke:var(--wrong);stroke-width:2;fill:none}
@media print{nav{display:none}html{font-size:11px}body{max-width:none;padding:0;font-size:1rem}
.wide{overflow:visible}svg{min-width:0}
table{font-size:8px}th,td{padding:.05rem .25rem;white-space:normal}
tbody th:first-child{white-space:nowrap}h2.meter{break-before:page}h2,h3{break-after:avoid}
tr,figure,svg,.said,.figures{break-inside:avoid}thead{display:table-header-group}
*{-webkit-print-color-adjust:exact;print-color-adjust:exact}}
"""

_CONTENT = f"\n{STYLE}"
_DIGEST = base64.b64encode(sha256(_CONTENT.encode()).digest()).decode()
# This one style and nothing else, whatever somebody has got into a page; nobody may frame it.
POLICY = (
    f"default-src 'none'; style-src 'sha256-{_DIGEST}'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'"
)
PAGE_HEADERS = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff"}


def document(title: str, *parts: str) -> str:
    """A whole page."""
    head = markup(
        Markup('<meta charset="utf-8">\n'),
        Markup('<meta name="viewport" content="width=device-width, initial-scale=1">\n'),
        Markup('<meta name="color-scheme" content="light dark">\n'),
        tag("title", title),
        Markup("\n"),
        tag("style", Markup(_CONTENT)),
    )
    lines = [
        Markup('<!DOCTYPE html>\n<html lang="en">\n<head>'),
        head,
        Markup("</head>\n<body>\n<main>"),
        *(markup(part) for part in parts),
        Markup("</main>\n</body>\n</html>\n"),
    ]
    return "\n".join(lines)
