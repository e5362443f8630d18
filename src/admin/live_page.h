// The live page: services and backends, refreshed every second. One file, no
// scripts from elsewhere.
#pragma once

namespace headgate::admin {

inline constexpr char kLivePage[] = R"html(<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Headgate</title>
<meta name="viewport" content="width=device-width,initial-scale=1">
<style>
:root{color-scheme:light dark;--line:#8884;--up:#2a7d46;--down:#c0392b;--mid:#b9770e}
body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem}
h1{font-size:1.4rem;margin:0}h2{font-size:1rem;margin:1.6rem 0 .4rem}
table{border-collapse:collapse;width:100%}th{text-align:left;font-weight:600;font-size:.8rem;opacity:.7}
th,td{padding:.3rem .7rem .3rem 0;border-bottom:1px solid var(--line);white-space:nowrap}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
.s{display:inline-block;min-width:4.5em;padding:0 .5em;border-radius:.7em;color:#fff;text-align:center;font-size:.85rem;background:var(--mid)}
.up{background:var(--up)}.down{background:var(--down)}.bad{color:var(--down)}#sum{opacity:.8;margin:.2rem 0}
</style></head><body>
<h1>Headgate</h1><p id="sum">…</p><ul id="problems" class="bad"></ul>
<h2>Services</h2><table><thead><tr><th>Service<th>Listen<th>Datapath<th class="n">Backends up<th class="n">Active<th class="n">Total<th class="n">In<th class="n">Out</tr></thead><tbody id="services"></tbody></table>
<h2>Backends</h2><table><thead><tr><th>Backend<th>Address<th>State<th class="n">Weight<th class="n">Active<th class="n">Total<th>Last check</tr></thead><tbody id="backends"></tbody></table>
<script>
const bytes=n=>{let u=["B","KiB","MiB","GiB","TiB"],i=0;while(n>=1024&&i<4){n/=1024;i++}return (i?n.toFixed(1):n)+" "+u[i]};
const cell=(v,c)=>{const d=document.createElement("td");if(c)d.className=c;if(v instanceof Node)d.append(v);else d.textContent=v;return d};
const row=cells=>{const r=document.createElement("tr");r.append(...cells);return r};
const badge=s=>{const e=document.createElement("span");e.className="s "+s;e.textContent=s;return e};
const get=p=>fetch(p).then(r=>r.json());
async function draw(){try{
 const [st,sv,be]=await Promise.all([get("/v1/status"),get("/v1/services"),get("/v1/backends")]);
 document.getElementById("sum").textContent=`version ${st.version} · ${st.services} services · ${st.backends_up} of ${st.backends_total} backends up · ${st.connections_active} connections · up ${Math.floor(st.uptime_seconds/60)} min`;
 document.getElementById("problems").replaceChildren(...st.problems.map(p=>{const l=document.createElement("li");l.textContent=p;return l}));
 document.getElementById("services").replaceChildren(...sv.services.map(s=>row([cell(s.name),cell(s.listen.join(" ")),cell(s.datapath),cell(s.backends_up+" / "+s.backends_total,s.backends_up?"n":"n bad"),cell(s.connections_active,"n"),cell(s.connections_total,"n"),cell(bytes(s.bytes_in_total),"n"),cell(bytes(s.bytes_out_total),"n")])));
 document.getElementById("backends").replaceChildren(...be.backends.map(b=>row([cell(b.service+"/"+b.name),cell(b.address),cell(badge(b.state)),cell(b.weight,"n"),cell(b.connections_active,"n"),cell(b.connections_total,"n"),cell((b.ejected?"ejected, "+b.ejected.reason+"; ":"")+(b.last_check?b.last_check.result+(b.last_check.detail?": "+b.last_check.detail:"")+" in "+(b.last_check.duration_seconds*1000).toFixed(1)+" ms":"–"))])));
}catch(e){document.getElementById("sum").textContent="not reachable"}
setTimeout(draw,1000)}
draw();
</script></body></html>
)html";

}  // namespace headgate::admin
