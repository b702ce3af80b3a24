"""How the page looks, in light and in dark.

The colors are safe for the color-blind: one sequential scale from pale to dark blue (turned round
in the dark), Okabe and Ito's orange for the best, and their purple-red for what went wrong.
"""

CSS = """
:root { color-scheme: light dark;
  --paper: #fff; --ink: #1a202c; --soft: #5b6675; --line: #dbe0e8; --panel: #f6f8fb;
  --best: #d55e00; --band: #c3d9ee; --curve: #2166ac; --bad: #a5407f; --warn: #fff4e5;
  --level0: #dfe3ea; --level1: #c3d3e4; --level2: #9dbbd8; --level3: #739fc9;
  --level4: #4a82b6; --level5: #2a629b; --level6: #0b3c6f; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #14181f; --ink: #e6eaf0; --soft: #9aa5b4; --line: #323a46; --panel: #1c222b;
  --best: #ff9a3d; --band: #2b4a68; --curve: #74b3ea; --bad: #e58bc4; --warn: #3a2b14;
  --level0: #2d343f; --level1: #2f4257; --level2: #345774; --level3: #3d7096;
  --level4: #549ac6; --level5: #86c3e6; --level6: #d3eefb; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); line-height: 1.5;
  font-family: system-ui, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif; }
main, header, footer { max-width: 1060px; margin: 0 auto; padding: 0 20px; }
header { padding-top: 28px; }
h1 { font-size: 1.75rem; margin: 0; line-height: 1.2; }
h2 { font-size: 1.3rem; margin: 2.6rem 0 .7rem; padding-top: .5rem;
  border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.7rem 0 .4rem; }
section:first-child h2 { border: 0; margin-top: .6rem; }
header p, .caption, figcaption, footer { color: var(--soft); font-size: .88rem; }
header p { margin: .3rem 0 .8rem; }
figcaption, .caption { max-width: 56rem; margin: .3rem 0 0; }
nav { position: sticky; top: 0; z-index: 1; background: var(--paper);
  border-bottom: 1px solid var(--line); }
nav div { max-width: 1060px; margin: 0 auto; padding: 7px 20px; display: flex; flex-wrap: wrap;
  gap: 2px 18px; }
nav a { color: var(--soft); text-decoration: none; font-size: .86rem; }
nav a:hover, nav a:focus { color: var(--ink); text-decoration: underline; }
section { scroll-margin-top: 40px; }
.cards { display: flex; flex-wrap: wrap; gap: 12px; margin: .8rem 0; }
.card { flex: 1 1 200px; background: var(--panel); border-radius: 8px; padding: 12px 16px; }
.card b { display: block; white-space: nowrap; font-size: 1.45rem; line-height: 1.25;
  font-variant-numeric: tabular-nums; }
.card span { display: block; }
.card small { color: var(--soft); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .88rem; margin: .5rem 0;
  font-variant-numeric: tabular-nums; }
th, td { padding: 4px 9px; text-align: left; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th { color: var(--soft); font-weight: 600; white-space: nowrap; vertical-align: bottom; }
.n { text-align: right; white-space: nowrap; }
.best { width: 100%; }
.best tbody tr:first-child td { font-weight: 700; }
.best tbody tr:first-child td:first-child { border-left: 3px solid var(--best); padding-left: 6px; }
figure { margin: .6rem 0 1.2rem; }
figure svg { display: block; width: 100%; height: auto; }
figure img { display: block; max-width: 100%; height: auto; background: #fff; border-radius: 8px; }
svg { font-family: inherit; }
svg * { stroke-linejoin: round; stroke-linecap: butt; }
pre { background: var(--panel); padding: 10px 14px; border-radius: 8px; overflow-x: auto;
  font-size: .88rem; margin: .5rem 0; }
code { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
.warn { background: var(--warn); border-left: 4px solid var(--best); padding: 8px 14px;
  border-radius: 4px; }
details { margin: .6rem 0; }
summary { cursor: pointer; color: var(--soft); font-size: .92rem; }
footer { padding: 2rem 20px; }
@media (max-width: 700px) { figure { overflow-x: auto; } figure svg { min-width: 700px; } }
@media print { nav { display: none; } section { break-inside: avoid-page; } }
"""
