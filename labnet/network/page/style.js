// The live panel of a server. Two users: the page at "/" of every server, which polls "snapshot", and the
// notebook widget, whose kernel sends snapshots. Elements are made once and only their texts and paths change,
// so that focus, selection and screen readers are left alone. Text never goes through innerHTML.
// These files are put together into one module, in the order of `labnet.network.panel_page`.

const STYLE = `
.labnet-panel {
  color-scheme: light dark;
  --ink: var(--jp-ui-font-color1, light-dark(#1c2330, #e6e9ef));
  --soft: var(--jp-ui-font-color2, light-dark(#566072, #a3adbd));
  --line: var(--jp-border-color2, light-dark(#d9dee7, #3a4250));
  --paper: var(--jp-layout-color1, light-dark(#ffffff, #171b22));
  --raised: var(--jp-layout-color2, light-dark(#f1f3f7, #222833));
  --accent: light-dark(#2563c9, #6ea8fe);
  --good: light-dark(#1a7f45, #4cc38a);
  --bad: light-dark(#b3261e, #ff8f87);
  color: var(--ink); background: var(--paper); border: 1px solid var(--line); border-radius: 8px;
  font: 13px/1.45 var(--jp-ui-font-family, system-ui, sans-serif);
  padding: 12px 14px; margin: 4px 0; max-width: 940px; box-sizing: border-box;
  container-type: inline-size;
}
[data-jp-theme-light=true] .labnet-panel { color-scheme: light; }
[data-jp-theme-light=false] .labnet-panel { color-scheme: dark; }
.labnet-panel header { display: flex; flex-wrap: wrap; gap: 4px 14px; align-items: center; margin-bottom: 6px; }
.labnet-panel .name { font-weight: 600; font-size: 15px; overflow-wrap: anywhere; }
.labnet-panel .state::before { content: "●"; margin-right: 5px; color: var(--soft); }
.labnet-panel[data-state=running] .state::before { color: var(--good); }
.labnet-panel:is([data-state=unreachable], [data-state=silent]) .state::before { color: var(--bad); }
.labnet-panel .soft { color: var(--soft); }
.labnet-panel .controls { display: flex; gap: 6px; margin-left: auto; }
.labnet-panel button {
  font: inherit; font-size: 12px; color: var(--ink); background: var(--raised); cursor: pointer;
  border: 1px solid var(--line); border-radius: 5px; padding: 2px 9px; min-height: 24px;
}
.labnet-panel button:hover:not(:disabled) { border-color: var(--accent); }
.labnet-panel :is(button, input, a, summary):focus-visible { outline: 2px solid var(--accent); outline-offset: 1px; }
.labnet-panel button.stop { color: var(--bad); }
.labnet-panel button:disabled { border-style: dashed; cursor: default; }
.labnet-panel form:not([hidden]) { display: flex; flex-wrap: wrap; gap: 6px 10px; align-items: center; margin-bottom: 8px; }
.labnet-panel label { display: flex; flex-wrap: wrap; gap: 2px 8px; align-items: center; }
.labnet-panel input {
  font: inherit; color: var(--ink); background: var(--paper); border: 1px solid var(--soft); border-radius: 5px;
  padding: 2px 6px; min-height: 24px; width: 22ch; max-width: 100%; box-sizing: border-box;
}
.labnet-panel code { font: 12px/1.45 var(--jp-code-font-family, ui-monospace, monospace); background: none; color: inherit; }
.labnet-panel .facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(165px, 1fr)); gap: 0 12px; margin: 0 0 8px; font-size: 12px; }
.labnet-panel .facts div { display: flex; gap: 5px; white-space: nowrap; overflow: hidden; }
.labnet-panel .facts :is(dt, dd) { float: none; width: auto; margin: 0; padding: 0; display: block; }
.labnet-panel .facts dt { color: var(--soft); font-weight: 400; }
.labnet-panel .facts dd { font-variant-numeric: tabular-nums; }
.labnet-panel .scroll { overflow-x: auto; }
.labnet-panel table { border-collapse: collapse; width: 100%; margin: 0; font-size: 13px; }
.labnet-panel th, .labnet-panel td {
  padding: 3px 8px; text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums;
  border: 0; background: none;
}
.labnet-panel :is(thead, tbody) tr, .labnet-panel tbody tr:hover { background: none; }
.labnet-panel thead th { color: var(--soft); font-weight: 500; border-bottom: 1px solid var(--line); }
.labnet-panel th:first-child { text-align: left; font-weight: 500; padding-left: 0; }
.labnet-panel svg { display: block; overflow: visible; }
.labnet-panel .spark { width: 130px; padding-right: 0; }
.labnet-panel .spark svg { width: 120px; height: 22px; margin-left: auto; }
.labnet-panel path {
  fill: none; stroke: var(--accent); stroke-width: 1.5; stroke-linecap: round; vector-effect: non-scaling-stroke;
}
.labnet-panel .bad { color: var(--bad); font-weight: 600; }
.labnet-panel .tools { display: flex; flex-wrap: wrap; gap: 4px 6px; align-items: center; margin: 6px 0; }
.labnet-panel :is(.tools, .tables, .controls)[hidden] { display: none; }
.labnet-panel button[aria-pressed=true] { border-color: var(--accent); box-shadow: inset 0 0 0 1px var(--accent); }
.labnet-panel form.bare:not([hidden]) { margin: 0; font-size: 12px; }
.labnet-panel input.rate { width: 10ch; }
.labnet-panel .alert { margin: 0 0 6px; font-size: 12px; color: var(--soft); white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
.labnet-panel .alert.bad { color: var(--bad); }
.labnet-panel .curves { display: flex; gap: 4px 18px; overflow-x: auto; padding-bottom: 2px; }
.labnet-panel figure { margin: 4px 0 0; flex: 1 1 170px; min-width: 130px; }
.labnet-panel figure.wide { flex: 3 1 300px; min-width: 240px; }
.labnet-panel figcaption {
  display: flex; justify-content: space-between; gap: 8px; color: var(--soft); font-size: 12px; white-space: nowrap;
}
.labnet-panel figcaption span { overflow: hidden; text-overflow: ellipsis; }
.labnet-panel figcaption .legend { flex: 1; text-align: right; }
.labnet-panel figcaption b { color: var(--ink); font-variant-numeric: tabular-nums; }
.labnet-panel .plot {
  position: relative; padding-top: 14px; border-left: 1px solid var(--line); border-bottom: 1px solid var(--line);
  cursor: crosshair; touch-action: pan-y;
}
.labnet-panel .plot svg { width: 100%; height: 100px; overflow: hidden; }
.labnet-panel .plot svg:focus-visible { outline: 2px solid var(--accent); outline-offset: -2px; }
.labnet-panel .plot span {
  position: absolute; left: 4px; padding: 1px 2px; font-size: 10px; line-height: 1; pointer-events: none;
  color: var(--soft); background: color-mix(in srgb, var(--paper) 80%, transparent);
}
.labnet-panel .plot .high { top: 0; }
.labnet-panel .plot .low { bottom: 2px; }
.labnet-panel .plot .empty { top: 50%; font-size: 12px; }
.labnet-panel .plot :is(.cursor, .marked) { position: absolute; top: 14px; bottom: 0; pointer-events: none; }
.labnet-panel .plot .cursor { border-left: 1px solid var(--soft); }
.labnet-panel .plot .marked { background: color-mix(in srgb, var(--accent) 20%, transparent); }
.labnet-panel path.faint { opacity: 0.35; }
.labnet-panel .name-0 { color: var(--accent); }
.labnet-panel .name-1 { color: light-dark(#b3541e, #f0a36b); }
.labnet-panel .name-2 { color: light-dark(#1a7f45, #4cc38a); }
.labnet-panel .name-3 { color: light-dark(#8b3fa8, #d59bea); }
.labnet-panel .name-4 { color: var(--bad); }
.labnet-panel .name-5 { color: var(--ink); }
.labnet-panel path.line-1 { stroke: light-dark(#b3541e, #f0a36b); }
.labnet-panel path.line-2 { stroke: light-dark(#1a7f45, #4cc38a); }
.labnet-panel path.line-3 { stroke: light-dark(#8b3fa8, #d59bea); stroke-dasharray: 6 3; }
.labnet-panel path.line-4 { stroke: light-dark(#b3261e, #ff8f87); stroke-dasharray: 2 3; }
.labnet-panel path.line-5 { stroke: var(--ink); stroke-dasharray: 8 3 2 3; }
.labnet-panel .tables { display: flex; flex-wrap: wrap; gap: 0 24px; margin-top: 8px; align-items: flex-start; }
.labnet-panel details[open] { flex: 1 0 100%; }
.labnet-panel summary { cursor: pointer; min-height: 24px; font-size: 12px; color: var(--soft); }
.labnet-panel .bounded { height: 132px; overflow: auto; }
.labnet-panel details:last-child :is(th, td) { text-align: left; }
.labnet-panel details:last-child td:last-child { white-space: normal; overflow-wrap: anywhere; }
.labnet-panel .axis { display: flex; justify-content: space-between; color: var(--soft); font-size: 11px; min-height: 16px; }
.labnet-panel h3 { font: inherit; font-size: 12px; color: var(--soft); margin: 10px 0 2px; }
.labnet-panel .kernels { margin-top: 8px; }
.labnet-panel .kernels h3:empty { display: none; }
.labnet-panel .kernels th:first-child { overflow: hidden; text-overflow: ellipsis; max-width: 26ch; }
.labnet-panel .kernels .share {
  width: 130px;
  background: linear-gradient(to right, color-mix(in srgb, var(--accent) 28%, transparent) var(--share), transparent 0);
}
.labnet-panel .tree ul { list-style: none; margin: 0; padding-left: 18px; border-left: 1px solid var(--line); }
.labnet-panel .tree > ul { padding-left: 0; border-left: 0; }
.labnet-panel .tree li { margin: 2px 0; overflow-wrap: anywhere; }
.labnet-panel .tree .edge { font-weight: 600; margin-right: 6px; }
.labnet-panel .hidden {
  position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; margin: 0;
}
@container (max-width: 760px) { .labnet-panel :is([data-column=p90], [data-column=received]) { display: none; } }
@container (max-width: 620px) { .labnet-panel :is([data-column="in flight"], .spark) { display: none; } }
@container (max-width: 480px) {
  .labnet-panel .kernels [data-column=each] { display: none; }
  .labnet-panel [data-column=sent] { display: none; }
  .labnet-panel .controls { margin-left: 0; width: 100%; }
  .labnet-panel :is(th, td) { padding: 3px 5px; }
}
@container (max-width: 330px) {
  .labnet-panel [data-column=rate] { display: none; }
  .labnet-panel :is(th, td) { padding: 3px 3px; font-size: 12px; }
}
.labnet-panel:is([data-state=unreachable], [data-state=silent]) :is(tbody, .curves, .tree ul),
.labnet-panel .old ul { color: var(--soft); --ink: var(--soft); --accent: var(--soft); }
body:has(> main[data-labnet-page]) { margin: 16px; background: light-dark(#f4f6f9, #0f1217); }
main[data-labnet-page] .labnet-panel { margin: 0 auto; }
`;
