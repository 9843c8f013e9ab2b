"""The status page's style sheet: light and dark, wide and narrow. It names no font and no picture to fetch.

A table of channels becomes a card per channel on a narrow screen; text holds a contrast of 4.5 to 1 in both schemes.
"""

STYLE = """
:root{color-scheme:light dark;--page:#f4f5f7;--card:#fff;--text:#1c2530;--faint:#566272;--line:#dfe3e8;
--track:#e4e8ed;--bars:#5b7fa8;--well:#156b3e;--look:#8f5a00;--failing:#b3261e;
--well-back:#e8f5ee;--look-back:#fdf3e0;--failing-back:#fdebe9}
@media(prefers-color-scheme:dark){:root{--page:#11161c;--card:#1a212a;--text:#e4e9ef;--faint:#9ba8b7;--line:#2b3541;
--track:#2e3945;--bars:#7ea3cf;--well:#56c48c;--look:#e5aa48;--failing:#ff8a80;
--well-back:#16291f;--look-back:#2e2513;--failing-back:#331c1b}}
*{box-sizing:border-box}
h1,h2,h3,p,ul,dl,dd{margin:0;padding:0}
body{margin:0;background:var(--page);color:var(--text);font-variant-numeric:tabular-nums;
font:15px/1.45 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1180px;margin:0 auto;padding:20px 16px 32px}
section{margin-top:22px}
h1{font-size:22px;line-height:1.25;overflow-wrap:anywhere}
h2,h3{font-size:15px;overflow-wrap:anywhere}
small{color:var(--faint);font-size:12.5px;overflow-wrap:anywhere}
path{fill:currentColor}
.well{color:var(--well)}.look{color:var(--look)}.failing{color:var(--failing)}
.mark{width:16px;height:16px;flex:none;display:inline-block;text-align:center;color:var(--faint)}
.mark.well{color:var(--well)}.mark.look{color:var(--look)}.mark.failing{color:var(--failing)}
.unseen,table[role] thead.unseen{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}

.verdict{display:flex;gap:14px;align-items:flex-start;padding:18px 20px;border:1px solid var(--line);border-radius:10px}
.verdict .mark{width:30px;height:30px}
.verdict.well{background:var(--well-back)}.verdict.look{background:var(--look-back)}
.verdict.failing{background:var(--failing-back)}
.verdict p{color:var(--text);margin-top:4px;overflow-wrap:anywhere}

ul,dl div,table{background:var(--card);border:1px solid var(--line);border-radius:10px}
ul{list-style:none;margin-top:8px}
.finding{display:flex;gap:12px;padding:10px 16px;border-top:1px solid var(--line)}
.finding:first-child{border-top:0}
.finding>.mark{margin-top:3px}
.finding>div{min-width:0;flex:1}
.detail{display:grid;grid-template-columns:1fr 1fr;gap:0 28px;font-size:14px}
.detail p:only-child{grid-column:1/-1}
.detail p,.finding p{color:var(--text);overflow-wrap:anywhere}

dl{display:grid;grid-template-columns:repeat(4,1fr);gap:12px}
dl div{padding:12px 16px;min-width:0}
dt{color:var(--faint);font-size:13px}
dd strong{font-size:22px;font-weight:600;line-height:1.3;display:block}
dd .bar{margin:5px 0}
.bar{display:block;width:100%;height:6px;border-radius:3px}
.bar rect{fill:currentColor}.bar .track{fill:var(--track)}.bar .going{fill:var(--text)}
.chart{display:block;width:100%;height:24px}.chart path{stroke:var(--bars);stroke-width:3}

.group{display:flex;flex-wrap:wrap;gap:2px 14px;align-items:center;margin-bottom:8px}
.group h2{display:flex;gap:8px;align-items:center}
.group p{color:var(--faint)}
.group .dots{height:12px;margin-left:auto}
.dots .failing{fill:none;stroke:currentColor;stroke-width:2.5}

table{width:100%;border-collapse:separate;border-spacing:0}
th,td{padding:6px 12px;text-align:left;font-weight:400;border-top:1px solid var(--line)}
thead th{color:var(--faint);font-size:13px;border:0}
tbody th,td{color:var(--text)}
table[role]{table-layout:fixed}
thead th:nth-child(1){width:29%}thead th:nth-child(2){width:18%}thead th:nth-child(3){width:14%}
thead th:nth-child(4){width:13%}thead th:nth-child(5){width:13%}thead th:nth-child(6){width:8%}
tbody th{font-weight:500;overflow-wrap:anywhere}
.name{display:flex;gap:8px}.name .mark{margin-top:3px}
td small{margin-left:6px}
td small.failing{color:var(--failing);display:block;margin:0}
.pair span,.pair .chart,.pair .bar,.pair small{display:inline-block;vertical-align:middle}
.pair span{width:56px}.pair .bar,.pair .chart{width:calc(100% - 56px)}.pair .chart{height:20px}

details{margin-top:6px;color:var(--faint);font-size:13.5px}
summary{cursor:pointer;padding:4px 0}
.runs{width:auto;margin-top:4px}
.runs th{padding:4px 14px;border:0}.runs td{padding:2px 14px}
.runs td.look{color:var(--look)}.runs td.failing{color:var(--failing)}
footer{margin-top:24px;color:var(--faint);font-size:13px}

@media(max-width:900px){
main{padding:12px 12px 24px}h1{font-size:19px}
.verdict{padding:14px}.detail{grid-template-columns:1fr;margin-bottom:4px}
.finding{padding:10px 12px}
dl{grid-template-columns:1fr 1fr;gap:8px}dl div{padding:10px 12px}dd strong{font-size:19px}
.group .dots{margin-left:0}
table[role]{background:none;border:0;display:block}table[role] tbody{display:block}
table[role] thead{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
tbody tr[role]{display:grid;grid-template-columns:repeat(3,1fr);gap:6px 14px;padding:10px 12px;margin-bottom:8px;
background:var(--card);border:1px solid var(--line);border-radius:10px}
tr[role] th,tr[role] td{display:block;padding:0;border:0;min-width:0}
tr[role] th{grid-column:1/-1;font-weight:600}
tr[role] td::before{content:attr(data-label);display:block;color:var(--faint);font-size:12.5px}
td small,.pair span{display:block;margin:0}.pair span{width:auto}
.pair .bar,.pair .chart{width:100%}.pair .bar{margin-top:5px}
}
"""
