"""The status page's style sheet: light and dark, wide and narrow. It names no font and no picture to fetch.

A table of channels becomes a card per channel on a narrow screen; colours hold a contrast of 4.5 to 1 for text.
"""

STYLE = """
:root{color-scheme:light dark;--page:#f4f5f7;--card:#fff;--text:#1c2530;--faint:#566272;--line:#dfe3e8;--track:#e4e8ed;
--bars:#5b7fa8;--well:#1a7f4b;--look:#8f5a00;--failing:#b3261e;
--well-back:#e8f5ee;--look-back:#fdf3e0;--failing-back:#fdebe9}
@media(prefers-color-scheme:dark){:root{--page:#11161c;--card:#1a212a;--text:#e4e9ef;--faint:#9ba8b7;--line:#2b3541;
--track:#2e3945;--bars:#7ea3cf;--well:#56c48c;--look:#e5aa48;--failing:#ff8a80;--well-back:#16291f;--look-back:#2e2513;
--failing-back:#331c1b}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--text);
font:15px/1.45 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;
font-variant-numeric:tabular-nums}
main{max-width:1180px;margin:0 auto;padding:20px 16px 32px}
h1,h2,h3,p,ul,dl,dd{margin:0;padding:0}
h1{font-size:22px;line-height:1.25;overflow-wrap:anywhere}h2{font-size:15px}h3{font-size:15px;overflow-wrap:anywhere}
small{display:block;color:var(--faint);font-size:12.5px}
.well{color:var(--well)}.look{color:var(--look)}.failing{color:var(--failing)}
path{fill:currentColor}
.mark{width:16px;height:16px;flex:none}
.unseen{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
section{margin-top:20px}
.verdict{display:flex;gap:14px;align-items:flex-start;padding:18px 20px;border-radius:10px;border:1px solid var(--line)}
.verdict .mark{width:30px;height:30px}
.verdict.well{background:var(--well-back)}.verdict.look{background:var(--look-back)}
.verdict.failing{background:var(--failing-back)}
.verdict p{color:var(--text);margin-top:4px;overflow-wrap:anywhere}
ul{list-style:none;margin-top:8px;background:var(--card);border:1px solid var(--line);border-radius:10px}
.finding{display:flex;gap:12px;padding:12px 16px;border-top:1px solid var(--line)}
.finding:first-child{border-top:0}
.finding .mark{margin-top:3px}
.finding div{min-width:0}
.finding p{color:var(--text);overflow-wrap:anywhere}
.finding p.next{color:var(--faint)}.next b{color:var(--text)}
dl{display:grid;grid-template-columns:repeat(4,1fr);gap:12px}
dl div{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:12px 16px;min-width:0}
dt{color:var(--faint);font-size:13px}
dd strong{font-size:22px;font-weight:600;line-height:1.3;display:block}
.bar{display:block;width:100%;height:6px;margin-top:4px;border-radius:3px}
.bar rect{fill:currentColor}.bar .track{fill:var(--track)}
.chart{display:block;width:100%;height:24px;color:var(--bars)}
.group{display:flex;flex-wrap:wrap;gap:2px 16px;align-items:center;margin-bottom:8px}
.group h2{display:flex;gap:8px;align-items:center}
.group p{color:var(--faint)}
.dots{height:12px;margin-left:auto}
.dots .failing{fill:none;stroke:currentColor;stroke-width:2.5}
table{width:100%;border-collapse:separate;border-spacing:0;background:var(--card);
border:1px solid var(--line);border-radius:10px}
thead th{color:var(--faint);font-weight:500;font-size:13px;text-align:left;padding:8px 12px}
td,tbody th{padding:7px 12px;border-top:1px solid var(--line);
text-align:left;vertical-align:top;font-weight:400;color:var(--text)}
tbody th{font-weight:500;overflow-wrap:anywhere}
tbody th .mark{margin-right:8px;vertical-align:-2px}
td{white-space:nowrap}
td small.failing{color:var(--failing);white-space:normal}
td .bar{width:110px}td .chart{width:120px}
details{margin-top:6px;color:var(--faint);font-size:13.5px}
summary{cursor:pointer;padding:4px 0}
.runs{width:auto;margin-top:4px;border-radius:8px}
.runs th{font-weight:500;text-align:left;padding:4px 14px}.runs td{padding:2px 14px}
.runs td.look{color:var(--look)}.runs td.failing{color:var(--failing)}
footer{margin-top:24px;color:var(--faint);font-size:13px}
@media(max-width:820px){
main{padding:12px 12px 24px}h1{font-size:19px}
.verdict{padding:14px}dl{grid-template-columns:1fr 1fr;gap:8px}dl div{padding:10px 12px}dd strong{font-size:19px}
.dots{margin-left:0}
table[role]{background:none;border:0}table[role] thead{position:absolute;
width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
table[role],tbody{display:block}
tbody tr[role]{display:grid;grid-template-columns:1fr 1fr;background:var(--card);
border:1px solid var(--line);border-radius:10px;
margin-bottom:8px;padding:10px 12px;gap:6px 16px}
tr[role] th,tr[role] td{display:block;padding:0;border:0;min-width:0;white-space:normal}
tr[role] th{grid-column:1/-1;font-weight:600}
tr[role] td::before{content:attr(data-label);display:block;color:var(--faint);font-size:12.5px}
td .bar,td .chart{width:100%}
}
"""
