"""How the profile's page looks, by day and by night."""

from typing import Final

STYLE: Final = """
:root { color-scheme: light dark; --ink: #1d2327; --paper: #fff; --dim: #67717a;
  --rule: #dfe3e6; --fill: #f3f5f6; --guest: #9db4c8; --device: #d9822b;
  --own: #6a5acd; --hot: #f2b36b; }
@media (prefers-color-scheme: dark) { :root { --ink: #dde2e6; --paper: #16191c;
  --dim: #919ca5; --rule: #333a40; --fill: #20252a; --guest: #4d677f;
  --device: #e08c3a; --own: #8f82e0; --hot: #8a5a1e; } }
body { margin: 2rem auto; max-width: 72rem; padding: 0 1.5rem; color: var(--ink);
  background: var(--paper); font: 14px/1.45 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 .75rem; }
h2, summary { font-size: 1.1rem; font-weight: 600; margin: 2rem 0 .5rem; }
dl { display: flex; flex-wrap: wrap; gap: .5rem 2rem; margin: 0; }
dt { color: var(--dim); font-size: 12px; }
dd { margin: 0; overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; }
table.narrow { width: auto; }
th { color: var(--dim); font-size: 12px; font-weight: 500; text-align: left; }
th, td { border-bottom: 1px solid var(--rule); padding: .2rem .75rem .2rem 0;
  vertical-align: top; }
.n { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
td small { color: var(--dim); display: inline-block; width: 3.5em; }
code { font: 12px/1.45 ui-monospace, monospace; white-space: pre-wrap;
  overflow-wrap: anywhere; }
.none, .note { color: var(--dim); }
.note { font-size: 12px; margin: .4rem 0; }
.note b { display: inline-block; width: .8em; height: .8em; }
.bar { width: 8rem; }
.bar i { display: block; height: .6rem; margin-top: .35rem;
  min-width: 1px; background: var(--device); }
.split { width: 40%; white-space: nowrap; font-size: 0; vertical-align: middle; }
.split b { display: inline-block; height: .9rem; }
b.guest { background: var(--guest); } b.device { background: var(--device); }
b.own { background: var(--own); }
.strip { position: relative; height: 5rem; background: var(--fill); overflow: hidden;
  border-bottom: 1px solid var(--dim); }
.strip i { position: absolute; bottom: 0; width: 2px; background: var(--ink); }
.strip b { position: absolute; top: 0; bottom: 0; background: var(--hot);
  opacity: .75; border-left: 1px solid var(--device); box-sizing: border-box; }
.strip s { text-decoration: none; font-size: 11px; padding: 0 3px; }
.strip em { position: absolute; top: 0; bottom: 0; font-size: 11px; padding: 0 3px;
  border-left: 2px solid var(--own); line-height: 9.2rem; white-space: nowrap; }
.axis { position: relative; height: 1.3rem; font-size: 11px; color: var(--dim); }
.axis u { position: absolute; text-decoration: none; padding-left: 3px;
  border-left: 1px solid var(--dim); white-space: nowrap; }
.console td { border: 0; padding-top: 0; padding-bottom: 0; }
.console .n { width: 5.5rem; color: var(--dim); }
.console td.slow { color: var(--device); font-weight: 600; }
.boot { font-weight: 600; }
summary { cursor: pointer; }
"""
